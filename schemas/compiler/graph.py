"""The graph of a workflow: nodes by index, edges as bit sets, and the groups of targets that are taken together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from schemas.compiler.bitset import Closure, bits, spread, transposed, union
from schemas.errors import pointer

Steps = tuple[str | int, ...]
"""What leads to a value of the document, as in a JSON pointer."""

_PATHS = {
    "branch": ("default",),
    "loop": ("break_path", "timeout_path"),
    "human": ("deadline_path",),
    "wait": ("deadline_path",),
}
"""Groups of targets in the config of a node, by its type."""


@dataclass(frozen=True, slots=True)
class Group:
    """Targets that are taken together: a node's edges, one branch rule, `default`, `on_error` and so on."""

    source: int
    places: Mapping[int, str]  # target -> JSON pointer of where the document names it first
    targets: int
    conditional: bool = False  # every edge in it has a condition, so that any subset may be taken
    name: str = "edges"  # `on_error`, `break_path` ...: what the document calls it

    @property
    def failed(self) -> bool:
        """Taken instead of the others, with the error as `output`."""
        return self.name in ("on_error", "deadline_path")


@dataclass(frozen=True)
class Graph:
    """One graph: the workflow's own, or that inside a map. Nodes are their positions in its list of nodes.

    Of a document whose ids and targets are known to be good. `root` are the steps to the object that holds the nodes.
    """

    ids: tuple[str, ...]
    types: tuple[str, ...]
    any: int  # nodes with `join: any`
    back: Mapping[int, int]  # loop -> loop_back_to
    groups: tuple[Group, ...]
    forward: tuple[int, ...]  # node -> its targets over forward edges
    root: Steps = ()

    @classmethod
    def of(cls, holder: Mapping[str, Any], root: Steps = ()) -> Graph:
        """Of an object with `nodes` and perhaps `edges`: a workflow, or the config of a map."""
        nodes: Sequence[Mapping[str, Any]] = holder["nodes"]
        index = {node["id"]: i for i, node in enumerate(nodes)}
        groups = tuple(group for group in _groups(holder, index, root) if group.places)
        forward = [0] * len(nodes)
        for group in groups:
            forward[group.source] |= group.targets
        return cls(
            ids=tuple(index),
            types=tuple(node["type"] for node in nodes),
            any=union(i for i, node in enumerate(nodes) if node.get("join") == "any"),
            back={i: index[node["config"]["loop_back_to"]] for i, node in enumerate(nodes) if node["type"] == "loop"},
            groups=groups,
            forward=tuple(forward),
            root=root,
        )

    @property
    def all(self) -> int:
        return (1 << len(self.ids)) - 1

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """node -> its targets over all edges, back edges too"""
        return tuple(
            targets | (1 << self.back[node] if node in self.back else 0) for node, targets in enumerate(self.forward)
        )

    @cached_property
    def sources(self) -> list[int]:
        """node -> its predecessors over forward edges"""
        return transposed(self.forward)

    @cached_property
    def predecessors(self) -> list[int]:
        """node -> its predecessors over all edges"""
        return transposed(self.steps)

    @cached_property
    def entries(self) -> int:
        """Nodes without incoming edges; and while something is unreachable, a loop's target with back edges only."""
        entries = union(node for node, sources in enumerate(self.predecessors) if not sources)
        reached = spread(entries, self.steps)
        for target in sorted(set(self.back.values())):
            if not reached >> target & 1 and not self.sources[target]:
                entries |= 1 << target
                reached = spread(entries, self.steps)
        return entries

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Nodes so that forward edges lead from earlier to later ones; without those on or behind a forward cycle."""
        missing = [sources.bit_count() for sources in self.sources]
        order = [node for node, count in enumerate(missing) if not count]
        for node in order:  # grows while it is walked
            for target in bits(self.forward[node]):
                missing[target] -= 1
                if not missing[target]:
                    order.append(target)
        return tuple(order)

    @cached_property
    def reach(self) -> Closure:
        """node -> what it leads to over all edges, in one or more steps"""
        closure = Closure(self.steps)
        for node in reversed(self.order):  # so that each search ends at what is known
            closure[node]
        return closure

    @cached_property
    def forks(self) -> tuple[int, ...]:
        """The groups with more than one target; the entries are one."""
        groups = [*(group.targets for group in self.groups), self.entries]
        return tuple(dict.fromkeys(targets for targets in groups if targets & targets - 1))

    @cached_property
    def joint(self) -> int:
        """Nodes that two different targets of one group both lead to, or are."""
        joint = 0
        for targets in self.forks:
            once = 0
            for target in bits(targets):
                reached = self.reach[target] | 1 << target
                joint |= once & reached
                once |= reached
        return joint

    @cached_property
    def exits(self) -> int:
        """Nodes that nothing follows, unless they fail."""
        return self.all & ~union(group.source for group in self.groups if not group.failed)

    def names(self, mask: int) -> tuple[str, ...]:
        return tuple(self.ids[node] for node in bits(mask))

    def place(self, node: int, *steps: str | int) -> str:
        """JSON pointer into the document of something in a node."""
        return pointer(*self.root, "nodes", node, *steps)


def cycle_through(node: int, steps: Sequence[int]) -> list[int]:
    """A shortest cycle from `node` back to itself; there must be one."""
    came_from: dict[int, int] = {}
    ring = [node]
    for current in ring:  # grows while it is walked
        for target in bits(steps[current]):
            if target not in came_from:
                came_from[target] = current
                ring.append(target)
        if node in came_from:
            break
    path = [node]
    while (current := came_from[path[-1]]) != node:
        path.append(current)
    return [node, *reversed(path[1:])]


def _groups(holder: Mapping[str, Any], index: Mapping[str, int], root: Steps) -> Iterator[Group]:
    edges: dict[int, list[tuple[int, int, bool]]] = {}
    for position, edge in enumerate(holder.get("edges", ())):
        unconditional = edge.get("condition") is None
        edges.setdefault(index[edge["from"]], []).append((index[edge["to"]], position, unconditional))
    for source, taken in edges.items():
        places: dict[int, str] = {}
        for target, position, _ in taken:
            places.setdefault(target, pointer(*root, "edges", position))
        yield Group(source, places, union(places), conditional=not any(unconditional for *_, unconditional in taken))
    for source, node in enumerate(holder["nodes"]):
        config, here = node.get("config", {}), (*root, "nodes", source)
        yield _named(source, index, node, "on_error", here)
        for name in _PATHS.get(node["type"], ()):
            yield _named(source, index, config, name, (*here, "config"))
        for position, rule in enumerate(config["rules"] if node["type"] == "branch" else ()):
            yield _named(source, index, rule, "next", (*here, "config", "rules", position))


def _named(source: int, index: Mapping[str, int], fields: Mapping[str, Any], name: str, steps: Steps) -> Group:
    places: dict[int, str] = {}
    for position, target in enumerate(fields.get(name, ())):
        places.setdefault(index[target], pointer(*steps, name, position))
    return Group(source, places, union(places), name=name)
