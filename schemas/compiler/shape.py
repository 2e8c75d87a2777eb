"""The shape of a workflow document: its fields and those of its nodes and edges, each of the right kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.compiler import checks
from schemas.compiler.node_rules import node_types, retry_fields
from schemas.compiler.survey import Fields, Place, check_fields, kind_of, optional, required
from schemas.ids import NODE_ID, WORKFLOW_ID
from schemas.ir import OPENED_TYPES, TASK_TYPES
from schemas.limits import Limits

_FIELD_TYPES: Mapping[str, frozenset[str]] = {
    "retry": TASK_TYPES,
    "timeout_ms": TASK_TYPES | {"workflow"},
    "queue_timeout_ms": TASK_TYPES,
    "on_error": TASK_TYPES | OPENED_TYPES,
}
"""Fields of a node that only some types have."""
_Found = tuple[tuple[str | int, ...], Mapping[str, Any], tuple[str, ...]]
"""A node with its steps in the document, and the maps that it lies in."""
_DESCRIPTION = checks.text(high=4_096)


@dataclass(frozen=True, slots=True)
class Declared:
    """A node as far as the document can be read. maps: those that it lies in, the outermost first."""

    type: Any
    maps: tuple[str, ...]


def check_shape(place: Place, document: Mapping[str, Any]) -> Mapping[str, Declared]:
    """Notes in the survey of `place` all that is wrong with the document apart from its graphs, and what it names.

    Gives the nodes by id, those in maps too.
    """
    found = [*_nodes_of(document, (), ())]
    declared = {node["id"]: Declared(node.get("type"), maps) for _, node, maps in found}
    _Shape(place.survey.limits, declared).check(place, document)
    _refuse_duplicates(place, found)
    _refuse_targets(place, declared)
    return declared


class _Shape:
    def __init__(self, limits: Limits, declared: Mapping[str, Declared]) -> None:
        self._limits = limits
        self._declared = declared
        self._types = node_types(limits, {"nodes": required(self._inner_nodes), "edges": optional(self._inner_edges)})
        self._owned = _owned_fields(limits)
        self._edges = checks.items(self._edge)

    def check(self, place: Place, document: Mapping[str, Any]) -> None:
        fields = {
            "id": required(checks.name(WORKFLOW_ID, "lower-case letters, digits, `_` and `-`, at most 64")),
            "description": optional(_DESCRIPTION),
            "input_schema": optional(checks.schema),
            "defaults": optional(checks.fields(_defaults(self._owned), "`defaults`")),
            "nodes": required(self._all_nodes),
            "edges": optional(self._edges),
        }
        check_fields(place, document, fields, "a workflow")

    def _all_nodes(self, place: Place, value: Any) -> None:
        count, limit = _count(value), self._limits.workflow_nodes
        if count > limit:
            message = (
                f"A workflow has at most {limit} nodes (limit workflow_nodes), those inside others too, not {count}."
            )
            place.refuse("too-large", message)
        else:
            self._nodes(place, value)

    def _nodes(self, place: Place, value: Any) -> None:
        checks.items(self._node, low=1)(place, value)

    def _inner_nodes(self, place: Place, value: Any) -> None:
        """Those of a map."""
        inside, limit = place.inside(), self._limits.map_depth
        if len(inside.maps) > limit:
            place.refuse("too-deep", f"At most {limit} maps may lie in each other (limit map_depth).")
        else:
            self._nodes(inside, value)

    def _inner_edges(self, place: Place, value: Any) -> None:
        self._edges(place.inside(), value)

    def _node(self, place: Place, node: Any) -> None:
        if not isinstance(node, Mapping):
            place.refuse("wrong-type", f"A node must be an object, not {kind_of(node)}.")
            return
        node_id, node_type = node.get("id"), node.get("type")
        owned = replace(place, node=node_id if isinstance(node_id, str) else "")
        known = self._types.get(node_type) if isinstance(node_type, str) else None
        fields = {
            "id": required(checks.name(NODE_ID, "a letter or `_`, then letters, digits and `_`, at most 64")),
            "type": required(self._type),
            "description": optional(_DESCRIPTION),
            "config": optional(known.check(str(node_type)) if known else _anything),
            "join": optional(checks.one_of("any")),
            **{name: optional(_anything) for name in _FIELD_TYPES},
        }
        for name, types in _FIELD_TYPES.items() if known else ():
            if node_type in types:
                fields[name] = self._owned[name]
            elif name in node:
                owned.at(name).refuse(
                    "task-only", f"`{name}` is for nodes of type {_listed(types)}, not for a {node_type}."
                )
        if known and "config" not in node:
            known.check(str(node_type))(owned.at("config"), {})
        check_fields(owned, node, fields, "a node")

    def _type(self, place: Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("wrong-type", f"`type` must be a string, not {kind_of(value)}.")
        elif value not in self._types:
            listed = ", ".join(f"`{name}`" for name in self._types)
            meant = place.survey.did_you_mean(value, self._types)
            message = f"There is no node type `{value[:64]}`{meant}; the types are: {listed}."
            place.refuse("unknown-type", message)

    def _edge(self, place: Place, edge: Any) -> None:
        source = edge.get("from") if isinstance(edge, Mapping) else None
        owned = replace(place, node=source if isinstance(source, str) else "")
        fields = {
            "from": required(checks.target),
            "to": required(checks.target),
            "condition": optional(checks.edge_condition),
        }
        check_fields(owned, edge, fields, "an edge")
        kind = self._declared[source].type if isinstance(source, str) and source in self._declared else None
        if isinstance(kind, str) and kind in self._types and not self._types[kind].own_edges:
            where = "`rules` and `default`" if kind == "branch" else "`break_path` and `timeout_path`"
            owned.at("from").refuse("edge-from-" + kind, f"`{source}` is a {kind}: its targets stand in {where}.")


def _owned_fields(limits: Limits) -> Fields:
    """The fields of _FIELD_TYPES."""
    duration = checks.integer(1, limits.duration_ms)
    return {
        "retry": optional(checks.fields(retry_fields(limits), "`retry`")),
        "timeout_ms": optional(duration),
        "queue_timeout_ms": optional(duration),
        "on_error": optional(checks.targets),
    }


def _defaults(owned: Fields) -> Fields:
    return {name: entry for name, entry in owned.items() if name != "on_error"}


def _nodes_of(holder: Any, steps: tuple[str | int, ...], maps: tuple[str, ...]) -> Iterator[_Found]:
    """The nodes of a workflow, or of the config of a map, and those of the maps in it, as far as they can be read."""
    nodes = holder.get("nodes") if isinstance(holder, Mapping) else None
    for place, node in enumerate(nodes if isinstance(nodes, list) else ()):
        if isinstance(node, Mapping) and isinstance(node.get("id"), str):
            here = (*steps, "nodes", place)
            yield here, node, maps
            if node.get("type") == "map":
                yield from _nodes_of(node.get("config"), (*here, "config"), (*maps, node["id"]))


def _count(nodes: Any) -> int:
    """How many nodes a list of nodes holds, with those of the maps and of the documents in it."""
    count = 0
    for node in nodes if isinstance(nodes, list) else ():
        config = node.get("config") if isinstance(node, Mapping) else None
        count += 1 + sum(_count(holder.get("nodes")) for holder in _holders(config) if isinstance(holder, Mapping))
    return count


def _holders(config: Any) -> Iterator[Any]:
    """What may hold nodes in the config of a node: a map itself, or a document of a child workflow."""
    if isinstance(config, Mapping):
        yield config
        yield config.get("document")
        for tool in tools if isinstance(tools := config.get("tools"), list) else ():
            child = tool.get("workflow") if isinstance(tool, Mapping) else None
            yield child.get("document") if isinstance(child, Mapping) else None


def _refuse_duplicates(place: Place, found: Iterable[_Found]) -> None:
    seen: set[str] = set()
    for steps, node, _ in found:
        node_id = node["id"]
        if node_id in seen:
            place.at(*steps, "id").refuse("duplicate-id", f"Another node has the id `{node_id[:64]}` already.")
        seen.add(node_id)


def _refuse_targets(place: Place, declared: Mapping[str, Declared]) -> None:
    """A target is a node of the same graph."""
    for mention, node_id in place.survey.mentions:
        if node_id not in declared:
            meant = place.survey.did_you_mean(node_id, declared)
            mention.refuse("unknown-node", f"There is no node `{node_id}`{meant}.")
            continue
        maps, own = declared[node_id].maps, mention.maps
        if maps[: len(own)] != own:
            message = f"`{node_id}` lies outside the map `{own[-1]}`, and no edge leads out of a map"
            mention.refuse("crosses-map", f"{message}: what follows its items follows the map itself.")
        elif maps != own:
            message = f"`{node_id}` lies inside the map `{maps[len(own)]}`, and no edge leads into a map"
            mention.refuse("crosses-map", f"{message}: name the map itself.")


def _anything(place: Place, value: Any) -> None:
    """Not looked at: what it should be is not known, or said elsewhere."""


def _listed(types: Iterable[str]) -> str:
    *others, last = sorted(types)
    return f"{', '.join(others)} and {last}" if others else last
