"""Way: what a run executed and decided, from its events; and where the ways of two runs part. Pure.

Parallel paths finish in any order, and that is no difference: a way is compared place by place, a place being a node
in a scope, and not event by event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from schemas.events import Event

Kind = Literal["decision", "execution"]
Place = tuple[str, str, Kind]  # scope, node
CHOICE = ("rule", "result", "next", "edges")
"""What a decision came to; the rest of it says why."""


@dataclass(frozen=True, slots=True)
class _Passage:
    """One time that a run came by a place; `position`: of the event, among those that were read."""

    position: int
    told: Mapping[str, Any]

    @property
    def choice(self) -> dict[str, Any]:
        return {name: self.told[name] for name in CHOICE if name in self.told}


@dataclass(slots=True)
class Way:
    """`executed`: how often each node was executed, the items of maps together."""

    executed: Counter[str] = field(default_factory=Counter)
    passages: dict[Place, list[_Passage]] = field(default_factory=dict)
    read: int = 0  # events

    def add(self, event: Event) -> None:
        """Go on with the run's next event; of a fork that begins with those of the run that it was forked from."""
        self.read += 1
        if event.type not in ("node_completed", "node_failed"):
            return
        failed = event.node_id if event.type == "node_failed" else None
        nodes = dict.fromkeys([event.node_id, *(event.data.get("outputs") or ()), *(event.data.get("stored") or ())])
        for node in nodes:
            self.executed[node] += 1
            self._pass(event.scope, node, "execution", {"result": "failed" if node == failed else "completed"})
        for decision in event.data.get("decisions") or ():
            self._pass(event.scope, decision["node"], "decision", decision)

    def _pass(self, scope: str, node: str, kind: Kind, told: Mapping[str, Any]) -> None:
        self.passages.setdefault((scope, node, kind), []).append(_Passage(self.read, told))


def parting(a: Way, b: Way) -> dict[str, Any] | None:
    """Where they part first: {node_id, scope, kind, nth, a, b}, or None if they do not.

    `kind` is `decision`, then `a` and `b` are what the events say of it, or `execution`, then {result}: completed or
    failed. Either is null where that run did not come by; `nth`: at which time, from 1.
    """
    # What follows from a difference comes after it in each of the runs, so the earliest is where it began.
    found = [first for place in a.passages.keys() | b.passages.keys() if (first := _first(place, a, b))]
    if not found:
        return None
    (_, _, (scope, node, kind), nth), left, right = min(found, key=lambda one: one[0])
    return {
        "node_id": node,
        "scope": scope,
        "kind": kind,
        "nth": nth,
        "a": None if left is None else dict(left.told),
        "b": None if right is None else dict(right.told),
    }


Found = tuple[tuple[int, bool, Place, int], _Passage | None, _Passage | None]


def _first(place: Place, a: Way, b: Way) -> Found | None:
    """The first time at which the two differ here, and what it is ordered by."""
    for nth, (left, right) in enumerate(zip_longest(a.passages.get(place, ()), b.passages.get(place, ())), 1):
        if left is None or right is None or left.choice != right.choice:
            position = min(passage.position for passage in (left, right) if passage)
            return (position, place[2] == "execution", place, nth), left, right
    return None
