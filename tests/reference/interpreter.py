"""routing.md, executed: live tokens in a list, everything recomputed after every step.

"It fires when no live token is on blockers(n)" is looked up in the list of live tokens; nothing is counted.

What routing.md leaves open, and what is taken here:
- The depth of an entry's token is 0, in an item too; passing nodes count like any other.
- `join: any` appends the predecessor's place in `workflow.nodes` when it fires; an entry appends nothing.
- The `output` that an edge's condition sees is the output of the node that the edge leaves.
- "Several arrived" means from several predecessors; two arrivals from one predecessor are one value.
- A failed node with `on_error` counts as an execution that emitted (if the list is not empty), and sets no
  `ctx` output; one that gave no output is not in the run's output.
- A branch without a true rule and without default fails as `no_branch`, a transform whose expression errs as
  `expression`; both for good and without `on_error`, which is not for them.
- "Strictly in L": in L, and L not in it. Of two loops that lie in each other neither starts the other afresh.
- The innermost of several loops around a node has the smallest body, of equal ones the first in the document.
- The counts of a loop that was left stay until an outer loop goes back.
- The `iteration` of a loop's own execution is the one its condition sees.
- What a branch or transform does wrong inside an item fails the item as a task would.
- A null in a template fails the task, and so an item that is null fails the task that renders it.
- An item that fails under `fail` holds its place under `max_parallel`: no other starts in its stead.
- A node's attempts in {error: ...} are those of the token: 1 for what is not retried (map, human, wait, workflow).
"""

import re
from collections.abc import Sequence
from itertools import count
from typing import Any

from tests.reference.expressions import ExpressionError, condition, evaluate
from tests.reference.graph import FAILING, TASKS, Graph
from tests.reference.records import (
    BEFORE_ENTRY,
    Arrival,
    Choose,
    Completed,
    Execution,
    Failed,
    Mend,
    OutcomeOf,
    Result,
    Scope,
    StuckError,
    Token,
    as_json,
)  # fmt: skip

MAX_STEPS = 20_000


def run(workflow: dict[str, Any], input: Any, outcome_of: OutcomeOf, choose: Choose) -> Result:
    """One run of the workflow, in the order that `choose` gives; it stops at the first failure."""
    return Interpreter(workflow, input, outcome_of, choose).run()


def judge(
    workflow: dict[str, Any],
    input: Any,
    outcome_of: OutcomeOf,
    mend: Mend | None = None,
    max_steps: int = MAX_STEPS,
) -> Result:
    """What any order may do. A run that completes is simply run. A failure is stalled: its token stays alive,
    and the rest goes on as far as it can; so `trace` holds all that can happen before a failure, and
    `failures` all that can come first. Only then the map or the item around it fails.

    With `mend`, the run is retried until it ends: what would end it gives `mend(...)` instead.
    """
    return Interpreter(workflow, input, outcome_of, lambda running: 0, stall_failures=True, mend=mend).run(max_steps)


