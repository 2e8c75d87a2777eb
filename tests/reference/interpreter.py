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
- `join: any` anywhere in the document lets executions overlap; what it ranked is forgotten where a patch removes it.
- A node of a gone revision is not in `ctx`; its output counts for the run's.
"""

import re
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

from tests.reference.expressions import ExpressionError, condition, evaluate
from tests.reference.graph import FAILING, OPENED, TASKS, Graph
from tests.reference.maps import Maps
from tests.reference.records import (
    BEFORE_ENTRY,
    Arrival,
    Begun,
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
from tests.reference.switch import switch

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


class Interpreter(Maps):
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
        self.start()
        for _ in range(max_steps):
            if not self.advance():
                return self.end()
        raise StuckError("the run does not end")

    def start(self) -> None:
        self.enter(self.root, self.input)
        self.settle()

    def advance(self) -> bool:
        """Execute the token that is chosen; False if there is none, or the run has failed."""
        alive = [token for scope in self.scopes for token in scope.live]
        running = sorted((t for t in alive if t.state == "running"), key=lambda token: token.serial)
        if self.result.status == "FAILED" or not (running or self.fail_stalled()):
            return False
        if running:
            self.execute(running[self.choose(running)])
        self.settle()
        return True

    def end(self) -> Result:
        result, root = self.result, self.root
        result.outputs = dict(root.newest)
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
        ends = [node for node in root.newest if not root.emitted[node]]
        result.output = result.outputs[ends[0]] if len(ends) == 1 else {node: result.outputs[node] for node in ends}
        return result

    def patch(
        self, workflow: dict[str, Any], *, cancel: bool = False, restart: bool = False, answered: Collection[Token] = ()
    ) -> None:
        """Go over to `workflow` now. Raises PatchRefusedError."""
        switch(self, workflow, cancel, restart, answered)

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
            self.end_item(scope, scope.newest.get(scope.graph.exits[0]))

    def release(self, scope: Scope) -> None:
        """Every waiting token with no live token on the blockers of its node fires."""
        alive = {token.node for token in scope.live}
        for token in scope.live:
            waits = token.node in scope.graph.waits
            if token.state == "waiting" and not (waits and alive & scope.graph.blockers[token.node]):
                self.fire(token, waited=True)

    def arrive(self, scope: Scope, node: str, source: str | None, arrival: Arrival) -> None:
        waiting = [token for token in scope.live if token.node == node and token.state == "waiting"]
        if node in scope.graph.waits and waiting:
            waiting[0].deepest = max(waiting[0].deepest, arrival.key[0])
            return self.keep_newest(waiting[0].arrivals, source, arrival)
        token = Token(
            node, scope.graph.type(node), scope, next(self.serials), "waiting", {source: arrival}, arrival.key[0]
        )
        scope.live.append(token)
        scope.forked |= len(scope.live) > 1
        if node not in scope.graph.waits:
            self.fire(token)
        return None

    def fire(self, token: Token, waited: bool = False) -> None:
        graph, node = token.scope.graph, token.node
        lane: tuple[int, ...] = ()
        if not waited:
            ((source, arrival),) = token.arrivals.items()
            lane = arrival.key[1]
            if graph.is_any(node) and source is not None:
                lane = (*lane, graph.position[source])
        token.key = (1 + token.deepest, lane)
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

    def keep_newest(self, kept: dict[Any, Arrival], name: Any, new: Arrival) -> None:
        """Executions of a node follow each other, so the last is the newest; `join: any` lets them overlap, and then
        the highest (depth, lane) is."""
        if name not in kept or not self.root.graph.overlapping or new.key >= kept[name].key:
            kept[name] = new

    def is_newest(self, token: Token, of: str) -> bool:
        """Likewise of what a node gave and whether it emitted, each by itself."""
        name, ranks = (token.node, of), token.scope.ranks
        if self.root.graph.overlapping:
            ranks[name] = max(token.key, ranks.get(name, token.key))
        return ranks.get(name, token.key) == token.key

    # Nodes execute

    def execute(self, token: Token) -> None:
        if token.type in (*TASKS, *OPENED):
            self.task(token)
        elif token.type in ("map", "transform", "branch", "loop"):
            getattr(self, token.type)(token)
        else:
            self.complete(token, token.output)

    def begin(self, token: Token) -> Begun:
        """A task, or what waits to be answered, takes on its definition: a patch changes it no more."""
        config = token.scope.graph.config(token.node)
        try:
            token.begun = Begun(config, self.render_args(token))
        except ExpressionError as error:
            token.begun = Begun(config, None, str(error))
        return token.begun

    def task(self, token: Token) -> None:
        """The script knows what comes."""
        begun = token.begun or self.begin(token)
        if begun.error is not None:
            return self.fail(token, Failed("template", begun.error))
        if token.type == "wait" and "event" not in begun.config:
            return self.complete(token, token.output)
        outcome = self.outcome_of(token.node, token.attempt, token.iteration, token.output)
        if isinstance(outcome, Completed):
            return self.complete(token, outcome.value, args=begun.args)
        if token.type == "workflow" and outcome.error_class not in ("child_cancelled", "timeout"):
            outcome = Failed("child_failed", outcome.message)
        if outcome.retryable and token.attempt < self.max_attempts(token):
            token.attempt, token.begun = token.attempt + 1, None
            return None
        if self.mend and self.ends_run(token, outcome):
            return self.complete(token, self.mend(token.node, token.iteration, token.output), args=begun.args)
        return self.fail(token, outcome, begun.args)

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

    # Tokens end

    def complete(self, token: Token, value: Any, targets: list[str] | None = None, args: Any = None) -> None:
        """The value is set in `ctx` and goes to the targets, or along the edges whose condition holds."""
        if self.is_newest(token, "output"):
            token.scope.newest[token.node] = value
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
        if self.is_newest(token, "emitted"):
            scope.emitted[token.node] = bool(targets)
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
        known = [(scope, node) for scope in chain for node in scope.newest if node in scope.graph.nodes]
        ctx = {node: {"output": scope.newest[node]} for scope, node in known}
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
