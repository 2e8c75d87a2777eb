"""The analyses of the IR: what the coordinator and the runners need to know about each node, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.compiler.bitset import Closure, bits, transposed, union
from schemas.compiler.flow import Flow
from schemas.compiler.loops import innermost
from schemas.compiler.region import Region, Regions
from schemas.compiler.survey import Use
from schemas.ir import OPENED_TYPES, TASK_TYPES, Analysis
from schemas.keys import agent_stream, task_stream

LOAD_OPTIONS = frozenset(
    {
        *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap"),
        *("use_mlock", "numa", "low_vram", "f16_kv", "vocab_only", "logits_all", "embedding_only"),
        *("rope_frequency_base", "rope_frequency_scale", "num_gqa"),
    }
)
"""Options that Ollama applies when it loads a model (`api.Runner`, older versions included): others need no reload."""


def model_pool(config: Mapping[str, Any]) -> str:
    """The model that an agent's tasks queue for: one with other load-time options counts as another model."""
    model = str(config["model"])
    chosen = {name: value for name, value in config.get("options", {}).items() if name in LOAD_OPTIONS}
    if not chosen:
        return model
    text = json.dumps(chosen, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return f"{model}#{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def analyses(regions: Regions, uses: Iterable[Use]) -> dict[str, Analysis]:
    """One analysis per node id, in the order of the document."""
    of_region: dict[Region, list[Use]] = {region: [] for region in regions.inside.values()}
    for use in uses:
        of_region[regions.of_node[use.node]].append(use)
    found: dict[str, Analysis] = {}
    for region, own in of_region.items():
        found |= _of_region(regions, region, own)
    return {node_id: found[node_id] for node_id in regions.index}


def _of_region(regions: Regions, region: Region, uses: list[Use]) -> dict[str, Analysis]:
    flow, graph = region.flow, region.graph
    names = tuple(regions.index)
    task_reads, route_reads, reading_input = _reads(uses, region, regions.index)
    within = [innermost(flow.bodies, node) for node in range(len(graph.ids))]
    decided = [1 << node | mask for node, mask in enumerate(_passing_reached(flow))]
    blocked = [0] * len(graph.ids)  # waiting node -> its blockers
    for node in bits(flow.waiting):
        blocked[node] = flow.blockers[node]
    blocks = transposed(blocked)
    found = {}
    for node, node_id in enumerate(graph.ids):
        stream, pool = _stream(region.holder["nodes"][node])
        shape = flow.bodies.get(node)
        inner = regions.inside.get(node_id)
        found[node_id] = Analysis(
            index=regions.index[node_id],
            stream=stream,
            pool=pool,
            waits=bool(flow.waiting >> node & 1),
            within=_name(graph.ids, within[node]),
            blocks=graph.names(blocks[node]),
            predecessors=graph.names(graph.predecessors[node]),
            task_reads=_named(names, task_reads[node]),
            route_reads=_named(names, _all(route_reads[other] for other in bits(decided[node]))),
            route_input=bool(reading_input & decided[node]),
            route_loops=graph.names(_counts(flow, within, node, decided[node])),
            form=shape.form if shape else None,
            body=graph.names(shape.body) if shape else (),
            inner=graph.names(shape.inner) if shape else (),
            map=region.map,
            entries=inner.graph.names(inner.graph.entries) if inner else (),
            exit=inner.exit if inner else None,
        )
    return found


def _reads(uses: Iterable[Use], region: Region, index: Mapping[str, int]) -> tuple[list[int], list[int], int]:
    """node -> the nodes (by `index`: of the whole document) that its runner reads, and that the coordinator reads to
    open or route it; and the nodes for which the coordinator reads the run's input."""
    graph = region.graph
    task_reads, route_reads, reading_input = [0] * len(graph.ids), [0] * len(graph.ids), 0
    for use in uses:
        node = region.index[use.node]
        rendered = use.template and graph.types[node] in TASK_TYPES
        reads = task_reads if rendered else route_reads
        reads[node] |= union(index[name] for name in use.references.nodes)
        if not rendered and "input" in use.references.variables:
            reading_input |= 1 << node
    return task_reads, route_reads, reading_input


def _passing_reached(flow: Flow) -> list[int]:
    """node -> the nodes that may be decided in the same step as its completion, in passing."""
    stops = TASK_TYPES | OPENED_TYPES
    tokens = union(node for node, node_type in enumerate(flow.graph.types) if node_type in stops)
    passing = flow.graph.all & ~tokens & ~flow.waiting
    inner = Closure([targets & passing if passing >> node & 1 else 0 for node, targets in enumerate(flow.graph.steps)])
    for node in reversed(flow.graph.order):  # so that each search ends at what is known
        inner[node]
    reached = []
    for targets in flow.graph.steps:
        first = targets & passing
        reached.append(first | _all(inner[node] for node in bits(first)))
    return reached


def _counts(flow: Flow, within: list[int | None], node: int, decided: int) -> int:
    """The loops whose counts routing `node` may read or write: those decided, and those around what is decided."""
    loops = union(loop for loop in flow.bodies if decided >> loop & 1)
    task = flow.graph.types[node] in TASK_TYPES
    around = (within[other] for other in bits(decided) if not (task and other == node))
    return loops | union(loop for loop in around if loop is not None)


def _stream(node: Mapping[str, Any]) -> tuple[str | None, str | None]:
    if node["type"] == "agent":
        pool = model_pool(node["config"])
        return agent_stream(pool), pool
    return (task_stream(node["type"]), None) if node["type"] in TASK_TYPES else (None, None)


def _all(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total


def _named(names: tuple[str, ...], mask: int) -> tuple[str, ...]:
    return tuple(names[node] for node in bits(mask))


def _name(ids: tuple[str, ...], node: int | None) -> str | None:
    return None if node is None else ids[node]