class Interpreter:
    def __init__(
        self,
        workflow: dict[str, Any],
        input: Any,
        outcome_of: OutcomeOf,
        choose: Choose,
        stall_failures: bool = False,
        mend: Mend | None = None,
    ) -> None:
        self.workflow, self.input, self.outcome_of, self.choose = workflow, input, outcome_of, choose
        self.stall_failures, self.mend = stall_failures, mend
        self.root = Scope(Graph(workflow))
        self.scopes = [self.root]  # the live ones; one inside another comes after it
        self.serials = count()
        self.log: list[tuple[Execution, Scope]] = []
        self.result = Result()

    def run(self, max_steps: int = MAX_STEPS) -> Result:
        self.enter(self.root, self.input)
        for _ in range(max_steps):
            self.settle()
            alive = [token for scope in self.scopes for token in scope.live]
            running = sorted((t for t in alive if t.state == "running"), key=lambda token: token.serial)
            if self.result.status == "FAILED":
                break
            if running:
                self.execute(running[self.choose(running)])
            elif not self.fail_stalled():
                break
        else:
            raise StuckError("the run does not end")
        return self.end()

    def end(self) -> Result:
        result, root = self.result, self.root
        result.outputs = {node: value for node, (_, value) in root.newest.items()}
        result.loop_counts = {loop: count for loop, count in root.loop_counts.items() if count}
        completed = not result.failures
        for execution, scope in self.log:
            cut = completed and any(one.optional for one in scope.chain)
            (result.extra if cut else result.trace).append(execution)
        if not completed:
            result.status = "FAILED"
            return result
        if root.live:
            raise StuckError(f"waiting for ever: {[token.node for token in root.live]}")
        result.status = "COMPLETED"
        ends = [node for node in root.graph.nodes if node in root.newest and not root.last[node][1]]
        result.output = result.outputs[ends[0]] if len(ends) == 1 else {node: result.outputs[node] for node in ends}
        return result

    # Tokens move

    def enter(self, scope: Scope, value: Any) -> None:
        for entry in scope.graph.entries:
            self.arrive(scope, entry, None, Arrival(BEFORE_ENTRY, value))

    def settle(self) -> None:
        """What waited and can fire does; items in which nothing is left are over."""
        while True:
            for scope in self.scopes:
                self.release(scope)
            empty = [scope for scope in self.scopes if scope.map and not scope.live]
            if not empty:
                return
            scope = empty[-1]
            exit = scope.newest.get(scope.graph.exits[0])
            self.end_item(scope, exit.value if exit else None)

    def release(self, scope: Scope) -> None:
        """Every waiting token with no live token on the blockers of its node fires."""
        alive = {token.node for token in scope.live}
        for token in scope.live:
            if token.state == "waiting" and not alive & scope.graph.blockers[token.node]:
                self.fire(token)

    def arrive(self, scope: Scope, node: str, source: str | None, arrival: Arrival) -> None:
        waiting = [token for token in scope.live if token.node == node and token.state == "waiting"]
        if node in scope.graph.waits and waiting:
            return self.keep_newest(scope, waiting[0].arrivals, source, arrival)
        token = Token(node, scope.graph.type(node), scope, next(self.serials), "waiting", {source: arrival})
        scope.live.append(token)
        scope.forked |= len(scope.live) > 1
        if node not in scope.graph.waits:
            self.fire(token)
        return None

    def fire(self, token: Token) -> None:
        graph, node = token.scope.graph, token.node
        depth = 1 + max(arrival.key[0] for arrival in token.arrivals.values())
        lane: tuple[int, ...] = ()
        if node not in graph.waits:
            ((source, arrival),) = token.arrivals.items()
            lane = arrival.key[1]
            if graph.is_any(node) and source is not None:
                lane = (*lane, graph.position[source])
        token.key = (depth, lane)
        token.state = "running"
        token.output = self.arrived(token)
        loop, map = graph.innermost(node), token.scope.map
        token.iteration = self.count(token.scope, loop) if loop else map.iteration if map else 0

    def arrived(self, token: Token) -> Any:
        values = {source: arrival.value for source, arrival in token.arrivals.items()}
        if None in values:
            return values[None]
        if token.type == "join" or len(values) > 1:
            return values
        return next(iter(values.values()))

    def count(self, scope: Scope, loop: str) -> int:
        return scope.loop_counts.get(loop, 0)

    def keep_newest(self, scope: Scope, kept: dict[Any, Arrival], name: Any, new: Arrival) -> None:
        """Executions of a node follow each other, so the last is the newest; `join: any` lets them overlap, and then
        the highest (depth, lane) is."""
        if name not in kept or not scope.graph.overlapping or new.key >= kept[name].key:
            kept[name] = new

    # Nodes execute

    def execute(self, token: Token) -> None:
        if token.type in TASKS or token.type in ("human", "wait", "workflow"):
            self.task(token)
        elif token.type in ("map", "transform", "branch", "loop"):
            getattr(self, token.type)(token)
        else:
            self.complete(token, token.output)

    def task(self, token: Token) -> None:
        """A task, or what waits to be answered: the script knows what comes."""
        try:
            args = self.render_args(token)
        except ExpressionError as error:
            return self.fail(token, Failed("template", str(error)))
        config = token.scope.graph.config(token.node)
        if token.type == "wait" and "event" not in config:
            return self.complete(token, token.output)
        outcome = self.outcome_of(token.node, token.attempt, token.iteration, token.output)
        if isinstance(outcome, Completed):
            return self.complete(token, outcome.value, args=args)
        if outcome.retryable and token.attempt < self.max_attempts(token):
            token.attempt += 1
            return None
        if self.mend and self.ends_run(token, outcome):
            return self.complete(token, self.mend(token.node, token.iteration, token.output), args=args)
        return self.fail(token, outcome, args)

    def transform(self, token: Token) -> None:
        names, fields = self.variables(token, token.output), token.scope.graph.config(token.node)["set"]
        try:
            value = {key: evaluate(text, names) for key, text in fields.items()}
        except ExpressionError as error:
            return self.fail(token, Failed("expression", str(error)))
        return self.complete(token, value)

    def branch(self, token: Token) -> None:
        config = token.scope.graph.config(token.node)
        for rule in config["rules"]:
            if self.holds(rule["condition"], token, token.output):
                return self.complete(token, token.output, rule["next"])
        if "default" in config:
            return self.complete(token, token.output, config["default"])
        return self.fail(token, Failed("no_branch", "no rule is true, and there is no default"))

    def loop(self, token: Token) -> None:
        scope, loop, graph, counts = token.scope, token.node, token.scope.graph, token.scope.loop_counts
        config, (form, _) = graph.config(loop), graph.cores[loop]
        if form != "while" or any(source in graph.bodies[loop] for source in token.arrivals):
            counts[loop] = self.count(scope, loop) + 1
        token.iteration = self.count(scope, loop)
        if not self.holds(config["condition"], token, token.output):
            return self.complete(token, token.output, config["break_path"])
        if self.count(scope, loop) >= config["max_iterations"]:
            return self.complete(token, token.output, config.get("timeout_path", config["break_path"]))
        for inner in graph.strictly_inner(loop):
            counts.pop(inner, None)
        return self.complete(token, token.output, [config["loop_back_to"]])

    # Maps

    def map(self, token: Token) -> None:
        try:
            items = evaluate(token.scope.graph.config(token.node)["items"], self.variables(token, token.output))
        except ExpressionError as error:
            return self.fail(token, Failed("expression", str(error)))
        if not isinstance(items, list):
            return self.fail(token, Failed("invalid_input", "items is no list"))
        token.items, token.state = items, "mapping"
        return self.start_items(token)

    def start_items(self, token: Token) -> None:
        if len(token.results) == len(token.items):
            return self.complete(token, [token.results[index] for index in range(len(token.items))])
        inside = token.scope.graph.inside[token.node]
        while token.started < len(token.items) and token.started - len(token.results) < token.at_once:
            scope = Scope(inside, token, token.started, token.items[token.started])
            token.started += 1
            self.scopes.append(scope)
            self.enter(scope, scope.item)
        return None

    def end_item(self, scope: Scope, result: Any) -> None:
        assert scope.map
        scope.map.results[scope.index] = result
        self.discard([scope])
        self.start_items(scope.map)

    def discard(self, scopes: list[Scope]) -> None:
        """They are over, and with them all that lies in them."""
        self.scopes = [one for one in self.scopes if not any(scope in one.chain for scope in scopes)]

    def fail_item(self, scope: Scope, error: dict[str, Any]) -> None:
        """Something failed in the item, for good and without `on_error`."""
        assert scope.map
        map = scope.map
        if map.collects:
            scope.optional = scope.forked
            return self.end_item(scope, {"error": error})
        beside = map.at_once > 1 and map.started > 1
        for one in {id(one): one for _, logged in self.log for one in logged.chain if one.map is map}.values():
            one.optional = beside or (one is scope and scope.forked)
        self.discard([one for one in self.scopes if one.map is map])
        return self.fail(map, Failed("item", "an item failed"))

    def fail_stalled(self) -> bool:
        """Nothing runs any more: the innermost item with a stalled failure fails; whether there was one."""
        for scope in reversed(self.scopes):
            stalled = [token.error for token in scope.live if token.state == "failed"]
            if stalled and scope.map:
                told = {as_json(error | {"message": ""}) for error in stalled}
                self.result.ambiguous |= scope.map.collects and len(told) > 1
                self.fail_item(scope, stalled[0])
                return True
        return False

    # Tokens end

    def complete(self, token: Token, value: Any, targets: list[str] | None = None, args: Any = None) -> None:
        """The value is set in `ctx` and goes to the targets, or along the edges whose condition holds."""
        self.keep_newest(token.scope, token.scope.newest, token.node, Arrival(token.key, value))
        self.record(token, value, args)
        if targets is None:
            edges = token.scope.graph.edges_of[token.node]
            tests = [edge.get("condition", {"expression": "true"}) for edge in edges]
            held = [self.holds(test, token, value) for test in tests]
            targets = [edge["to"] for edge, holds in zip(edges, held, strict=True) if holds]
        self.emit(token, targets, value)

    def fail(self, token: Token, failed: Failed, args: Any = None) -> None:
        error: dict[str, Any] = {"class": failed.error_class, "message": failed.message}
        error |= {"attempts": token.attempt, "node": token.node}
        self.record(token, {"error": failed.error_class}, args)
        if (handlers := self.handlers(token, failed)) is not None:
            return self.emit(token, handlers, {"error": error})
        token.state, token.error = "failed", error
        if token.scope.map and not self.stall_failures:
            return self.fail_item(token.scope, error)
        if not token.scope.map:
            self.result.failures.add((token.node, failed.error_class))
            self.result.error = self.result.error or error
            if not self.stall_failures:
                self.result.status = "FAILED"
        return None

    def handlers(self, token: Token, failed: Failed) -> list[str] | None:
        """The nodes that take over: of a deadline those of its own path."""
        node, config = token.scope.graph.nodes[token.node], token.scope.graph.config(token.node)
        if failed.error_class == "deadline" and "deadline_path" in config:
            return list(config["deadline_path"])
        return node.get("on_error") if token.type in FAILING else None

    def ends_run(self, token: Token, failed: Failed) -> bool:
        """Nothing takes over, here or at a map around it."""
        if self.handlers(token, failed) is not None:
            return False
        map = token.scope.map
        return map is None or (not map.collects and self.ends_run(map, Failed("item")))

    def emit(self, token: Token, targets: Sequence[str], value: Any) -> None:
        scope = token.scope
        if not scope.graph.overlapping or token.key >= scope.last.get(token.node, (BEFORE_ENTRY, False))[0]:
            scope.last[token.node] = (token.key, bool(targets))
        scope.live.remove(token)
        for target in dict.fromkeys(targets):
            self.arrive(scope, target, token.node, Arrival(token.key, value))

    def record(self, token: Token, result: Any, args: Any) -> None:
        rendered = None if args is None else as_json(args)
        execution = Execution(
            token.node, token.iteration, as_json(token.output), rendered, as_json(result), token.attempt,
            token.scope.path,
        )  # fmt: skip
        self.log.append((execution, token.scope))

    # Expressions

    def holds(self, test: dict[str, Any], token: Token, output: Any) -> bool:
        try:
            return condition(test["expression"], self.variables(token, output))
        except ExpressionError:
            self.result.condition_errors[token.node, token.iteration] += 1
            return False

    def variables(self, token: Token, output: Any) -> dict[str, Any]:
        chain = token.scope.chain
        ctx = {node: {"output": value} for scope in chain for node, (_, value) in scope.newest.items()}
        names = {"input": self.input, "output": output, "ctx": ctx, "iteration": token.iteration}
        if token.scope.map:
            names |= {"item": token.scope.item, "index": token.scope.index}
        return names

    def render_args(self, token: Token) -> dict[str, Any] | None:
        """Args are literals, or strings that are exactly one `{{ }}`: then its value, which may not be null."""
        args = token.scope.graph.config(token.node).get("args")
        if args is None:
            return None
        names = self.variables(token, token.output)
        rendered = dict(args)
        for name, text in args.items():
            if isinstance(text, str) and (template := re.fullmatch(r"\{\{(.*)\}\}", text)):
                rendered[name] = evaluate(template[1], names)
                if rendered[name] is None:
                    raise ExpressionError(f"{text} is null")
        return rendered

    def max_attempts(self, token: Token) -> int:
        retry = token.scope.graph.nodes[token.node].get("retry") or self.workflow.get("defaults", {}).get("retry", {})
        return int(retry.get("max_attempts", 1)) if token.type in TASKS else 1
