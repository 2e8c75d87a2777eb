"""A play: one recorded run routed again, in the order in which it was recorded, as far as its records go. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coordinator.decide import Done, EndItem, Fail, FailMap, Move, PassesOn, View, decide
from coordinator.map_items import stored
from coordinator.opening import StartMap
from pavane.whatif.definitions import Definitions
from pavane.whatif.machine import Machine, Scope, Token
from pavane.whatif.recorded import Execution, Recorded
from pavane.whatif.value import resolve, same, same_in_any_order
from schemas.expressions.error import EvaluationError, TemplateError
from schemas.ir import IR, PASSING_TYPES, Node
from schemas.messages import Failure
from schemas.plan import Plan
from schemas.revision import successors
from schemas.run_state import output_of
from schemas.values import ValueTooLarge, encode_value
from schemas.variables import item_index, make_variables

MAX_STEPS = 100_000
Why = Literal["not_executed", "changed", "other_input", "not_finished"]


class Endless(RuntimeError):
    """More than MAX_STEPS steps: no recorded run has so many."""


@dataclass(slots=True)
class Played:
    """How a run would have gone."""

    status: str  # as of a run; RUNNING where it could not be followed to its end
    path: list[str]
    decisions: list[Mapping[str, Any]]
    outputs: Mapping[str, Any]
    ends: frozenset[str]
    condition_errors: list[Mapping[str, Any]] = field(default_factory=list)
    error: Any = None
    used: set[int] = field(default_factory=set)  # numbers of the recorded executions that would happen as they did
    needed: list[tuple[str, Why, Execution | None]] = field(default_factory=list)  # outputs that nobody recorded
    reachable: frozenset[str] = frozenset()  # nodes that may follow on them

    @property
    def output(self) -> Any:
        return output_of(self.ends, self.outputs) if self.status == "COMPLETED" else None


class Player:
    """Plays one recorded run. `loaded` has the artifacts by name, as far as they were asked for."""

    def __init__(self, recorded: Recorded, ir: IR, definitions: Definitions, loaded: Mapping[str, Any]) -> None:
        self.recorded = recorded
        self.ir = ir
        self.definitions = definitions
        self.loaded = loaded
        self.machine = Machine(ir)
        self.seen: Counter[Any] = Counter()
        self.order: list[tuple[int, int, Token]] = []  # by the seq of what happens to them next
        self.turns = 0
        self.open: list[Token] = []  # recorded, and without an outcome
        self.later: list[tuple[Token, int]] = []  # maps, and the first of their items that was not started
        self.unknown: list[tuple[Token, Why]] = []
        self.diverged = False
        self.played = Played("RUNNING", [], [], self.machine.root.outputs, frozenset())

    def play(self) -> Played:
        """Raises NotLoaded, ArtifactGone and Endless."""
        machine = self.machine
        machine.start()
        steps = 0
        while machine.status == "RUNNING":
            self._take()
            if not self.order and not self._go_beyond():
                break
            _, _, token = heapq.heappop(self.order)
            if token.alive:
                self._step(token)
            steps += 1
            if steps > MAX_STEPS:
                raise Endless(self.recorded.run.run_id)
        return self._end()

    # -- what comes next --------------------------------------------------------------------------
    def _take(self) -> None:
        """Line up what can begin: what is recorded in the order of its records, what is new at once."""
        begun, self.machine.begun = self.machine.begun, []
        for token in begun:
            if token.items is not None:  # all items of a map are over
                if token.recorded is not None and not token.recorded.seq:
                    self.open.append(token)
                else:
                    self._push(token, token.recorded.seq if token.recorded else 0)
                continue
            key = (token.scope.place, token.node, token.iteration)
            token.recorded = self.recorded.find(key, self.seen[key])
            self.seen[key] += 1
            self._line_up(token)

    def _line_up(self, token: Token) -> None:
        one, node = token.recorded, self.ir.nodes[token.node]
        if one is None:
            self.diverged = True
        if node.type in PASSING_TYPES or node.type == "map" or (node.type == "wait" and "event" not in node.config):
            if one is not None and not (one.opened or one.seq):
                self.open.append(token)
            else:
                self._push(token, (one.opened or one.seq) if one else 0)
        elif one is None:
            self.unknown.append((token, "not_executed"))
        elif (why := self._why_not(token, node, one)) is not None:
            self.diverged = True
            self.unknown.append((token, why))
        elif one.seq:
            self._push(token, one.seq)
        else:
            self.open.append(token)

    def _push(self, token: Token, seq: int) -> None:
        self.turns += 1
        heapq.heappush(self.order, (seq, self.turns, token))

    def _go_beyond(self) -> bool:
        """What a run had not come to as it ended: where it would have gone otherwise, the coordinator's own nodes are
        decided, since nobody's record is needed for them."""
        ended = self.recorded.run.status in ("COMPLETED", "FAILED")
        if not (ended or self.diverged):
            return False
        ready = [token for token in self.open if token.alive and not self._is_outside(self.ir.nodes[token.node])]
        self.open = [token for token in self.open if token not in ready]
        for token in ready:
            self._push(token, 0)
        for token, first in self.later:
            if token.alive:
                assert token.items is not None
                self.machine.begin_items(token, first, len(token.items))
        self.later = []
        self._take()
        return bool(self.order)

    @staticmethod
    def _is_outside(node: Node) -> bool:
        """Whether what the node gives comes from outside: a task, a child run, a person, an event."""
        return node.is_task or node.type in ("workflow", "human") or (node.type == "wait" and "event" in node.config)

    # -- whether a record still holds -------------------------------------------------------------
    def _why_not(self, token: Token, node: Node, one: Execution) -> Why | None:
        """Why the recorded outcome is none of what would be executed now; None if it is."""
        asked = node.type in ("human", "wait")
        if node.type != one.node.type:
            return "changed"
        if not all(self.definitions.same(was, node) for was in (one.node, *one.patched)):
            return "changed" if not asked or one.failure is not None else None
        return None if asked or self._same_input(token, node, one) else "other_input"

    def _same_input(self, token: Token, node: Node, one: Execution) -> bool:
        """Whether what its templates read is the same, or at least what they make of it."""
        reads, ctx, item = node.variables, {}, None
        if "ctx" in reads:
            ctx = self._outputs(token.scope, node, node.analysis.task_reads)
        equal = "output" not in reads or _all_same(one.arrived, token.arrived)
        if equal and ctx:
            equal = _all_same(one.ctx, ctx)
        if token.scope.map is not None and ("item" in reads or "output" in reads):
            items, index = one.item
            item = resolve(items, self.loaded)[index]
            equal = equal and same(item, token.scope.item)
        return equal or self._rendered(node, token, one.arrived, one.ctx, item) == self._rendered(
            node, token, token.arrived, ctx, token.scope.item
        )

    def _rendered(
        self, node: Node, token: Token, arrived: Mapping[str, Any], ctx: Mapping[str, Any], item: Any
    ) -> list[bytes]:
        variables = make_variables(
            node_type=node.type, input=resolve(self.recorded.input, self.loaded), arrived=self._resolved(arrived),
            ctx=self._resolved(ctx), iteration=token.iteration, run=self.recorded.run.variables, item=item,
            index=item_index(token.scope.name),
        )  # fmt: skip
        return [_render(template, variables) for template in node.templates.values()]

    # -- one step ---------------------------------------------------------------------------------
    def _step(self, token: Token) -> None:
        node, one = self.ir.nodes[token.node], token.recorded
        outcome = self._outcome(token, node)
        decision = decide(self.ir, self._view(token, node, outcome), outcome, 0.0)
        if isinstance(decision, StartMap):
            self._begin_items(token, decision.items)
            return
        if one is not None:
            self.played.used.add(one.number)
        match decision:
            case Move(plan, facts):
                nodes = self.machine.advance(token, plan)
            case Fail(error, facts):
                nodes, self.machine.status = [node.id], "FAILED"
                self.played.error = error
            case EndItem(error, facts):
                nodes = [node.id]
                self.machine.end_item(token, error)
            case FailMap(_, facts, _, failure):
                nodes = [node.id]
                self._fail_map(token, failure)
            case other:
                raise AssertionError(other)
        self.played.path += nodes
        decisions = facts.get("decisions") or ()
        self.played.decisions += decisions
        self.played.condition_errors += facts.get("condition_errors") or ()
        if one is None or _routes(one.decisions) != _routes(decisions):
            self.diverged = True

    def _begin_items(self, token: Token, items: list[Any]) -> None:
        """As many as were started; the others when nothing else is left, as the run may have ended before."""
        one = token.recorded
        started = len(items) if one is None else one.started
        self.machine.begin_map(token, items)
        self.machine.begin_items(token, 0, started)
        if started < len(items):
            self.later.append((token, started))

    def _fail_map(self, token: Token, failure: Failure) -> None:
        around = token.scope.map
        assert around is not None
        around.failure = failure
        self._push(around, around.recorded.seq if around.recorded else 0)

    def _outcome(self, token: Token, node: Node) -> Done | Failure | PassesOn | None:
        one = token.recorded
        if token.failure is not None:
            return token.failure
        if node.type == "map" and token.items is not None:
            value = [resolve(token.results[index], self.loaded) for index in range(len(token.items))]
            gathered = stored(value, Plan())
            if isinstance(gathered, Done):
                self.machine.keep(gathered.text, value)
            return gathered
        if node.type in PASSING_TYPES or node.type == "map":
            return None
        if node.type == "wait" and "event" not in node.config:
            held = one is not None and one.failure is not None and self.definitions.same(one.node, node)
            return one.failure if one and held else PassesOn()
        assert one is not None
        if one.failure is not None:
            return one.failure
        if node.type == "wait" and len(one.arrived) == 1 and same(one.value, next(iter(one.arrived.values()))):
            return PassesOn()
        value = one.value
        return Done(value if self.ir.is_plain(node.id) else resolve(value, self.loaded), self.machine.text_of(value))

    def _view(self, token: Token, node: Node, outcome: Any) -> View:
        analysis, scope, recorded = node.analysis, token.scope, self.recorded
        with_input = analysis.route_input or (not node.is_task and node.id in self.ir.entries)
        arrives = outcome is None or isinstance(outcome, PassesOn)
        return View(
            node_id=node.id,
            attempt=1,
            iteration=token.iteration,
            depth=token.depth,
            lane=token.lane,
            failures=token.recorded.attempts - 1 if token.recorded and isinstance(outcome, Failure) else 0,
            scope=scope.name,
            input=resolve(recorded.input, self.loaded) if with_input else None,
            run=recorded.run.variables,
            ctx=self._resolved(self._outputs(scope, node, analysis.route_reads)) if analysis.route_reads else {},
            passes=scope.passes,
            arrived=self._resolved(token.arrived) if arrives else {},
            item=scope.item,
            item_iteration=scope.iteration,
        )

    def _outputs(self, scope: Scope, node: Node, names: Sequence[str]) -> dict[str, Any]:
        """The newest outputs of these nodes, in the scope of the node or one around it."""
        if scope.map is None:
            outputs = scope.outputs
            return {name: outputs[name] for name in names if name in outputs}
        chain, found = scope.chain, {}
        for address in self.ir.addresses(node.id, names):
            name, _, level = address.partition("@")
            outputs = chain[int(level)].outputs if level else scope.outputs
            if name in outputs:
                found[name] = outputs[name]
        return found

    def _resolved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: resolve(value, self.loaded) for name, value in values.items()}

    # -- the end ----------------------------------------------------------------------------------
    def _end(self) -> Played:
        played, status = self.played, self.machine.status
        played.ends = frozenset(self.machine.root.ends)
        played.status = status
        if status != "RUNNING":
            return played
        recorded = self.recorded.run
        played.needed = [(t.node, why, t.recorded) for t, why in self.unknown if t.alive]
        if recorded.status in ("COMPLETED", "FAILED") or (self.diverged and recorded.status != "RUNNING"):
            open_tasks = [token for token in self.open if token.alive and self._is_outside(self.ir.nodes[token.node])]
            played.needed += [(token.node, "not_finished", token.recorded) for token in open_tasks]
        if played.needed:
            played.reachable = self._reachable([node for node, _, _ in played.needed])
        elif recorded.status in ("CANCELLED", "TIMED_OUT"):
            played.status, played.error = recorded.status, recorded.error
        return played

    def _reachable(self, nodes: Sequence[str]) -> frozenset[str]:
        found: set[str] = set()
        ahead = list(nodes)
        while ahead:
            name = ahead.pop()
            if name not in found:
                found.add(name)
                node = self.ir.nodes[name]
                ahead += (*successors(node), *node.analysis.entries)
                if node.analysis.map:
                    ahead.append(node.analysis.map)
        return frozenset(found)


