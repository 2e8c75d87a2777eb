"""routing.md, executed: live tokens in a list, everything recomputed after every step.

"It fires when no live token is on blockers(n)" is looked up in the list of live tokens; nothing is counted.

What routing.md leaves open, and what is taken here:
- The depth of an entry's token is 0; passing nodes count like any other.
- `join: any` appends the predecessor's place in `workflow.nodes` when it fires; an entry appends nothing.
- The `output` that an edge's condition sees is the output of the node that the edge leaves.
- "Several arrived" means from several predecessors; two arrivals from one predecessor are one value.
- A failed task with `on_error` counts as an execution that emitted, and sets no `ctx` output.
- A branch without a true rule and without default fails as `no_branch`, a transform whose expression errs as
  `expression`; both for good and without `on_error`, which is for tasks.
- "Strictly in L": in L, and L not in it. Of two loops that lie in each other neither starts the other afresh.
- The innermost of several loops around a node has the smallest body, of equal ones the first in the document.
- The counts of a loop that was left stay until an outer loop goes back.
- The `iteration` of a loop's own execution is the one its condition sees.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.reference.expressions import ExpressionError, condition, evaluate
from tests.reference.graph import Graph

TASKS = ("agent", "function", "http", "sql")
MAX_STEPS = 20_000

Key = tuple[int, tuple[int, ...]]  # (depth, lane)
BEFORE_ENTRY: Key = (-1, ())


class Completed(NamedTuple):
    value: Any


class Failed(NamedTuple):
    error_class: str
    message: str = ""
    retryable: bool = False


OutcomeOf = Callable[[str, int, int, Any], Completed | Failed]
"""(node, attempt from 1, iteration, the `output` that arrived) -> its outcome; a function of these alone."""


class StuckError(AssertionError):
    """Live tokens wait, and none of them can ever fire."""


class Arrival(NamedTuple):
    key: Key
    value: Any


class Execution(NamedTuple):
    """One token's execution: `output` is what arrived, `args` what a function's args rendered to."""

    node: str
    iteration: int
    output: str  # JSON
    args: str | None  # JSON
    result: str  # JSON: the value, or {"error": class}
    attempts: int = 1


@dataclass(eq=False)
class Token:
    node: str
    type: str
    state: str  # waiting, running, failed (only where failures are stalled)
    arrivals: dict[str | None, Arrival]
    key: Key = BEFORE_ENTRY
    iteration: int = 0
    output: Any = None
    attempt: int = 1


@dataclass
class Result:
    """What a run did. `failures`: (node, error class) of each that ended it or could have come first."""

    status: str = "RUNNING"
    output: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    failures: set[tuple[str, str]] = field(default_factory=set)
    trace: list[Execution] = field(default_factory=list)
    loop_counts: dict[str, int] = field(default_factory=dict)
    condition_errors: Counter[tuple[str, int]] = field(default_factory=Counter)  # (node, iteration)

    @property
    def executions(self) -> Counter[Execution]:
        return Counter(self.trace)

    @property
    def order(self) -> list[str]:
        return [execution.node for execution in self.trace]


Choose = Callable[[Sequence[Token]], int]
"""The running tokens, oldest first -> the index of the one that completes next."""


def run(workflow: dict[str, Any], input: Any, outcome_of: OutcomeOf, choose: Choose) -> Result:
    """One run of the workflow, in the order that `choose` gives; it stops at the first failure."""
    return Interpreter(workflow, input, outcome_of, choose).run()


def judge(workflow: dict[str, Any], input: Any, outcome_of: OutcomeOf) -> Result:
    """What any order may do. A run that completes is simply run. A failure is stalled: its token stays alive,
    and the rest goes on as far as it can; so `trace` holds all that can happen before a failure, and
    `failures` all that can come first.
    """
    return Interpreter(workflow, input, outcome_of, lambda running: 0, stall_failures=True).run()


class Interpreter:
    def __init__(
        self,
        workflow: dict[str, Any],
        input: Any,
        outcome_of: OutcomeOf,
        choose: Choose,
        stall_failures: bool = False,
    ) -> None:
        self.workflow, self.input, self.outcome_of, self.choose = workflow, input, outcome_of, choose
        self.stall_failures = stall_failures
        self.graph = Graph(workflow)
        self.live: list[Token] = []
        # Executions of a node follow each other, so the last is the newest; `join: any` lets them overlap, and then the
        # highest (depth, lane) is.
        self.overlapping = any(self.graph.is_any(node) for node in self.graph.nodes)
        self.newest: dict[str, Arrival] = {}  # node -> its newest output
        self.last: dict[str, tuple[Key, bool]] = {}  # node -> its last execution, and whether it emitted
        self.result = Result()

    def run(self) -> Result:
        for entry in self.graph.entries:
            self.arrive(entry, None, Arrival(BEFORE_ENTRY, self.input))
        self.release()
        for _ in range(MAX_STEPS):
            running = [token for token in self.live if token.state == "running"]
            if not running or self.result.status == "FAILED":
                break
            self.execute(running[self.choose(running)])
            self.release()
        else:
            raise StuckError("the run does not end")
        return self.end()

    def end(self) -> Result:
        result = self.result
        result.outputs = {node: value for node, (_, value) in self.newest.items()}
        result.loop_counts = {loop: count for loop, count in result.loop_counts.items() if count}
        if result.failures:
            result.status = "FAILED"
            return result
        if self.live:
            raise StuckError(f"waiting for ever: {[token.node for token in self.live]}")
        result.status = "COMPLETED"
        ends = [node for node in self.graph.nodes if node in self.last and not self.last[node][1]]
        result.output = result.outputs[ends[0]] if len(ends) == 1 else {node: result.outputs[node] for node in ends}
        return result

    # Tokens move

    def arrive(self, node: str, source: str | None, arrival: Arrival) -> None:
        if node not in self.graph.waits:
            self.live.append(token := Token(node, self.graph.type(node), "waiting", {source: arrival}))
            self.fire(token)
            return
        waiting = [token for token in self.live if token.node == node and token.state == "waiting"]
        if not waiting:
            self.live.append(Token(node, self.graph.type(node), "waiting", {source: arrival}))
        else:
            self.keep_newest(waiting[0].arrivals, source, arrival)

    def release(self) -> None:
        """Every waiting token with no live token on the blockers of its node fires."""
        alive = {token.node for token in self.live}
        for token in self.live:
            if token.state == "waiting" and not alive & self.graph.blockers[token.node]:
                self.fire(token)

    def fire(self, token: Token) -> None:
        graph, node = self.graph, token.node
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
        around = graph.innermost(node)
        token.iteration = self.count(around) if around else 0

    def arrived(self, token: Token) -> Any:
        values = {source: arrival.value for source, arrival in token.arrivals.items()}
        if None in values:
            return values[None]
        if token.type == "join" or len(values) > 1:
            return values
        return next(iter(values.values()))

    def count(self, loop: str) -> int:
        return self.result.loop_counts.get(loop, 0)

    def keep_newest(self, kept: dict[Any, Arrival], name: Any, new: Arrival) -> None:
        if name not in kept or not self.overlapping or new.key >= kept[name].key:
            kept[name] = new

    # Nodes execute

    def execute(self, token: Token) -> None:
        if token.type in TASKS:
            self.task(token)
        elif token.type == "transform":
            self.transform(token)
        elif token.type == "branch":
            self.branch(token)
        elif token.type == "loop":
            self.loop(token)
        else:
            self.complete(token, token.output)

    def task(self, token: Token) -> None:
        try:
            args = self.render_args(token)
        except ExpressionError as error:
            return self.fail(token, Failed("template", str(error)))
        outcome = self.outcome_of(token.node, token.attempt, token.iteration, token.output)
        if isinstance(outcome, Completed):
            return self.complete(token, outcome.value, args=args)
        if outcome.retryable and token.attempt < self.max_attempts(token.node):
            token.attempt += 1
            return None
        return self.fail(token, outcome, args)

    def transform(self, token: Token) -> None:
        names = self.variables(token, token.output)
        try:
            value = {key: evaluate(text, names) for key, text in self.graph.config(token.node)["set"].items()}
        except ExpressionError as error:
            return self.fail(token, Failed("expression", str(error)))
        return self.complete(token, value)

    def branch(self, token: Token) -> None:
        config = self.graph.config(token.node)
        for rule in config["rules"]:
            if self.holds(rule["condition"], token, token.output):
                return self.complete(token, token.output, rule["next"])
        if "default" in config:
            return self.complete(token, token.output, config["default"])
        return self.fail(token, Failed("no_branch", "no rule is true, and there is no default"))

    def loop(self, token: Token) -> None:
        loop, config, counts = token.node, self.graph.config(token.node), self.result.loop_counts
        form, _ = self.graph.cores[loop]
        if form != "while" or any(source in self.graph.bodies[loop] for source in token.arrivals):
            counts[loop] = self.count(loop) + 1
        token.iteration = self.count(loop)
        if not self.holds(config["condition"], token, token.output):
            return self.complete(token, token.output, config["break_path"])
        if self.count(loop) >= config["max_iterations"]:
            return self.complete(token, token.output, config.get("timeout_path", config["break_path"]))
        for inner in self.graph.strictly_inner(loop):
            counts.pop(inner, None)
        return self.complete(token, token.output, [config["loop_back_to"]])

    # Tokens end

    def complete(self, token: Token, value: Any, targets: list[str] | None = None, args: Any = None) -> None:
        """The value is set in `ctx` and goes to the targets, or along the edges whose condition holds."""
        self.keep_newest(self.newest, token.node, Arrival(token.key, value))
        self.record(token, value, args)
        if targets is None:
            edges = self.graph.edges_of[token.node]
            tests = [edge.get("condition", {"expression": "true"}) for edge in edges]
            held = [self.holds(test, token, value) for test in tests]
            targets = [edge["to"] for edge, holds in zip(edges, held, strict=True) if holds]
        self.emit(token, targets, value)

    def fail(self, token: Token, failed: Failed, args: Any = None) -> None:
        error: dict[str, Any] = {"class": failed.error_class, "message": failed.message}
        error |= {"attempts": token.attempt, "node": token.node}
        self.record(token, {"error": failed.error_class}, args)
        handlers = self.graph.nodes[token.node].get("on_error") if token.type in TASKS else None
        if handlers:
            return self.emit(token, handlers, {"error": error})
        self.result.failures.add((token.node, failed.error_class))
        self.result.error = self.result.error or error
        token.state = "failed"
        if not self.stall_failures:
            self.result.status = "FAILED"
        return None

    def emit(self, token: Token, targets: Sequence[str], value: Any) -> None:
        if not self.overlapping or token.key >= self.last.get(token.node, (BEFORE_ENTRY, False))[0]:
            self.last[token.node] = (token.key, bool(targets))
        self.live.remove(token)
        for target in dict.fromkeys(targets):
            self.arrive(target, token.node, Arrival(token.key, value))

    def record(self, token: Token, result: Any, args: Any) -> None:
        rendered = None if args is None else as_json(args)
        self.result.trace.append(
            Execution(token.node, token.iteration, as_json(token.output), rendered, as_json(result), token.attempt)
        )

    # Expressions

    def holds(self, test: dict[str, Any], token: Token, output: Any) -> bool:
        try:
            return condition(test["expression"], self.variables(token, output))
        except ExpressionError:
            self.result.condition_errors[token.node, token.iteration] += 1
            return False

    def variables(self, token: Token, output: Any) -> dict[str, Any]:
        ctx = {node: {"output": value} for node, (_, value) in self.newest.items()}
        return {"input": self.input, "output": output, "ctx": ctx, "iteration": token.iteration}

    def render_args(self, token: Token) -> dict[str, Any] | None:
        """Args are literals, or strings that are exactly one `{{ }}`: then its value."""
        args = self.graph.config(token.node).get("args")
        if args is None:
            return None
        names = self.variables(token, token.output)
        rendered = dict(args)
        for name, text in args.items():
            if isinstance(text, str) and (template := re.fullmatch(r"\{\{(.*)\}\}", text)):
                rendered[name] = evaluate(template[1], names)
        return rendered

    def max_attempts(self, node: str) -> int:
        retry = self.graph.nodes[node].get("retry") or self.workflow.get("defaults", {}).get("retry", {})
        return int(retry.get("max_attempts", 1))


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
