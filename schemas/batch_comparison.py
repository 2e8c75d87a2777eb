"""BatchComparison: what differs between the items of two batches, or of two groups of them. Pure.

Pairs come one by one, so that a batch of any size is compared in bounded memory.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.comparison import USAGE, Change, bounded, changes, json_path, numbers

FIELDS = 500
"""Fields that are followed; of documents whose keys are data there would be no end."""
ITEM_CHANGES = 20
"""Fields of one item that are shown."""


@dataclass(frozen=True, slots=True)
class ItemSide:
    """An item in one of the batches. `output` is a JSON value, or a `Reference`, both only if it has completed."""

    run_id: str
    status: str
    output: Any = None
    error: Any = None
    duration_ms: int | None = None
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pair:
    """An item in both batches, or in one of them."""

    key: str
    a: ItemSide | None
    b: ItemSide | None


@dataclass(slots=True)
class _Numbers:
    """Numbers of one field: in the items of a, in those of b, and by how much matched ones differ."""

    count: list[int] = field(default_factory=lambda: [0, 0])
    total: list[float] = field(default_factory=lambda: [0.0, 0.0])
    changed: int = 0  # items in which the field differs
    compared: int = 0  # pairs of numbers, those that are the same too
    difference: float = 0.0


@dataclass(slots=True)
class _Group:
    """All items of one side."""

    items: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    ended: int = 0
    usage: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("duration_ms", *USAGE), 0))

    def add(self, item: ItemSide) -> None:
        self.items += 1
        self.statuses[item.status] += 1
        if item.duration_ms is not None:
            self.ended += 1
            self.usage["duration_ms"] += item.duration_ms
        for name in USAGE:
            self.usage[name] += item.usage.get(name, 0)

    def as_dict(self) -> dict[str, Any]:
        mean = self.usage["duration_ms"] / self.ended if self.ended else None
        usage = {name: bounded(self.usage[name]) for name in USAGE}
        return {
            "items": self.items, "statuses": dict(sorted(self.statuses.items())), "mean_duration_ms": mean,
            "usage": usage,
        }  # fmt: skip


class BatchComparison:
    """`add` every pair, then `result`."""

    def __init__(self, limit: int = 20) -> None:
        """limit: items that are shown of those that differ, and keys of those that only one has."""
        self._limit = limit
        self._groups = (_Group(), _Group())
        self._executed: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._matched = self._same = 0
        self._more_fields = False
        self._moves: Counter[tuple[str, str]] = Counter()
        self._fields: dict[str, _Numbers] = {}
        self._only: tuple[list[str], list[str]] = ([], [])
        self._most: list[tuple[tuple[Any, ...], Pair]] = []  # a heap, the least of them first

    def add(self, pair: Pair) -> None:
        for side, item in enumerate((pair.a, pair.b)):
            if item:
                self._groups[side].add(item)
                self._sum(side, item)
        if pair.a is None or pair.b is None:
            keys = self._only[0 if pair.b is None else 1]
            if len(keys) < self._limit:
                keys.append(pair.key)
            return
        self._matched += 1
        self._match(pair, pair.a, pair.b)

    def add_executions(self, a: Mapping[str, int], b: Mapping[str, int]) -> None:
        """How often each node was executed in some of the items of either side."""
        for counts, more in zip(self._executed, (a, b), strict=True):
            counts.update(more)

    def result(self) -> dict[str, Any]:
        """{groups: {a, b}, matched, same, differ, only_a, only_b, moves, executed, fields, more_fields, items}.

        `moves`: [{a, b, items}], statuses that are not the same; `executed`: [{node_id, executed:
        [in a, in b]}]; `fields`: [{path, changed, compared, mean_difference,
        a: {numbers, mean}, b}], `$.scores[*]` for all elements of a list; `items`: those that differ most, the most
        first: {key, a: {run_id, status}, b, count, changes}; `only_a`, `only_b`: {items, keys}, the first keys.
        """
        a, b = self._groups
        return {
            "groups": {"a": a.as_dict(), "b": b.as_dict()},
            "matched": self._matched,
            "same": self._same,
            "differ": self._matched - self._same,
            "only_a": {"items": a.items - self._matched, "keys": self._only[0]},
            "only_b": {"items": b.items - self._matched, "keys": self._only[1]},
            "moves": [
                {"a": left, "b": right, "items": count}
                for (left, right), count in sorted(self._moves.items(), key=lambda one: (-one[1], sorted(one[0])))
            ],
            "executed": [
                {"node_id": node, "executed": [counts[node] for counts in self._executed]}
                for node in sorted({*self._executed[0], *self._executed[1]})
            ],
            "fields": [_field(path, self._fields[path]) for path in sorted(self._fields, key=self._weight)],
            "more_fields": self._more_fields,
            "items": [_item(pair) for _, pair in sorted(self._most, key=lambda one: one[0], reverse=True)],
        }

    def _weight(self, path: str) -> tuple[int, str]:
        return -self._fields[path].changed, path

    def _followed(self, path: str) -> _Numbers | None:
        if path not in self._fields:
            if len(self._fields) >= FIELDS:
                self._more_fields = True
                return None
            self._fields[path] = _Numbers()
        return self._fields[path]

    def _sum(self, side: int, item: ItemSide) -> None:
        for steps, number in numbers(item.output):
            if known := self._followed(json_path(steps, of_all=True)):
                known.count[side] += 1
                known.total[side] += number

    def _match(self, pair: Pair, a: ItemSide, b: ItemSide) -> None:
        if a.status != b.status:
            self._moves[a.status, b.status] += 1
        found = _changes(a, b)
        self._compare(a.output, b.output, found)
        if not found and a.status == b.status and _class(a.error) == _class(b.error):
            self._same += 1
            return
        far = sum(abs(change.difference or 0) for change in found)
        # Of two that differ alike the one that came first stays.
        weight = (a.status != b.status, len(found), far, -self._matched)
        heapq.heappush(self._most, (weight, pair))
        if len(self._most) > self._limit:
            heapq.heappop(self._most)

    def _compare(self, a: Any, b: Any, found: Iterable[Change]) -> None:
        """Count the fields that differ, once an item, and the numbers that both have."""
        for path in {json_path(change.steps, of_all=True) for change in found}:
            if known := self._followed(path):
                known.changed += 1
        others = dict(numbers(b))
        for steps, number in numbers(a):
            known = self._fields.get(json_path(steps, of_all=True))
            if known and steps in others:
                known.compared += 1
                known.difference += others[steps] - number


def compare_batches(pairs: Iterable[Pair], limit: int = 20) -> dict[str, Any]:
    """All of them at once; `BatchComparison.result` says what comes out."""
    comparison = BatchComparison(limit)
    for pair in pairs:
        comparison.add(pair)
    return comparison.result()


def _changes(a: ItemSide, b: ItemSide) -> list[Change]:
    """Of their outputs; where one has none its status says so."""
    return list(changes(a.output, b.output)) if a.status == b.status == "COMPLETED" else []


def _class(error: Any) -> Any:
    return error.get("class") if isinstance(error, Mapping) else None


def _field(path: str, known: _Numbers) -> dict[str, Any]:
    sides = {
        name: {"numbers": count, "mean": bounded(total / count) if count else None}
        for name, count, total in zip(("a", "b"), known.count, known.total, strict=True)
    }
    mean = bounded(known.difference / known.compared) if known.compared else None
    return {"path": path, "changed": known.changed, "compared": known.compared, "mean_difference": mean, **sides}


def _item(pair: Pair) -> dict[str, Any]:
    assert pair.a is not None and pair.b is not None
    found = _changes(pair.a, pair.b)
    heads = {name: {"run_id": side.run_id, "status": side.status} for name, side in (("a", pair.a), ("b", pair.b))}
    return {
        "key": pair.key, **heads, "count": len(found), "changes": [one.as_dict() for one in found[:ITEM_CHANGES]],
    }  # fmt: skip