def changed(recorded: Recorded, played: Played) -> list[str]:
    """What differs: `path`, `status`, `output`, `error`."""
    found = []
    if Counter(recorded.path) != Counter(played.path):
        found.append("path")
    was = recorded.run.status
    if played.status != was and not (was == "PAUSED" and played.status == "RUNNING"):
        found.append("status")
    elif played.status == "COMPLETED" and not _same_output(recorded, played):
        found.append("output")
    elif played.status == "FAILED" and played.error != recorded.run.error:
        found.append("error")
    return found


def _same_output(recorded: Recorded, played: Played) -> bool:
    was = {node: recorded.outputs[node] for node in recorded.ends if node in recorded.outputs}
    now = {node: played.outputs[node] for node in played.ends if node in played.outputs}
    if len(was) == len(now) == 1:
        return same_in_any_order(*was.values(), *now.values())
    return was.keys() == now.keys() and all(same_in_any_order(value, now[node]) for node, value in was.items())


def _routes(decisions: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Where decisions led, without what they read."""
    return [(one["node"], one.get("next"), one.get("edges"), one.get("result")) for one in decisions]


def _all_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())


def _render(template: Any, variables: Mapping[str, Any]) -> bytes:
    try:
        return encode_value(template.render(variables))[0].encode()
    except (TemplateError, EvaluationError, ValueTooLarge) as error:
        return f"!{error}".encode()
