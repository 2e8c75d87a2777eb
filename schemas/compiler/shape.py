"""The shape of a workflow document: its fields and those of its nodes and edges, each of the right kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.compiler import checks
from schemas.compiler.node_rules import LATER_TYPES, NodeType, node_types, retry_fields
from schemas.compiler.survey import Check, Fields, Place, check_fields, kind_of, optional, required
from schemas.ids import NODE_ID, WORKFLOW_ID
from schemas.ir import TASK_TYPES
from schemas.limits import Limits

_ONLY_TASKS = ("retry", "timeout_ms", "on_error")
_DESCRIPTION = checks.text(high=4_096)


def check_shape(place: Place, document: Mapping[str, Any]) -> None:
    """Notes in the survey of `place` all that is wrong with the document apart from its graph, and what it names."""
    limits = place.survey.limits
    types = node_types(limits)
    declared = _declared(document)
    defaults = {name: entry for name, entry in _task_fields(limits).items() if name != "on_error"}

    def edge(at: Place, value: Any) -> None:
        _check_edge(at, value, declared, types)

    fields = {
        "id": required(checks.name(WORKFLOW_ID, "lower-case letters, digits, `_` and `-`, at most 64")),
        "description": optional(_DESCRIPTION),
        "input_schema": optional(checks.schema),
        "defaults": optional(checks.fields(defaults, "`defaults`")),
        "nodes": required(_nodes_check(limits, types)),
        "edges": optional(checks.items(edge)),
    }
    check_fields(place, document, fields, "a workflow")
    _refuse_duplicates(place.at("nodes"), document.get("nodes"))
    for mention, node_id in place.survey.mentions:
        if node_id not in declared:
            meant = place.survey.did_you_mean(node_id, declared)
            mention.refuse("unknown-node", f"There is no node `{node_id}`{meant}.")


def _nodes_check(limits: Limits, types: Mapping[str, NodeType]) -> Check:
    def node(place: Place, value: Any) -> None:
        _check_node(place, value, types)

    listed = checks.items(node, low=1)

    def check(place: Place, value: Any) -> None:
        if isinstance(value, list | tuple) and len(value) > limits.workflow_nodes:
            message = f"A workflow has at most {limits.workflow_nodes} nodes (limit workflow_nodes), not {len(value)}."
            place.refuse("too-large", message)
        else:
            listed(place, value)

    return check


def _check_node(place: Place, node: Any, types: Mapping[str, NodeType]) -> None:
    if not isinstance(node, Mapping):
        place.refuse("wrong-type", f"A node must be an object, not {kind_of(node)}.")
        return
    node_id, node_type = node.get("id"), node.get("type")
    owned = Place(place.survey, place.steps, node_id if isinstance(node_id, str) else "")
    known = types.get(node_type) if isinstance(node_type, str) else None
    fields = {
        "id": required(checks.name(NODE_ID, "a letter or `_`, then letters, digits and `_`, at most 64")),
        "type": required(_type_check(types)),
        "description": optional(_DESCRIPTION),
        "config": optional(_config_check(str(node_type), known)) if known else optional(_anything),
        "join": optional(checks.one_of("any")),
        **{name: optional(_anything) for name in _ONLY_TASKS},
    }
    if known and node_type in TASK_TYPES:
        fields |= _task_fields(place.survey.limits)
    elif known:
        for name in _ONLY_TASKS:
            if name in node:
                message = f"`{name}` is for nodes that make a task ({' and '.join(sorted(TASK_TYPES))}), not for a "
                owned.at(name).refuse("task-only", f"{message}{node_type}.")
    if known and "config" not in node:
        check_fields(owned.at("config"), {}, known.config, f"the config of {_article(str(node_type))}")
    check_fields(owned, node, fields, "a node")


def _type_check(types: Mapping[str, NodeType]) -> Check:
    def check(place: Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("wrong-type", f"`type` must be a string, not {kind_of(value)}.")
        elif value in LATER_TYPES:
            place.refuse("not-available", f"Nodes of type `{value}` are not available yet.")
        elif value not in types:
            listed = ", ".join(f"`{name}`" for name in types)
            meant = place.survey.did_you_mean(value, types)
            message = f"There is no node type `{value[:64]}`{meant}; the types are: {listed}."
            place.refuse("unknown-type", message)

    return check


def _config_check(node_type: str, known: NodeType) -> Check:
    return checks.fields(known.config, f"the config of {_article(node_type)}")


def _check_edge(place: Place, edge: Any, declared: Mapping[str, Any], types: Mapping[str, NodeType]) -> None:
    source = edge.get("from") if isinstance(edge, Mapping) else None
    owned = Place(place.survey, place.steps, source if isinstance(source, str) else "")
    fields = {
        "from": required(checks.target),
        "to": required(checks.target),
        "condition": optional(checks.edge_condition),
    }
    check_fields(owned, edge, fields, "an edge")
    kind = declared.get(source) if isinstance(source, str) else None
    if isinstance(kind, str) and kind in types and not types[kind].own_edges:
        where = "`rules` and `default`" if kind == "branch" else "`break_path` and `timeout_path`"
        owned.at("from").refuse("edge-from-" + kind, f"`{source}` is a {kind}: its targets stand in {where}.")


def _task_fields(limits: Limits) -> Fields:
    duration = checks.integer(1, limits.duration_ms)
    return {
        "retry": optional(checks.fields(retry_fields(limits), "`retry`")),
        "timeout_ms": optional(duration),
        "on_error": optional(checks.targets),
    }


def _declared(document: Mapping[str, Any]) -> dict[str, Any]:
    """The types of the nodes by id, as far as the document can be read."""
    nodes = document.get("nodes")
    return {
        node["id"]: node.get("type")
        for node in (nodes if isinstance(nodes, list | tuple) else ())
        if isinstance(node, Mapping) and isinstance(node.get("id"), str)
    }


def _refuse_duplicates(place: Place, nodes: Any) -> None:
    seen: set[str] = set()
    for position, node in enumerate(nodes if isinstance(nodes, list | tuple) else ()):
        node_id = node.get("id") if isinstance(node, Mapping) else None
        if isinstance(node_id, str):
            if node_id in seen:
                place.at(position, "id").refuse("duplicate-id", f"Another node has the id `{node_id[:64]}` already.")
            seen.add(node_id)


def _anything(place: Place, value: Any) -> None:
    """Not looked at: what it should be is not known, or said elsewhere."""


def _article(node_type: str) -> str:
    return f"{'an' if node_type[0] in 'aeiou' else 'a'} {node_type}"
