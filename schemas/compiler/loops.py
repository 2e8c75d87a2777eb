"""The body of each loop: which nodes belong to a pass (routing semantics, "The body of a loop")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.compiler.bitset import bits, spread, union
from schemas.compiler.graph import Graph
from schemas.ir import LoopForm


@dataclass(frozen=True, slots=True)
class LoopBody:
    """One loop: its form, the nodes of a pass, and the loops whose counts a new pass deletes."""

    form: LoopForm
    body: int
    inner: int  # loops that lie strictly in this one


def core_of(graph: Graph, loop: int) -> tuple[LoopForm, int]:
    """The form of a loop and its core. A core that lacks the loop or its target means that it does not lead back."""
    head = graph.back[loop]
    without_head = spread(graph.entries & ~(1 << head), graph.steps, stop=1 << head)
    if not without_head >> loop & 1:
        return "do-while", 1 << head | spread(1 << loop, graph.predecessors, stop=1 << head)
    without_loop = spread(graph.entries & ~(1 << loop), graph.steps, stop=1 << loop)
    if not without_loop >> head & 1:
        inside = spread(1 << head, graph.steps, stop=1 << loop)
        ends = graph.sources[loop] & inside & ~without_loop
        core = 1 << loop | spread(ends, graph.predecessors, stop=1 << loop) & inside
        if core >> head & 1:
            return "while", core
    return "paths", spread(1 << head, graph.forward) & spread(1 << loop, graph.sources)


def loop_bodies(graph: Graph, cores: Mapping[int, tuple[LoopForm, int]]) -> dict[int, LoopBody]:
    """The bodies of all loops; `cores` has, for each loop, a core that contains it and its target."""
    lying = _lying_in(graph, {loop: core for loop, (_, core) in cores.items()})
    bodies = {}
    for loop, (form, core) in cores.items():
        steps, sources = list(graph.forward), list(graph.sources)
        for inner in bits(lying[loop]):
            steps[inner] |= 1 << graph.back[inner]
            sources[graph.back[inner]] |= 1 << inner
        paths = spread(1 << graph.back[loop], steps) & spread(1 << loop, sources)
        strictly = union(inner for inner in bits(lying[loop]) if not lying[inner] >> loop & 1)
        bodies[loop] = LoopBody(form, core | paths, strictly)
    return bodies


def innermost(bodies: Mapping[int, LoopBody], node: int) -> int | None:
    """The innermost loop whose body contains `node`: that with the smallest body, the first of equals."""
    around = [loop for loop, shape in bodies.items() if shape.body >> node & 1]
    return min(around, key=lambda loop: (bodies[loop].body.bit_count(), loop), default=None)


def _lying_in(graph: Graph, cores: Mapping[int, int]) -> dict[int, int]:
    """Loop -> the other loops that lie in it, transitively."""
    lying = {
        outer: union(
            inner
            for inner, other in cores.items()
            if inner != outer and (core >> inner & 1 or (core >> graph.back[inner] & 1 and not other >> outer & 1))
        )
        for outer, core in cores.items()
    }
    steps = [lying.get(node, 0) for node in range(len(graph.ids))]
    return {outer: spread(lying[outer], steps) & ~(1 << outer) for outer in cores}
