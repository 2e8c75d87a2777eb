"""decide: what happens to a run when a token's work is done. Pure: no I/O, no clock, no randomness of its own.

completed ── record output ── edges / rules / loop ──► targets ──► waits?  ► arrival (the script merges and releases)
    │                                  ▲                  │       task?   ► fire on its stream
    │                                  └── in passing ◄───┴─────── branch, loop, transform, join: decided here
    └─ failed ── attempts left ► retry   ── on_error ► its targets   ── else ► its map, or the run, fails
reached, and ends later (map, workflow, human, wait) ─► opened: opening.py
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.opening import NodeFailed, Opened, StartMap, open_node
from schemas.conditions.condition import Condition
from schemas.evidence import CONDITIONS, read_values, short, short_texts
from schemas.expressions.error import EvaluationError
from schemas.ir import IR, OPENED_TYPES, Edge, Node
from schemas.messages import Failure
from schemas.plan import Arrival, Output, Plan, Rank
from schemas.values import ValueTooLarge, encode_value
from schemas.variables import arrived_output, item_index, make_variables

MAX_BACKOFF_MS = 3_600_000
CAUSE_CHARS = 1_000
"""Of a message and of its cause's: an error is no artifact, in whatever letters it is told."""


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
    arrived: Mapping[str, Any] = field(default_factory=dict)  # tokens that are no tasks
    item: Any = None  # in a map: the item's value
    item_iteration: int = 0  # in a map: the iteration outside of the item's own loops
    again: bool = False  # its failure came in before the run was retried
    now: int = 0  # ms since the epoch


@dataclass(frozen=True, slots=True)
class Done:
    """A task that gave a result: the value, and the text it is stored as."""

    value: Any
    text: str


class PassesOn:
    """A node that has waited and passes on what arrived."""


@dataclass(frozen=True, slots=True)
class Move:
    """The token moves on."""

    plan: Plan
    facts: Mapping[str, Any]  # for the event: decisions, condition_errors, error, taken_over ...


@dataclass(frozen=True, slots=True)
class TryAgain:
    """The task gets another attempt after `delay_ms`."""

    delay_ms: int
    error: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fail:
    """The run fails."""

    error: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EndItem:
    """The token's item of a map ends, and `error` is its result."""

    error: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FailMap:
    """The map of the token's item fails with `failure`."""

    error: Mapping[str, Any]  # of the token
    facts: Mapping[str, Any]
    map: str
    failure: Failure


Decision = Move | TryAgain | Fail | EndItem | FailMap | Opened


def decide(ir: IR, view: View, outcome: Done | Failure | PassesOn | None, chance: float) -> Decision:
    """The decision for one completed token.

    `outcome` is None for a deciding token (a node that the coordinator itself decides or opens). `chance` in [0, 1)
    spreads the backoff. Never raises for anything that a workflow or a result can contain.
    """
    node = ir.nodes[view.node_id]
    if isinstance(outcome, Failure):
        return _failed(ir, view, node, outcome, chance)
    routing = _Routing(ir, view)
    try:
        if outcome is None and node.type in OPENED_TYPES:
            opened = open_node(node, routing.arriving(node), view.now)
            if not (isinstance(opened, StartMap) and not opened.items):
                return opened
            routing.leave(node, [], "[]", view.depth, view.lane, view.iteration)
        elif isinstance(outcome, Done):
            routing.leave(node, outcome.value, outcome.text, view.depth, view.lane, view.iteration)
        else:
            routing.execute(node, view.arrived, view.depth, view.lane)
    except NodeFailed as failed:
        failure = Failure(failed.klass, str(failed), retryable=False)
        return _failed(ir, view, node, failure, chance, routing.facts())
    routing.pass_through()
    return Move(routing.plan, routing.facts())


