"""The graphs of a document: the workflow's own and one inside each map, each analysed alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from schemas.compiler.bitset import bits
from schemas.compiler.flow import Flow
from schemas.compiler.graph import Graph, Steps
from schemas.errors import Problem, pointer

_SHOWN = 10  # exits that are named


@dataclass(frozen=True, eq=False)
class Region:
    """One graph of a document: the workflow's own, or that inside a map."""

    holder: Mapping[str, Any]  # has its nodes and edges: the workflow, or the config of the map
    flow: Flow
    map: str | None
    outer: Region | None

    @property
    def graph(self) -> Graph:
        return self.flow.graph

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Its nodes, by id."""
        return {node_id: node for node, node_id in enumerate(self.graph.ids)}

    @property
    def exit(self) -> str:
        """Of a map: the node whose output is an item's result."""
        return self.graph.ids[next(bits(self.graph.exits))]


@dataclass(frozen=True, eq=False)
class Regions:
    """inside: the graphs by the map that they are inside of, None for the workflow's own; an outer one goes first.

    index: every node of the document by id, in the order of the text.
    """

    inside: Mapping[str | None, Region]
    index: Mapping[str, int]

    @classmethod
    def of(cls, workflow: Mapping[str, Any]) -> tuple[Regions | None, list[Problem]]:
        """The graphs, or None where one of them can not be analysed, and all problems of all of them."""
        problems: list[Problem] = []
        inside: dict[str | None, Region] = {}
        good = True
        for holder, root, map_id, outer in _holders(workflow, (), None, None):
            flow, found = Flow.of(Graph.of(holder, root))
            problems += found
            good = good and flow is not None
            if flow is not None:
                problems += _wrong_exits(flow.graph, map_id)
                inside[map_id] = Region(holder, flow, map_id, inside.get(outer))
        index = {node_id: place for place, node_id in enumerate(_ids(workflow))}
        return (cls(inside, index) if good else None), problems

    @cached_property
    def of_node(self) -> Mapping[str, Region]:
        """node id -> the graph that it belongs to"""
        return {node_id: region for region in self.inside.values() for node_id in region.graph.ids}

    def stand_in(self, node_id: str, region: Region) -> int | None:
        """A node as seen from a graph: itself, or the map there that it lies in; None if it lies elsewhere."""
        own: Region | None = self.of_node[node_id]
        while own is not None and own is not region:
            node_id, own = own.map or "", own.outer
        return None if own is None else own.index[node_id]


def _holders(
    holder: Mapping[str, Any], root: Steps, map_id: str | None, outer: str | None
) -> Iterator[tuple[Mapping[str, Any], Steps, str | None, str | None]]:
    """The objects that hold nodes: each with its steps, the map that it is the config of, and the map around that."""
    yield holder, root, map_id, outer
    for place, node in enumerate(holder["nodes"]):
        if node["type"] == "map":
            yield from _holders(node["config"], (*root, "nodes", place, "config"), node["id"], map_id)


def _ids(holder: Mapping[str, Any]) -> Iterator[str]:
    for node in holder["nodes"]:
        yield node["id"]
        if node["type"] == "map":
            yield from _ids(node["config"])


def _wrong_exits(graph: Graph, map_id: str | None) -> Iterator[Problem]:
    """An item's result is one node's output; without forward cycles there is always a node that nothing follows."""
    if map_id is not None and graph.exits & graph.exits - 1:
        names = [f"`{name}`" for name in graph.names(graph.exits)]
        shown = ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
        message = (
            f"In the map `{map_id}` one node must be the last, its output being the item's result; nothing follows "
            f"{len(names)} nodes: {shown}. Lead them to one node, such as a `join`."
        )
        yield Problem(pointer(*graph.root, "nodes"), "map-exit", message)
