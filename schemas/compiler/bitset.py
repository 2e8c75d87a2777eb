"""Sets of nodes as integers (bit i = node i): plain sets take seconds on a graph of 1,000 nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def bits(mask: int) -> Iterator[int]:
    """The members of a set, lowest first."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def union(members: Iterable[int]) -> int:
    """The set of the given nodes."""
    mask = 0
    for member in members:
        mask |= 1 << member
    return mask


def transposed(steps: Sequence[int]) -> list[int]:
    """The same edges read backwards."""
    backwards = [0] * len(steps)
    for node, targets in enumerate(steps):
        for target in bits(targets):
            backwards[target] |= 1 << node
    return backwards


def spread(start: int, steps: Sequence[int], stop: int = 0) -> int:
    """`start` and everything that it leads to. Nodes of `stop` are neither entered nor, in `start`, left."""
    seen = start
    todo = start & ~stop
    while todo:
        low = todo & -todo
        new = steps[low.bit_length() - 1] & ~seen & ~stop
        seen |= new
        todo = todo ^ low | new
    return seen


class Closure:
    """What each node leads to in one or more steps; computed on demand, known parts are reused."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._steps = steps
        self._known: dict[int, int] = {}

    def __getitem__(self, node: int) -> int:
        if node not in self._known:
            self._known[node] = self._search(node)
        return self._known[node]

    def _search(self, node: int) -> int:
        seen = todo = self._steps[node]
        while todo:
            low = todo & -todo
            member = low.bit_length() - 1
            known = self._known.get(member)
            if known is None:
                new = self._steps[member] & ~seen
                seen |= new
                todo = todo ^ low | new
            else:  # closed already: nothing in it leads further
                seen |= known
                todo &= ~(known | low)
        return seen
