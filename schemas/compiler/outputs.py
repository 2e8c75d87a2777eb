"""What the outputs of nodes look like, as far as the document says: schemas, and the shapes that node types have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.compiler.finding import OPEN, Finding, Steps, Verdict, either, find_in_object, find_in_schema
from schemas.compiler.graph import Graph

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

Source = tuple[int | None, bool]
"""Where an arriving value comes from: (node, because it failed); (None, False) is the run's input."""


class Outputs:
    """Answers whether `output` or `ctx.<node>.output` can have a field."""

    def __init__(self, workflow: Mapping[str, Any], graph: Graph, waiting: int) -> None:
        self._workflow = workflow
        self._graph = graph
        self._waiting = waiting
        self._sources = _sources(graph)
        self._known: dict[tuple[int, bool, Steps], Finding] = {}

    def of_input(self, steps: Steps) -> Finding:
        """A path in the run's input."""
        return find_in_schema(self._workflow.get("input_schema", True), steps)

    def of_node(self, node: int, steps: Steps, depth: int = 0) -> Finding:
        """A path in the output of `node`."""
        config = self._workflow["nodes"][node].get("config", {})
        match self._graph.types[node]:
            case "agent":
                return find_in_schema(config.get("response_format", _TEXT), steps)
            case "transform":
                return find_in_object(config["set"], steps)
            case "branch" | "loop" | "join":
                return self.arrived(node, steps, depth + 1)
            case _:
                return OPEN

    def arrived(self, node: int, steps: Steps, depth: int = 0) -> Finding:
        """A path in `output` as `node` sees it when it starts."""
        sources = self._sources[node]
        if depth > _MAX_DEPTH or len(sources) > _MAX_SOURCES or not steps:
            return OPEN
        key = (node, depth > 0, steps)
        if key not in self._known:
            self._known[key] = OPEN  # the answer inside a cycle of nodes that pass on
            merged = self._merged(node, sources, steps, depth)
            if self._graph.types[node] == "join":
                self._known[key] = merged
            else:
                alone = [self._from(source, steps, depth) for source in sources]
                meets = self._waiting >> node & 1 and len(sources) > 1
                self._known[key] = either([*alone, merged] if meets else alone)
        return self._known[key]

    def lacking(self, node: int, steps: Steps) -> str | None:
        """A predecessor of `node`, one of several, whose output never has this path; None if there is none such."""
        sources = self._sources[node]
        if self._waiting >> node & 1 or self._graph.types[node] == "join" or len(sources) > _MAX_SOURCES:
            return None
        for source in sources:
            if source[0] is not None and self._from(source, steps, 0).verdict == Verdict.RULED_OUT:
                return self._graph.ids[source[0]]
        return None

    def _merged(self, node: int, sources: list[Source], steps: Steps, depth: int) -> Finding:
        """{predecessor: output}, as a join has it."""
        names = {self._graph.ids[source]: source for source, _ in sources if source is not None}
        if steps[0] not in names:
            return Finding(Verdict.RULED_OUT, steps[0], tuple(names))
        inner = [self._from(source, steps[1:], depth) for source in sources if source[0] == names[steps[0]]]
        return either(inner)

    def _from(self, source: Source, steps: Steps, depth: int) -> Finding:
        node, failed = source
        if node is None:
            return self.of_input(steps)
        return find_in_schema(_FAILURE, steps) if failed else self.of_node(node, steps, depth)


def _sources(graph: Graph) -> list[list[Source]]:
    """node -> where its input may come from"""
    sources: list[dict[Source, None]] = [{} for _ in graph.ids]
    for group in graph.groups:
        for target in group.places:
            sources[target][group.source, group.name == "on_error"] = None
    for loop, head in graph.back.items():
        sources[head][loop, False] = None
    return [
        [*_input(graph, node), *sorted(found, key=lambda source: (source[0] or 0, source[1]))]
        for node, found in enumerate(sources)
    ]


def _input(graph: Graph, node: int) -> Iterator[Source]:
    if graph.entries >> node & 1:
        yield None, False
