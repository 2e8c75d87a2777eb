"""A plan: what one atomic step does to a run, decided outside and applied by `lua/advance.lua` or `start_run.lua`.

It is the whole interface between the decisions (pure, here and in the coordinator) and the scripts: they know no graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.ir import IR, Node
from schemas.values import Artifact

Rank = tuple[int, str]
"""(depth, lane) of an execution. The highest wins where executions overlap; lanes compare as text."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A token on its way: from `source` ("" for the run's input) to `node`, with the value that it carries."""

    node: str
    source: str
    value: str | None  # stored text (schemas/values.py); None at the entries, whose value is the run's input
    rank: Rank  # of the execution that it comes from
    depth: int  # of the token that it makes
    lane: str


@dataclass(frozen=True, slots=True)
class Output:
    """A node that was executed in this step."""

    node: str
    value: str | None  # stored text; None if it failed
    rank: Rank
    ends: bool  # it emitted nothing


@dataclass(slots=True)
class Plan:
    """All that one step does. `fires` start at once, `arrivals` go to nodes that wait."""

    scope: str = ""
    outputs: list[Output] = field(default_factory=list)
    fires: list[Arrival] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    passes: dict[str, int] = field(default_factory=dict)  # loop -> passes completed
    found: dict[str, int] = field(default_factory=dict)  # loop -> passes that these were counted from
    restarted: list[str] = field(default_factory=list)  # inner loops that start afresh
    artifacts: list[Artifact] = field(default_factory=list)
    items: list[str] = field(default_factory=list)  # stored texts: start each with this plan (start_items)
    failed: bool = False

    def encode(self, ir: IR, consumed: str | None, base: int) -> tuple[bytes, list[str | bytes]]:
        """The plan as JSON, and the values that its indexes point at; the first one will be ARGV[base]."""
        places: dict[str | bytes, int] = {}  # a node's output and what arrives from it are one text: sent once

        def put(value: str | bytes | None) -> int | None:
            return None if value is None else places.setdefault(value, base + len(places))

        body: dict[str, Any] = {
            "digest": ir.digest,
            "scope": self.scope,
            "outputs": [_output(ir, output, put(output.value)) for output in self.outputs],
        }
        in_context = {output.node: output.value for output in self.outputs}

        def carried(arrival: Arrival) -> str | None:
            stays = ir.keeps_output_for(arrival.node) and in_context.get(arrival.source) == arrival.value
            return None if stays else arrival.value

        if self.fires:
            body["fires"] = [_arrival(arrival, put(carried(arrival))) for arrival in self.fires]
        if self.arrivals:
            body["arrivals"] = [_arrival(arrival, put(carried(arrival))) for arrival in self.arrivals]
        if self.passes:
            body["passes"] = self.passes
        if self.found and ir.patched:  # tokens of another revision may go round beside this one
            body["found"] = self.found
        if self.restarted:
            body["restarted"] = self.restarted
        if self.artifacts:
            body["artifacts"] = [(artifact.name, put(artifact.packed)) for artifact in self.artifacts]
        if self.items:
            body["items"] = [put(item) for item in self.items]
        if ir.lanes:
            body["ranked"] = True
        if consumed is not None and (enclosing := ir.nodes[consumed].analysis.map):
            body["exit"] = ir.nodes[enclosing].analysis.exit
        if self.failed:
            body["failed"] = True
        body.update(self._waiting(ir, consumed))
        return orjson.dumps(body), list(places)

    def _waiting(self, ir: IR, consumed: str | None) -> dict[str, Any]:
        """Deltas of the waiting nodes' counters, what may be released, and the targets' places (routing: waiting)."""
        deltas: Counter[str] = Counter()
        if consumed is not None:
            deltas.subtract(_blocks(ir, consumed))
        for arrival in self.fires:
            deltas.update(_blocks(ir, arrival.node))
        pending = {node: delta for node, delta in deltas.items() if delta}
        releases = list(dict.fromkeys([*pending, *(arrival.node for arrival in self.arrivals)]))
        targets = {a.node for a in self.fires} | {a.node for a in self.arrivals} | set(releases)
        body: dict[str, Any] = {}
        if pending:
            body["pending"] = pending
        if releases:
            body["releases"] = releases
        if targets:
            body["targets"] = {node: _target(ir, node) for node in targets}
        return body


def start_plan(ir: IR, map_node: str | None = None) -> Plan:
    """The plan of a new run, or of an item of a map: a token at each entry; the coordinator decides those that are no
    tasks."""
    plan = Plan()
    for node_id in ir.nodes[map_node].analysis.entries if map_node else ir.entries:
        arrival = Arrival(node_id, "", None, (0, ""), 0, "")
        (plan.arrivals if ir.nodes[node_id].analysis.waits else plan.fires).append(arrival)
    return plan


def places(ir: IR, map_node: str | None = None) -> dict[str, dict[str, Any]]:
    """Where the tokens of a graph go: of the run's own nodes, or those of a map, whose exit stands under "".

    node -> {stream, queue_ms, within, blocks, waits, parallel (of a map)}
    """
    found = {node.id: _place(ir, node) for node in ir.nodes.values() if node.analysis.map == map_node}
    if map_node is not None:
        found[""] = {"exit": ir.nodes[map_node].analysis.exit}
    return found


def _place(ir: IR, node: Node) -> dict[str, Any]:
    place = _target(ir, node.id)
    if node.analysis.waits:
        place["waits"] = True
    if node.map:
        place["parallel"] = node.map.max_parallel
    return place


def _blocks(ir: IR, node_id: str) -> Iterable[str]:
    # A node that a patch removed while its token lived holds nothing back any more.
    node = ir.nodes.get(node_id)
    return node.analysis.blocks if node else ()


def _output(ir: IR, output: Output, value: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"node": output.node}
    if value is not None:
        body["value"] = value
    if output.ends or ir.repeats:  # a node that is executed once need not be taken off the set of ends
        body["ends"] = output.ends
    if ir.lanes:
        body["rank"] = output.rank
    return body


def _arrival(arrival: Arrival, value: int | None) -> dict[str, Any]:
    body = {
        "node": arrival.node,
        "from": arrival.source,
        "rank": arrival.rank,
        "depth": arrival.depth,
        "lane": arrival.lane,
    }
    if value is not None:
        body["value"] = value
    return body


def _target(ir: IR, node_id: str) -> dict[str, Any]:
    analysis = ir.nodes[node_id].analysis
    body: dict[str, Any] = {}
    if analysis.stream:
        body["stream"] = analysis.stream
    if ir.nodes[node_id].queue_timeout_ms is not None:
        body["queue_ms"] = ir.nodes[node_id].queue_timeout_ms
    if analysis.within:
        body["within"] = analysis.within
    if analysis.blocks:
        body["blocks"] = analysis.blocks
    return body
