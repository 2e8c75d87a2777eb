"""What the outputs of nodes look like, as far as the document says: schemas, and the shapes that node types have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.compiler.finding import OPEN, Finding, Steps, Verdict, either, find_in_object, find_in_schema
from schemas.compiler.graph import Graph
from schemas.compiler.region import Regions

_MAX_DEPTH = 8  # nodes that pass an output on, one after the other, that are looked through
_MAX_SOURCES = 16  # alternatives that are looked at
_FAILURE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"class": {}, "message": {}, "attempts": {}, "node": {}},
        }
    },
}
_TEXT = {"type": "object", "additionalProperties": False, "properties": {"text": {"type": "string"}}}

_FIXED: Mapping[str, Mapping[str, Any]] = {
    "map": {"type": "array"},
    "http": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"status": {"type": "integer"}, "headers": {"type": "object"}, "body": {}},
    },
    "sql": {"type": "object", "additionalProperties": False, "properties": {"rows": {"type": "array"}}},
}
"""Outputs whose shape does not depend on the config."""

Source = tuple[str | None, bool]
"""Where an arriving value comes from: (node, because it failed); (None, False) is the run's input, or a map's item."""


class Outputs:
    """Answers whether `output` or `ctx.<node>.output` can have a field."""

    def __init__(self, workflow: Mapping[str, Any], regions: Regions) -> None:
        self._input_schema = workflow.get("input_schema", True)
        self._regions = regions
        self._nodes: dict[str, Mapping[str, Any]] = {}
        self._waiting: set[str] = set()
        self._sources: dict[str, list[Source]] = {}
        for region in regions.inside.values():
            self._nodes |= {node["id"]: node for node in region.holder["nodes"]}
            self._waiting.update(region.graph.names(region.flow.waiting))
            self._sources |= _sources(region.graph)
        self._known: dict[tuple[str, bool, Steps], Finding] = {}

    def of_input(self, steps: Steps) -> Finding:
        """A path in the run's input."""
        return find_in_schema(self._input_schema, steps)

    def of_node(self, node: str, steps: Steps, depth: int = 0) -> Finding:
        """A path in the output of `node`."""
        config = self._nodes[node].get("config", {})
        match self._nodes[node]["type"]:
            case "agent":
                return find_in_schema(config.get("response_format", _TEXT), steps)
            case "transform":
                return find_in_object(config["set"], steps)
            case "branch" | "loop" | "join":
                return self.arrived(node, steps, depth + 1)
            case "map" | "http" | "sql" as kind:
                return find_in_schema(_FIXED[kind], steps)
            case "human":
                return _answer(config, steps)
            case "wait" if "event" not in config:
                return self.arrived(node, steps, depth + 1)
            case _:
                return OPEN

    def arrived(self, node: str, steps: Steps, depth: int = 0) -> Finding:
        """A path in `output` as `node` sees it when it starts."""
        sources = self._sources[node]
        if depth > _MAX_DEPTH or len(sources) > _MAX_SOURCES or not steps:
            return OPEN
        key = (node, depth > 0, steps)
        if key not in self._known:
            self._known[key] = OPEN  # the answer inside a cycle of nodes that pass on
            merged = self._merged(node, sources, steps, depth)
            if self._nodes[node]["type"] == "join":
                self._known[key] = merged
            else:
                alone = [self._from(node, source, steps, depth) for source in sources]
                meets = node in self._waiting and len(sources) > 1
                self._known[key] = either([*alone, merged] if meets else alone)
        return self._known[key]

    def lacking(self, node: str, steps: Steps) -> str | None:
        """A predecessor of `node`, one of several, whose output never has this path; None if there is none such."""
        sources = self._sources[node]
        if node in self._waiting or self._nodes[node]["type"] == "join" or len(sources) > _MAX_SOURCES:
            return None
        for source in sources:
            if source[0] is not None and self._from(node, source, steps, 0).verdict == Verdict.RULED_OUT:
                return source[0]
        return None

    def _merged(self, node: str, sources: list[Source], steps: Steps, depth: int) -> Finding:
        """{predecessor: output}, as a join has it."""
        names = tuple(dict.fromkeys(source for source, _ in sources if source is not None))
        if steps[0] not in names:
            return Finding(Verdict.RULED_OUT, steps[0], names)
        return either(self._from(node, source, steps[1:], depth) for source in sources if source[0] == steps[0])

    def _from(self, node: str, source: Source, steps: Steps, depth: int) -> Finding:
        """What comes to `node` from one source."""
        name, failed = source
        if name is None:
            return self.of_input(steps) if self._regions.of_node[node].map is None else OPEN
        return find_in_schema(_FAILURE, steps) if failed else self.of_node(name, steps, depth)


def _answer(config: Mapping[str, Any], steps: Steps) -> Finding:
    """A path in a person's answer: what the form says, and the choice."""
    if "choices" in config and steps[:1] == ("choice",):
        return find_in_schema({"type": "string"}, steps[1:])
    return find_in_schema(config.get("form", True), steps)


def _sources(graph: Graph) -> dict[str, list[Source]]:
    """node -> where its input may come from"""
    sources: list[set[tuple[int, bool]]] = [set() for _ in graph.ids]
    for group in graph.groups:
        for target in group.places:
            sources[target].add((group.source, group.failed))
    for loop, head in graph.back.items():
        sources[head].add((loop, False))
    return {
        node_id: [*_start(graph, node), *((graph.ids[source], failed) for source, failed in sorted(sources[node]))]
        for node, node_id in enumerate(graph.ids)
    }


def _start(graph: Graph, node: int) -> Iterator[Source]:
    if graph.entries >> node & 1:
        yield None, False
