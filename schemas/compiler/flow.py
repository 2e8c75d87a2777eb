"""The flow of a workflow: loops, waiting, what runs in parallel; and what of it is refused (routing semantics, 1-6)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from schemas.compiler.bitset import bits, spread, union
from schemas.compiler.graph import Graph, Group, cycle_through
from schemas.compiler.loops import LoopBody, core_of, loop_bodies
from schemas.compiler.parallel import Parallel
from schemas.compiler.waiting import Blockers, entered_from_inside, waiting_cycle, waiting_nodes
from schemas.errors import Problem

_SHOWN = 5  # nodes that are named for one loop


@dataclass(frozen=True)
class Flow:
    """What is known of a graph without forward cycles, unreachable nodes, or loops that do not lead back."""

    graph: Graph
    bodies: dict[int, LoopBody]
    entered: int  # nodes entered from inside a loop body that they are not in
    waiting: int
    blockers: Blockers

    @classmethod
    def of(cls, graph: Graph) -> tuple[Flow | None, list[Problem]]:
        """The flow, or None where rules 1 and 2 leave nothing to analyse, and all problems of rules 1-6."""
        problems = [*_forward_cycles(graph)]
        if problems:
            return None, problems
        cores = {loop: core_of(graph, loop) for loop in graph.back}
        problems += _not_leading_back(graph, {loop: core for loop, (_, core) in cores.items()})
        if problems:
            return None, problems
        bodies = loop_bodies(graph, cores)
        entered = entered_from_inside(graph, bodies)
        flow = cls(graph, bodies, entered, waiting_nodes(graph, entered), Blockers(graph, bodies))
        return flow, [*flow._tangles(), *flow._overlaps(), *flow._side_exits(), *flow._wrong_any()]

    @cached_property
    def parallel(self) -> Parallel:
        return Parallel(self.graph, self.waiting, {node: self.blockers[node] for node in bits(self.waiting)})

    def _tangles(self) -> Iterator[Problem]:
        """Rule 3: nodes that wait for each other."""
        blockers = {node: self.blockers[node] & self.waiting for node in bits(self.waiting)}
        left = waiting_cycle(self.graph, blockers)
        steps = [blockers.get(node, 0) & left for node in range(len(self.graph.ids))]
        while left:
            node = next(bits(left))
            together = spread(steps[node], steps)
            if together >> node & 1:
                ring = [self.graph.ids[member] for member in cycle_through(node, steps)]
                message = f"Tangled loops: {_listed(ring)} would wait for each other for ever."
                yield Problem(self.graph.place(node), "tangled-loops", message)
                left &= ~union(other for other in bits(together) if spread(steps[other], steps) >> node & 1)
            left &= ~(1 << node)

    def _overlaps(self) -> Iterator[Problem]:
        """Rule 4: a node of a body that the loop does not wait for, and that may run beside it."""
        for loop, shape in self.bodies.items():
            beside = (
                node
                for node in bits(shape.body & ~self.blockers[loop] & ~(1 << loop))
                if self.parallel.alive(node, loop)
            )
            for node in islice(beside, _SHOWN):
                name, loop_name = self.graph.ids[node], self.graph.ids[loop]
                message = (
                    f"`{name}` belongs to a pass of the loop `{loop_name}` and may still run when `{loop_name}` "
                    f"starts the next one; lead it to `{loop_name}`, then the loop waits for it."
                )
                yield Problem(self.graph.place(node), "overlapping-passes", message)

    def _side_exits(self) -> Iterator[Problem]:
        """Rule 5: a group of a body node that mixes targets inside and outside the body."""
        for loop, shape in self.bodies.items():
            for group in self.graph.groups:
                outside = group.targets & ~shape.body
                inner = shape.body >> group.source & 1 and group.source != loop
                if inner and outside and group.targets & shape.body and not group.conditional:
                    yield self._side_exit(loop, group, next(bits(outside)))

    def _side_exit(self, loop: int, group: Group, target: int) -> Problem:
        source, name, loop_name = (self.graph.ids[node] for node in (group.source, target, loop))
        message = (
            f"`{group.name}` of `{source}` leads out of the loop `{loop_name}` to `{name}` and stays in it at once; "
            f"lead `{name}` to `{loop_name}`, then the loop waits for it."
        )
        return Problem(group.places[target], "side-exit", message)

    def _wrong_any(self) -> Iterator[Problem]:
        """Rule 6: `join: any` where a pass must be complete."""
        for node in bits(self.graph.any):
            name = self.graph.ids[node]
            if node in self.graph.back:
                message = f"The loop `{name}` can not be `join: any`: it waits for all paths of a pass."
                yield Problem(self.graph.place(node, "join"), "join-any", message)
            elif self.entered >> node & 1:
                message = (
                    f"`{name}` can not be `join: any`: it is entered from inside a loop, and waits until that is over."
                )
                yield Problem(self.graph.place(node, "join"), "join-any", message)


def _forward_cycles(graph: Graph) -> Iterator[Problem]:
    """Rule 1: one problem for each cycle's nodes.

    Without such a cycle every node is reached: of what no entry reaches, some node has no forward edge from another
    such node, so it has back edges only and is an entry itself.
    """
    left = graph.all & ~union(graph.order)
    while left:
        node = next(bits(left))
        ahead = spread(graph.forward[node], graph.forward)
        left &= ~(1 << node)
        if ahead >> node & 1:
            ring = [graph.ids[member] for member in [*cycle_through(node, graph.forward), node]]
            message = f"These edges make a cycle: {' -> '.join(ring[:20])}; only a loop's `loop_back_to` may lead back."
            yield Problem(graph.place(node), "forward-cycle", message)
            left &= ~(ahead & spread(1 << node, graph.sources))


def _not_leading_back(graph: Graph, cores: dict[int, int]) -> Iterator[Problem]:
    """Rule 2: a loop whose core lacks its target or itself."""
    for loop, core in cores.items():
        head = graph.back[loop]
        name, head_name = graph.ids[loop], graph.ids[head]
        place = graph.place(loop, "config", "loop_back_to")
        if head == loop:
            message = f"The loop `{name}` can not lead back to itself; name the first node of a pass."
            yield Problem(place, "loop-to-itself", message)
        elif not (core >> head & 1 and core >> loop & 1):
            message = f"loop_back_to does not lead back: from `{head_name}` no path comes to `{name}` again."
            yield Problem(place, "loop-does-not-lead-back", message)


def _listed(names: list[str]) -> str:
    return " and ".join(f"`{name}`" for name in dict.fromkeys(names[:20]))
