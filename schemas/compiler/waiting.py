"""Which nodes wait for parallel paths, and for whom (routing semantics, "Waiting")."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.compiler.bitset import Closure, bits, union
from schemas.compiler.graph import Graph
from schemas.compiler.loops import LoopBody


def entered_from_inside(graph: Graph, bodies: Mapping[int, LoopBody]) -> int:
    """Nodes with a predecessor inside a loop body that they are not in, other than the loop itself."""
    entered = 0
    for loop, shape in bodies.items():
        exits = 0
        for node in bits(shape.body & ~(1 << loop)):
            exits |= graph.steps[node]
        entered |= exits & ~shape.body
    return entered


def waiting_nodes(graph: Graph, entered: int) -> int:
    """The nodes that wait; every other node fires on arrival."""
    meeting = union(
        node
        for node, node_type in enumerate(graph.types)
        if node_type in ("join", "loop") or graph.predecessors[node].bit_count() > 1
    )
    return (meeting | entered) & graph.joint & ~graph.any


class Blockers:
    """blockers(n): the nodes other than n with a path to n that takes no back edge of a loop around n."""

    def __init__(self, graph: Graph, bodies: Mapping[int, LoopBody]) -> None:
        self._graph = graph
        self._bodies = bodies
        self._around: dict[int, Closure] = {}  # by the set of loops whose bodies contain the node

    def __getitem__(self, node: int) -> int:
        around = union(loop for loop, shape in self._bodies.items() if shape.body >> node & 1)
        if around not in self._around:
            self._around[around] = Closure(self._backwards(around))
        return self._around[around][node] & ~(1 << node)

    def _backwards(self, around: int) -> list[int]:
        sources = list(self._graph.sources)
        for loop, head in self._graph.back.items():
            if not around >> loop & 1:
                sources[head] |= 1 << loop
        return sources


def waiting_cycle(graph: Graph, blockers: Mapping[int, int]) -> int:
    """Waiting nodes that are left when those that wait for no other are taken away, again and again; 0 is good.

    `blockers` has the waiting nodes only.
    """
    left = union(blockers)
    order = [node for node in graph.order if left >> node & 1]
    before = 0
    while left != before:
        before = left
        for node in order:
            if left >> node & 1 and not blockers[node] & left:
                left ^= 1 << node
    return left
