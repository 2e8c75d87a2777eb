"""Called workflows that a case scripts: in the place of what they call stands a workflow of one task, which is answered
from the script. So the call itself, the child run and its end are real."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR, Node
from schemas.limits import LIMITS

STAND_IN = "pavane_rehearsal"
"""Id of the workflow that stands in, and of its node."""
_DOCUMENT = {
    "id": STAND_IN,
    "nodes": [
        {"id": STAND_IN, "type": "function", "config": {"handler": STAND_IN}, "timeout_ms": LIMITS.duration_ms},
    ],
}


def with_stand_ins(workflow: Mapping[str, Any], scripted: Collection[str]) -> dict[str, Any]:
    """The document, with the stand-in for what the `workflow` nodes in `scripted` call, wherever they are."""
    return {**workflow, "nodes": [_with_stand_ins(node, scripted) for node in workflow["nodes"]]}


def _with_stand_ins(node: Mapping[str, Any], scripted: Collection[str]) -> Mapping[str, Any]:
    config = node.get("config", {})
    if node["type"] == "map":
        return {**node, "config": with_stand_ins(config, scripted)}
    if node["type"] != "workflow":
        return node
    if node["id"] in scripted:
        kept = {name: value for name, value in config.items() if name not in ("workflow_id", "version", "document")}
        return {**node, "config": {**kept, "document": _DOCUMENT}}
    if "document" in config:
        return {**node, "config": {**config, "document": with_stand_ins(config["document"], scripted)}}
    return node


def all_nodes(ir: IR) -> dict[str, Node]:
    """The nodes of a workflow, those in its maps, and those of the workflows in it; of two with one id the outer."""
    found = dict(ir.nodes)
    for node in ir.nodes.values():
        if node.type == "workflow" and "document" in node.config:
            found = all_nodes(compile_workflow(node.config["document"]).ir) | found
    return found
