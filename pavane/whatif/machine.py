"""The machine: a run's tokens in memory. It does to them what `lua/advance.lua` and its siblings do in Redis.

What is decided is `coordinator.decide`'s; here plans are applied, and nothing else. `tests/whatif` holds the two
together: a recorded run that is routed again by its own workflow comes out as it was recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from pavane.whatif.recorded import Execution, Place
from pavane.whatif.value import Large
from schemas.ir import IR
from schemas.messages import Failure
from schemas.plan import Arrival, Plan, Rank
from schemas.values import ARTIFACT


@dataclass(slots=True, eq=False)
class Scope:
    """The run itself, or an item of a map."""

    name: str
    place: Place
    map: Token | None = None
    item: Any = None
    live: int = 0
    gone: bool = False
    outputs: dict[str, Any] = field(default_factory=dict)
    ranks: dict[str, Rank] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)
    passes: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, Token] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)

    @property
    def outer(self) -> Scope | None:
        return self.map.scope if self.map else None

    @property
    def iteration(self) -> int:
        """Outside of its own loops: that of the map around it."""
        return self.map.iteration if self.map else 0

    @property
    def chain(self) -> list[Scope]:
        """The scopes around it, the run's first, itself last."""
        outer = self.outer
        return [*outer.chain, self] if outer else [self]


@dataclass(slots=True, eq=False)
class Token:
    node: str
    scope: Scope
    number: int
    depth: int
    lane: str
    arrived: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Rank] = field(default_factory=dict)
    iteration: int = 0
    recorded: Execution | None = None
    failure: Failure | None = None  # of a map, by one of its items
    items: list[Any] | None = None  # of a map that has begun
    results: dict[int, Any] = field(default_factory=dict)
    over: bool = False  # consumed; what it has begun is over with it

    @property
    def alive(self) -> bool:
        if self.over:
            return False
        scope: Scope | None = self.scope
        while scope is not None:
            if scope.gone or (scope.map is not None and (scope.map.over or scope.map.failure is not None)):
                return False
            scope = scope.outer
        return True