def _failed(
    ir: IR, view: View, node: Node, failure: Failure, chance: float, facts: Mapping[str, Any] | None = None
) -> Decision:
    attempts = view.failures + 1
    error = {"class": failure.klass, "message": failure.message, "attempts": attempts, "node": node.id}
    if failure.cause:
        error["cause"] = failure.cause
    if failure.retryable and node.is_task and attempts < node.retry.max_attempts:
        return TryAgain(_backoff_ms(node, view.failures, chance), error, _tries(node, failure))
    facts = {**(facts or {}), **_tries(node, failure)}
    path, targets = "on_error", node.on_error
    if failure.klass == "deadline" and node.deadline_path is not None:
        path, targets = "deadline_path", node.deadline_path
    if targets is None:
        return _fail(ir, view, node, error, facts)
    routing = _Routing(ir, view)
    routing.plan.failed = True
    routing.emit(node, targets, {"error": error}, encode_value({"error": error})[0], view.depth, view.lane)
    routing.pass_through()
    routing.plan.outputs.insert(0, Output(node.id, None, (view.depth, view.lane), ends=not targets))
    taken_over = {"path": path, "next": list(targets)}
    return Move(routing.plan, {**facts, **routing.facts(), "error": error, "taken_over": taken_over})


def _tries(node: Node, failure: Failure) -> dict[str, Any]:
    """How often a task may be tried, and whether this failure lets it: the number of the attempt is the error's."""
    return {"max_attempts": node.retry.max_attempts, "retryable": failure.retryable} if node.is_task else {}


def _fail(ir: IR, view: View, node: Node, error: Mapping[str, Any], facts: Mapping[str, Any]) -> Decision:
    """Nothing takes over: the run fails, or what the token is an item of."""
    enclosing = node.analysis.map
    map_node = ir.nodes[enclosing].map if enclosing else None
    if map_node and map_node.collect:
        return EndItem(error, facts)
    if view.again and node.is_task:
        return TryAgain(0, error, facts)
    if enclosing is None:
        return Fail(error, facts)
    return fail_map(node, view.scope, error, facts)


