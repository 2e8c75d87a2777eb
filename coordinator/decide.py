"""decide: what happens to a run when a token's work is done. Pure: no I/O, no clock, no randomness of its own.

completed ── record output ── edges / rules / loop ──► targets ──► waits?  ► arrival (the script merges and releases)
    │                                  ▲                  │       task?   ► fire on its stream
    │                                  └── in passing ◄───┴─────── branch, loop, transform, join: decided here
    └─ failed ── attempts left ► retry   ── on_error ► its targets   ── else ► the run fails
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.expressions.error import EvaluationError
from schemas.expressions.expression import Expression
from schemas.ir import IR, Node
from schemas.messages import Failure
from schemas.plan import Arrival, Output, Plan, Rank
from schemas.values import ValueTooLarge, encode_value
from schemas.variables import arrived_output, make_variables

MAX_BACKOFF_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class View:
    """What decide sees of the run and of the token whose work is done. Values are parsed JSON."""

    node_id: str
    attempt: int
    iteration: int
    depth: int
    lane: str
    failures: int  # attempts that failed before this one
    scope: str
    input: Any
    run: Mapping[str, Any]  # the variable `run`
    ctx: Mapping[str, Any] = field(default_factory=dict)  # node -> output, those that routing may read
    passes: Mapping[str, int] = field(default_factory=dict)  # loop -> passes completed
    arrived: Mapping[str, Any] = field(default_factory=dict)  # deciding tokens only


@dataclass(frozen=True, slots=True)
class Done:
    """A task that gave a result: the value, and the text it is stored as."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Move:
    """The token moves on."""

    plan: Plan
    facts: Mapping[str, Any]  # for the event: decisions, condition_errors, error


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The task gets another attempt after `delay_ms`."""

    delay_ms: int
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """The run fails."""

    error: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


Decision = Move | TryAgain | Fail


class NodeFailed(Exception):
    """A node decided in passing has failed for good."""

    def __init__(self, klass: str, message: str) -> None:
        super().__init__(message)
        self.klass = klass


def decide(ir: IR, view: View, outcome: Done | Failure | None, chance: float) -> Decision:
    """The decision for one completed token.

    `outcome` is None for a deciding token (a node that the coordinator itself decides). `chance` in [0, 1) spreads
    the backoff. Never raises for anything that a workflow or a result can contain.
    """
    node = ir.nodes[view.node_id]
    if isinstance(outcome, Failure):
        return _failed(ir, view, node, outcome, chance)
    routing = _Routing(ir, view)
    try:
        if outcome is None:
            routing.execute(node, view.arrived, view.depth, view.lane)
        else:
            routing.leave(node, outcome.value, outcome.text, view.depth, view.lane, view.iteration)
    except NodeFailed as failed:
        return Fail(_error(failed.klass, str(failed), view.attempt or 1, node.id), routing.facts())
    routing.pass_through()
    return Move(routing.plan, routing.facts())


def _failed(ir: IR, view: View, node: Node, failure: Failure, chance: float) -> Decision:
    attempts = view.failures + 1
    error = _error(failure.klass, failure.message, attempts, node.id)
    if failure.retryable and attempts < node.retry.max_attempts:
        return TryAgain(_backoff_ms(node, view.failures, chance), error)
    if node.on_error is None:
        return Fail(error)
    routing = _Routing(ir, view)
    routing.plan.failed = True
    routing.emit(node, node.on_error, {"error": error}, encode_value({"error": error})[0], view.depth, view.lane)
    routing.pass_through()
    routing.plan.outputs.insert(0, Output(node.id, None, (view.depth, view.lane), ends=not node.on_error))
    return Move(routing.plan, {**routing.facts(), "error": error})


def _error(klass: str, message: str, attempts: int, node_id: str) -> dict[str, Any]:
    return {"class": klass, "message": message, "attempts": attempts, "node": node_id}


def _backoff_ms(node: Node, failures: int, chance: float) -> int:
    retry = node.retry
    # Exponents are capped: 1000 ** 100 overflows, and the result is capped anyway.
    base = min(retry.backoff_ms * retry.backoff_multiplier ** min(failures, 30), MAX_BACKOFF_MS)
    return int(base * (1 + retry.jitter * chance))


class _Routing:
    """One walk from a node whose work is done over everything that is decided in passing.

    A node is decided at most once in a step: a loop that goes round without a task takes a step a pass, so that no step
    is long and an event names each node's output once.
    """

    def __init__(self, ir: IR, view: View) -> None:
        self.ir = ir
        self.view = view
        self.plan = Plan(scope=view.scope)
        self.ctx = dict(view.ctx)
        self.passes = dict(view.passes)
        self.decisions: list[dict[str, Any]] = []
        self.condition_errors: list[dict[str, Any]] = []
        self.passing: deque[tuple[Node, Arrival, Any]] = deque()
        self.decided = {view.node_id}

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        if self.decisions:
            facts["decisions"] = self.decisions
        if self.condition_errors:
            facts["condition_errors"] = self.condition_errors
        return facts

    # -- a node's work is done -------------------------------------------------------------------
    def leave(self, node: Node, value: Any, text: str, depth: int, lane: str, iteration: int) -> None:
        """Record a node's output and send it along its edges, all whose condition holds."""
        targets = [edge.to for edge in node.edges if edge.condition is None]
        if len(targets) < len(node.edges):
            targets = self._edges_that_hold(node, value, iteration)
        self._record(node, value, text, depth, lane, ends=not targets)
        self.emit(node, targets, value, text, depth, lane)

    def _edges_that_hold(self, node: Node, value: Any, iteration: int) -> list[str]:
        variables = self._variables(node, value, iteration)
        targets = [
            edge.to for edge in node.edges if edge.condition is None or self._holds(node, edge.condition, variables)
        ]
        self.decisions.append({"node": node.id, "edges": targets})
        return targets

    def _record(self, node: Node, value: Any, text: str, depth: int, lane: str, *, ends: bool) -> None:
        self.plan.outputs.append(Output(node.id, text, (depth, lane), ends))
        self.ctx[node.id] = value

    def emit(
        self, node: Node, targets: list[str] | tuple[str, ...], value: Any, text: str, depth: int, lane: str
    ) -> None:
        """A group of targets, each once."""
        for target in dict.fromkeys(targets):
            self._arrive(self.ir.nodes[target], node, value, text, (depth, lane))

    def _arrive(self, target: Node, source: Node, value: Any, text: str, rank: Rank) -> None:
        depth, lane = rank[0] + 1, rank[1]
        if target.any:
            lane += f"{source.analysis.index:04x}"
        if target.analysis.waits:
            self.plan.arrivals.append(Arrival(target.id, source.id, text, rank, depth, ""))
            return
        arrival = Arrival(target.id, source.id, text, rank, depth, lane)
        if target.is_task or target.id in self.decided:
            self.plan.fires.append(arrival)
        else:
            self.decided.add(target.id)
            self.passing.append((target, arrival, value))

    def pass_through(self) -> None:
        """Decide every node that was reached in passing."""
        while self.passing:
            node, arrival, value = self.passing.popleft()
            try:
                self.execute(node, {arrival.source: value}, arrival.depth, arrival.lane)
            except NodeFailed:
                # It fails as a token of its own, so that what came before it counts as done and `retry` starts there.
                self.plan.fires.append(arrival)

    # -- nodes decided here ------------------------------------------------------------------------
    def execute(self, node: Node, arrived: Mapping[str, Any], depth: int, lane: str) -> None:
        """A branch, loop, transform or join. Raises NodeFailed before it has changed anything."""
        value = arrived_output(node.type, node.analysis.waits, self.view.input, arrived)
        if node.type == "loop":
            self._loop(node, value, arrived, depth, lane)
            return
        iteration = self.passes.get(node.analysis.within or "", 0)
        if node.type == "branch":
            self._branch(node, value, iteration, depth, lane)
            return
        if node.type == "transform":
            value = self._transform(node, value, iteration)
        self.leave(node, value, self._text(value), depth, lane, iteration)

    def _branch(self, node: Node, value: Any, iteration: int, depth: int, lane: str) -> None:
        variables = self._variables(node, value, iteration)
        for number, rule in enumerate(node.rules):
            if self._holds(node, rule.condition, variables):
                taken: int | str = number
                targets = rule.next
                break
        else:
            if node.default is None:
                raise NodeFailed("no_branch", f"no rule of {node.id} is true and it has no default")
            taken, targets = "default", node.default
        self.decisions.append({"node": node.id, "rule": taken, "next": list(targets)})
        self._pass_on(node, targets, value, depth, lane)

    def _loop(self, node: Node, value: Any, arrived: Mapping[str, Any], depth: int, lane: str) -> None:
        loop = node.loop
        assert loop is not None
        comes_back = loop.form != "while" or any(source in loop.body for source in arrived)
        passes = self.passes.get(node.id, 0) + comes_back
        variables = self._variables(node, value, passes)
        again = self._holds(node, loop.condition, variables)
        result, targets = "break", loop.break_path
        if again and passes < loop.max_iterations:
            result, targets = "back", (loop.back_to,)
            self._restart(loop.inner)
        elif again:
            result, targets = "timeout", loop.break_path if loop.timeout_path is None else loop.timeout_path
        self.passes[node.id] = self.plan.passes[node.id] = passes
        if node.id in self.plan.restarted:
            self.plan.restarted.remove(node.id)
        self.decisions.append({"node": node.id, "pass": passes, "result": result, "next": list(targets)})
        self._pass_on(node, targets, value, depth, lane)

    def _restart(self, loops: tuple[str, ...]) -> None:
        for inner in loops:
            self.passes.pop(inner, None)
            self.plan.passes.pop(inner, None)
            if inner not in self.plan.restarted:
                self.plan.restarted.append(inner)

    def _pass_on(self, node: Node, targets: tuple[str, ...], value: Any, depth: int, lane: str) -> None:
        text = self._text(value)
        self._record(node, value, text, depth, lane, ends=not targets)
        self.emit(node, targets, value, text, depth, lane)

    def _transform(self, node: Node, value: Any, iteration: int) -> dict[str, Any]:
        variables = self._variables(node, value, iteration)
        result = {}
        for name, expression in node.assignments.items():
            try:
                result[name] = expression.evaluate(variables)
            except EvaluationError as error:
                raise NodeFailed("expression", f"{node.id}.set.{name}: {error}") from None
        return result

    # -- values ------------------------------------------------------------------------------------
    def _text(self, value: Any) -> str:
        try:
            text, artifact = encode_value(value)
        except ValueTooLarge as error:
            raise NodeFailed("too_large", str(error)) from None
        if artifact:
            self.plan.artifacts.append(artifact)
        return text

    def _variables(self, node: Node, value: Any, iteration: int) -> dict[str, Any]:
        variables = make_variables(
            node_type=node.type, waits=False, input=self.view.input, arrived={}, ctx=self.ctx,
            iteration=iteration, run=self.view.run,
        )  # fmt: skip
        variables["output"] = value
        return variables

    def _holds(self, node: Node, condition: Expression, variables: Mapping[str, Any]) -> bool:
        """An error counts as false, and is a fact of the event."""
        try:
            return condition.holds(variables)
        except EvaluationError as error:
            self.condition_errors.append(
                {"node": node.id, "expression": condition.text, "code": error.code, "message": error.message}
            )
            return False