class Machine:
    """One run. `begun` are tokens that can begin; who plays it takes them."""

    def __init__(self, ir: IR) -> None:
        self.ir = ir
        self.root = Scope("", ())
        self.begun: list[Token] = []
        self.status = "RUNNING"
        self._values: dict[str, Any] = {}  # stored text -> value, of what this run has passed on
        self._made = 0

    def start(self) -> None:
        self._enter(self.root, self.ir.entries)

    # -- values -----------------------------------------------------------------------------------
    def text_of(self, value: Any) -> str:
        """A stored text for a value: that of an artifact, or one by which only this machine knows it. To write out what
        nobody reads would cost more than all of the routing."""
        if isinstance(value, Large):
            self._values[value.text] = value
            return value.text
        text = f"={len(self._values)}"
        self._values[text] = value
        return text

    def keep(self, text: str, value: Any) -> None:
        """A value that is known beside its stored text."""
        self._values[text] = Large(text) if text.startswith(ARTIFACT) else value

    def _value(self, text: str | None) -> Any:
        if text is None:
            return None
        if text not in self._values:
            self._values[text] = Large(text) if text.startswith(ARTIFACT) else orjson.loads(text)
        return self._values[text]

    # -- steps ------------------------------------------------------------------------------------
    def advance(self, token: Token, plan: Plan) -> list[str]:
        """A token's work is done: the nodes executed in this step, in the order in which an event tells them."""
        nodes = self._record(token.scope, plan)
        self._count_passes(token.scope, plan)
        self._emit(token, plan)
        self._consume(token)
        return nodes

    def end_item(self, token: Token, error: Mapping[str, Any]) -> None:
        """The item of the token ends with a failure, which its map collects."""
        token.scope.gone = True
        self._close_item(token.scope, {"error": error})

    def begin_map(self, token: Token, items: list[Any]) -> None:
        """A map knows its items; `begin_items` begins them."""
        token.items = items

    def begin_items(self, token: Token, first: int, after: int) -> None:
        """Begin the items from `first` until before `after`. How many may run together is of no matter: what they give
        does not depend on it."""
        assert token.items is not None
        analysis = self.ir.nodes[token.node].analysis
        recorded = token.recorded
        key = (recorded.key, recorded.place) if recorded else ((token.scope.place, token.node, -1 - token.number), 0)
        path = f"{token.scope.name}." if token.scope.name else ""
        for index in range(first, min(after, len(token.items))):
            scope = Scope(f"{path}{token.number}-{index}", (*key, index), token, token.items[index])
            self._enter(scope, analysis.entries)

    # -- what they are made of --------------------------------------------------------------------
    def _enter(self, scope: Scope, entries: tuple[str, ...]) -> None:
        plan = Plan()
        for node in entries:
            arrival = Arrival(node, "", None, (0, ""), 0, "")
            (plan.arrivals if self.ir.nodes[node].analysis.waits else plan.fires).append(arrival)
        self._move(scope, plan, None)

    def _record(self, scope: Scope, plan: Plan) -> list[str]:
        failed: list[str] = []
        small: list[str] = []
        large: list[str] = []
        for output in plan.outputs:
            if output.value is None:
                failed.append(output.node)
            else:
                value = self._value(output.value)
                if self._is_newest(scope, output.node, output.rank):
                    scope.outputs[output.node] = value
                (large if isinstance(value, Large) else small).append(output.node)
            if self._is_newest(scope, f"ends|{output.node}", output.rank):
                (scope.ends.add if output.ends else scope.ends.discard)(output.node)
        return [*failed, *small, *large]

    def _is_newest(self, scope: Scope, name: str, rank: Rank) -> bool:
        if not self.ir.lanes:
            return True
        if scope.ranks.get(name, rank) > rank:
            return False
        scope.ranks[name] = rank
        return True

    def _count_passes(self, scope: Scope, plan: Plan) -> None:
        scope.passes.update(plan.passes)
        for loop in plan.restarted:
            scope.passes.pop(loop, None)

    def _emit(self, token: Token, plan: Plan) -> None:
        self._move(token.scope, plan, token.node)

    def _move(self, scope: Scope, plan: Plan, consumed: str | None) -> None:
        """`parts/emit.lua`, on the counters that `Plan.encode` makes."""
        nodes, pending = self.ir.nodes, scope.pending
        deltas: dict[str, int] = {}
        if consumed is not None:
            for held in nodes[consumed].analysis.blocks:
                deltas[held] = deltas.get(held, 0) - 1
        for arrival in plan.fires:
            for held in nodes[arrival.node].analysis.blocks:
                deltas[held] = deltas.get(held, 0) + 1
        changed = [node for node, delta in deltas.items() if delta]
        for node in changed:
            pending[node] = pending.get(node, 0) + deltas[node]
        for arrival in plan.fires:
            self._fire(self._new_token(scope, arrival))
        for arrival in plan.arrivals:
            self._arrive(scope, arrival)
        for node in [*changed, *(arrival.node for arrival in plan.arrivals)]:
            if pending.get(node, 0) == 0 and node in scope.waiting:
                self._fire(scope.waiting.pop(node))

    def _new_token(self, scope: Scope, arrival: Arrival) -> Token:
        self._made += 1
        scope.live += 1
        token = Token(arrival.node, scope, self._made, arrival.depth, arrival.lane)
        if arrival.source:
            token.arrived[arrival.source] = self._value(arrival.value)
            token.sources[arrival.source] = arrival.rank
        return token

    def _arrive(self, scope: Scope, arrival: Arrival) -> None:
        token = scope.waiting.get(arrival.node)
        if token is None:
            scope.waiting[arrival.node] = self._new_token(scope, arrival)
            for held in self.ir.nodes[arrival.node].analysis.blocks:
                scope.pending[held] = scope.pending.get(held, 0) + 1
            return
        known = token.sources.get(arrival.source)
        if known is not None and self.ir.lanes and arrival.rank < known:
            return
        token.sources[arrival.source] = arrival.rank
        token.arrived[arrival.source] = self._value(arrival.value)
        token.depth = max(token.depth, arrival.depth)

    def _fire(self, token: Token) -> None:
        within = self.ir.nodes[token.node].analysis.within
        token.iteration = token.scope.iteration if within is None else token.scope.passes.get(within, 0)
        self.begun.append(token)

    def _consume(self, token: Token) -> None:
        token.over = True
        scope = token.scope
        scope.live -= 1
        if scope.live:
            return
        if scope.map is None:
            self.status = "COMPLETED"
        else:
            self._close_item(scope, scope.outputs.get(self.ir.nodes[scope.map.node].analysis.exit or ""))

    def _close_item(self, scope: Scope, result: Any) -> None:
        around = scope.map
        assert around is not None and around.items is not None
        scope.gone = True
        around.results[int(scope.name.rpartition("-")[2])] = result
        if len(around.results) == len(around.items):
            self.begun.append(around)