def fail_map(node: Node, scope: str, error: Mapping[str, Any], facts: Mapping[str, Any]) -> FailMap:
    """A failure of `node` in the item `scope` is one of its map."""
    message = f"item {item_index(scope)}: {node.id}: {error['message']}"[:CAUSE_CHARS]
    cause = {"class": error["class"], "message": error["message"][:CAUSE_CHARS]}
    cause |= {"attempts": error["attempts"], "node": error["node"]}
    return FailMap(error, facts, node.analysis.map or "", Failure("item", message, retryable=False, cause=cause))


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
        self.undecided: dict[str, Any] | None = None  # a branch that knows no way
        self.passing: deque[tuple[Node, Arrival, Any]] = deque()
        self.decided = {view.node_id}

    def arriving(self, node: Node) -> dict[str, Any]:
        """The variables at a node that begins now."""
        value = arrived_output(node.type, self._entry, self.view.arrived)
        return self._variables(node, value, self.view.iteration)

    @property
    def _entry(self) -> Any:
        """What an entry gets."""
        return self.view.item if self.view.scope else self.view.input

    def facts(self) -> dict[str, Any]:
        facts = {
            "decisions": self.decisions, "condition_errors": self.condition_errors, "undecided": self.undecided,
        }  # fmt: skip
        return {name: told for name, told in facts.items() if told}

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
        edges: dict[bool, list[Edge]] = {True: [], False: []}
        for edge in node.edges:
            holds = edge.condition is None or self._holds(node, edge.condition, variables, to=edge.to)
            edges[holds].append(edge)
        targets = [edge.to for edge in edges[True]]
        decision: dict[str, Any] = {"node": node.id, "edges": targets}
        for holds, name in ((True, "true"), (False, "false")):
            told = [[edge.to, short(edge.condition.text)] for edge in edges[holds] if edge.condition][:CONDITIONS]
            decision |= {name: told} if told else {}
        conditions = (edge.condition for edge in node.edges if edge.condition)
        self.decisions.append(decision | read_values(conditions, variables))
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
        if target.is_task or target.type in OPENED_TYPES or target.id in self.decided:
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
                self.undecided = None

    # -- nodes decided here ------------------------------------------------------------------------
    def execute(self, node: Node, arrived: Mapping[str, Any], depth: int, lane: str) -> None:
        """A branch, loop, transform, join, or what passes on. Raises NodeFailed before it has changed anything."""
        value = arrived_output(node.type, self._entry, arrived)
        if node.type == "loop":
            self._loop(node, value, arrived, depth, lane)
            return
        within = node.analysis.within
        iteration = self.view.item_iteration if within is None else self.passes.get(within, 0)
        if node.id == self.view.node_id:
            iteration = self.view.iteration  # a patch may have taken the loop away
        if node.type == "branch":
            self._branch(node, value, iteration, depth, lane)
            return
        if node.type == "transform":
            value = self._transform(node, value, iteration)
        self.leave(node, value, self._text(value), depth, lane, iteration)

    def _branch(self, node: Node, value: Any, iteration: int, depth: int, lane: str) -> None:
        variables = self._variables(node, value, iteration)
        conditions: list[Condition] = []  # that were asked
        for number, rule in enumerate(node.rules):
            conditions.append(rule.condition)
            if self._holds(node, rule.condition, variables, rule=number):
                decision: dict[str, Any] = {"rule": number, "next": list(rule.next), "true": short(rule.condition.text)}
                missed = conditions[:-1]
                break
        else:
            missed = conditions
            if node.default is None:
                told = {"node": node.id, "false": short_texts(missed)}
                self.undecided = told | read_values(conditions, variables)
                raise NodeFailed("no_branch", f"no rule of {node.id} is true and it has no default")
            decision = {"rule": "default", "next": list(node.default)}
        if missed:
            decision["false"] = short_texts(missed)
        self.decisions.append({"node": node.id, **decision, **read_values(conditions, variables)})
        self._pass_on(node, decision["next"], value, depth, lane)

    def _loop(self, node: Node, value: Any, arrived: Mapping[str, Any], depth: int, lane: str) -> None:
        loop = node.loop
        assert loop is not None
        comes_back = loop.form != "while" or any(source in loop.body for source in arrived)
        passes = self.passes.get(node.id, 0) + comes_back
        self.plan.found.setdefault(node.id, self.view.passes.get(node.id, 0))
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
        decision = {"node": node.id, "pass": passes, "max": loop.max_iterations, "result": result}
        decision |= {"next": list(targets), "true" if again else "false": short(loop.condition.text)}
        self.decisions.append(decision | read_values([loop.condition], variables))
        self._pass_on(node, targets, value, depth, lane)

    def _restart(self, loops: tuple[str, ...]) -> None:
        for inner in loops:
            self.passes.pop(inner, None)
            self.plan.passes.pop(inner, None)
            if inner not in self.plan.restarted:
                self.plan.restarted.append(inner)

    def _pass_on(self, node: Node, targets: list[str] | tuple[str, ...], value: Any, depth: int, lane: str) -> None:
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
            node_type=node.type, input=self.view.input, arrived={}, ctx=self.ctx,
            iteration=iteration, run=self.view.run, item=self.view.item, index=item_index(self.view.scope),
        )  # fmt: skip
        variables["output"] = value
        return variables

    def _holds(self, node: Node, condition: Condition, variables: Mapping[str, Any], **place: int | str) -> bool:
        """An error counts as false, and is a fact of the event. `place`: the `rule` of a branch, or `to` of an edge."""
        try:
            return condition.holds(variables)
        except EvaluationError as error:
            told = {"node": node.id, **place, "expression": condition.text, "code": error.code}
            self.condition_errors.append({**told, "message": error.message})
            return False
