"""Which nodes may be alive at the same moment (routing semantics, *Parallel*)."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.compiler.bitset import bits
from schemas.compiler.graph import Graph


class Parallel:
    """Explores all pairs of (node, running or waiting) that two tokens of one run can be in.

    State n is node n running; state n + size is node n waiting, `size` being the number of nodes.
    """

    def __init__(self, graph: Graph, waiting: int, blockers: Mapping[int, int]) -> None:
        self._graph = graph
        self._size = len(graph.ids)
        self._waiting = waiting
        self._blockers = blockers  # of the waiting nodes
        self._partners = [0] * (2 * self._size)
        self._fresh: dict[int, int] = {}  # state -> partners not stepped with yet
        self._explore()

    def running(self, a: int, b: int) -> bool:
        """May `a` be running while `b` is?"""
        return bool(self._partners[a] >> b & 1)

    def alive(self, a: int, b: int) -> bool:
        """May a token be at `a`, running or waiting, while another is at `b`?"""
        partners = self._partners[a] | self._partners[a + self._size]
        return bool((partners | partners >> self._size) >> b & 1)

    def _explore(self) -> None:
        for targets in self._graph.forks:
            states = self._arrived(targets)
            for state in bits(states):
                self._meet(state, states & ~(1 << state))
        while self._fresh:
            state, partners = self._fresh.popitem()
            if state < self._size:
                for target in bits(self._arrived(self._graph.steps[state])):
                    merged = 1 << target if target >= self._size else 0
                    self._meet(target, partners & ~merged)
            else:
                node = state - self._size
                held = self._blockers[node]
                self._meet(node, partners & ~(held | held << self._size))

    def _arrived(self, nodes: int) -> int:
        """The states of tokens that arrive at `nodes`."""
        return nodes & ~self._waiting | (nodes & self._waiting) << self._size

    def _meet(self, state: int, partners: int) -> None:
        new = partners & ~self._partners[state]
        if not new:
            return
        self._partners[state] |= new
        self._fresh[state] = self._fresh.get(state, 0) | new
        mine = 1 << state
        for other in bits(new):
            if not self._partners[other] & mine:
                self._partners[other] |= mine
                self._fresh[other] = self._fresh.get(other, 0) | mine
