"""Revisions: a run's workflow after a patch, what differs, and what of it the run can still reach. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jsonpatch
import orjson

from schemas.compiler.compiler import compile_workflow
from schemas.errors import InvalidDocument, Problem
from schemas.events import Event
from schemas.ir import IR, Node, Patched
from schemas.limits import LIMITS, Limits
from schemas.patch import apply_patch

Operation = Mapping[str, Any]
"""One operation of RFC 6902."""

RESTARTABLE = frozenset({"running", "asked", "timed", "listening", "calling"})
"""States of tokens whose work a patch may begin anew."""
UNSTARTED = frozenset({"waiting", "queued", "delayed", "deciding", "parked"})


@dataclass(frozen=True, slots=True)
class Difference:
    """Node ids in the order of their documents. `changed`: whatever differs, of a map without its sub-graph."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    gone: frozenset[str]  # removed, or moved into or out of a map: their tokens can not stay
    redefined: frozenset[str]  # what is executed differs: type, config or timeout
    retyped: frozenset[str]
    loops: tuple[str, ...]  # loops that are gone


@dataclass(frozen=True, slots=True)
class Revision:
    """What a patch makes of a run's IR. `warnings` as those of a submission."""

    ir: IR
    operations: Sequence[Operation]
    difference: Difference
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """Where a run's tokens were as it was patched (lua/patch_run.lua)."""

    nodes: Mapping[str, Mapping[str, int]]  # node -> state -> tokens
    open: Mapping[str, bool]  # maps that have items to start
    whole: bool  # all items of maps were looked at


def revise(ir: IR, operations: Any, limits: Limits = LIMITS, patched: Patched | None = None) -> Revision:
    """The IR after a patch. Raises InvalidDocument: paths begin with `/operations` where a fault lies in the patch,
    with `/workflow` where it lies in the workflow that it would give."""
    workflow = apply_patch(ir.workflow, operations, limits)
    try:
        compiled = compile_workflow(workflow, limits, patched or ir.patched or Patched())
    except InvalidDocument as error:
        raise InvalidDocument(Problem("/workflow" + p.path, p.code, p.message) for p in error.problems) from None
    return Revision(compiled.ir, operations, difference(ir, compiled.ir), compiled.warnings)


def restore(ir: IR, workflow: Mapping[str, Any], limits: Limits = LIMITS) -> Revision:
    """The IR whose workflow becomes `workflow`, by the operations that lead there. Raises InvalidDocument."""
    return revise(ir, operations_to(ir.workflow, workflow, limits), _roomy(limits))


def _roomy(limits: Limits) -> Limits:
    """Of operations that hold a whole workflow, which was accepted before."""
    return replace(limits, patch_bytes=2 * limits.workflow_bytes)


def operations_to(workflow: Mapping[str, Any], other: Mapping[str, Any], limits: Limits = LIMITS) -> list[Operation]:
    """A JSON Patch that makes the other workflow of the first."""
    operations: list[Operation] = list(jsonpatch.make_patch(workflow, other))
    try:
        if _text(apply_patch(workflow, operations, limits)) == _text(other):
            return operations
    except InvalidDocument:
        pass  # too many operations
    return [{"op": "replace", "path": "", "value": other}]


def _text(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def ir_after(ir: IR, events: Iterable[Event]) -> IR:
    """The IR that a run has after `events`, which began with `ir`."""
    patches = [event for event in events if event.type == "run_patched"]
    if not patches:
        return ir
    agents = [event.data["agents"] for event in patches if event.data.get("agents")]
    patched = Patched(**agents[-1]) if agents else ir.patched or Patched()
    return compile_workflow(workflow_after(ir.workflow, patches), LIMITS, patched).ir


def workflow_after(workflow: Mapping[str, Any], events: Iterable[Event]) -> Mapping[str, Any]:
    """The document that a run's workflow has become after `events`, which began with `workflow`."""
    for event in events:
        if event.type == "run_patched":
            workflow = apply_patch(workflow, event.data["operations"], _roomy(LIMITS))
    return workflow


# -- what differs --------------------------------------------------------------------------------
def difference(old: IR, new: IR) -> Difference:
    gone = frozenset(n for n, node in old.nodes.items() if not _remains(node, new.nodes.get(n)))
    stay = [n for n in new.nodes if n in old.nodes and n not in gone]
    before, after = _shown(old), _shown(new)
    return Difference(
        added=tuple(n for n in new.nodes if n not in old.nodes),
        removed=tuple(n for n in old.nodes if n not in new.nodes),
        changed=tuple(n for n in new.nodes if n in old.nodes and before[n] != after[n]),
        gone=gone,
        redefined=frozenset(n for n in stay if _work(old.nodes[n]) != _work(new.nodes[n])),
        retyped=frozenset(n for n in stay if old.nodes[n].type != new.nodes[n].type),
        loops=tuple(n for n in old.loops if n not in new.loops or n in gone),
    )


def _remains(node: Node, new: Node | None) -> bool:
    return new is not None and new.analysis.map == node.analysis.map


def _work(node: Node) -> tuple[Any, ...]:
    """What an execution of the node is made of."""
    return node.type, _own_config(node), node.timeout_ms


def _own_config(node: Node) -> Mapping[str, Any]:
    if node.type != "map":
        return node.config
    return {name: value for name, value in node.config.items() if name not in ("nodes", "edges")}


def _shown(ir: IR) -> dict[str, Any]:
    """All that the document says of each node, and of the edges that leave it."""
    edges, descriptions = _edges(ir.workflow), _descriptions(ir.workflow)
    return {
        n: (
            node.type, _own_config(node), node.timeout_ms, node.queue_timeout_ms, node.retry, node.on_error, node.any,
            node.analysis.map, edges.get(n, []), descriptions[n],
        )
        for n, node in ir.nodes.items()
    }  # fmt: skip


def _edges(graph: Mapping[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for edge in graph.get("edges", ()):
        found.setdefault(edge["from"], []).append([edge["to"], edge.get("condition")])
    for node in graph["nodes"]:
        if node["type"] == "map":
            found |= _edges(node["config"])
    return found


def _descriptions(graph: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in graph["nodes"]:
        found[node["id"]] = node.get("description")
        if node["type"] == "map":
            found |= _descriptions(node["config"])
    return found


# -- what can still be reached -------------------------------------------------------------------
def reachable(new: IR, difference: Difference, view: View, *, restart: bool = False) -> frozenset[str]:
    """Nodes that will be executed under `new` if their paths are taken."""
    reached: set[str] = set()
    ahead: list[str] = []
    for node_id, states in view.nodes.items():
        if node_id not in new.nodes or node_id in difference.gone:
            continue
        begun_anew = RESTARTABLE if restart and node_id in difference.redefined else frozenset()
        if any(state in UNSTARTED or state in begun_anew for state in states):
            ahead.append(node_id)
        ahead += successors(new.nodes[node_id])
        if "mapping" in states and (node_id in view.open or not view.whole):
            ahead += new.nodes[node_id].analysis.entries
    while ahead:
        node_id = ahead.pop()
        if node_id not in reached:
            reached.add(node_id)
            ahead += (*successors(new.nodes[node_id]), *new.nodes[node_id].analysis.entries)
    return frozenset(reached)


def successors(node: Node) -> Iterator[str]:
    """Where a node's tokens may go."""
    groups: list[Sequence[str]] = [[edge.to for edge in node.edges], *(rule.next for rule in node.rules)]
    groups += [targets for targets in (node.default, node.on_error, node.deadline_path) if targets]
    if node.loop:
        groups += [[node.loop.back_to], node.loop.break_path, node.loop.timeout_path or ()]
    for group in groups:
        yield from group


def restarted(difference: Difference, view: View) -> list[str]:
    """Nodes whose work begins anew with `running: "restart"`."""
    return [
        node_id
        for node_id, states in view.nodes.items()
        if (node_id in difference.redefined or node_id in difference.retyped) and RESTARTABLE & states.keys()
    ]
