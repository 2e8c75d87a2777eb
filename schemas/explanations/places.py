"""Where an event says that a node's work went, and what it gave. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from schemas.events import Event
from schemas.explanations.explanation import Value
from schemas.ir import IR

PREVIEW_CHARS = 200


def executed(event: Event) -> list[str]:
    """The nodes that were executed in the step, the token's own first."""
    if event.type not in ("node_completed", "node_failed"):
        return []
    data = event.data
    names = [event.node_id, *data.get("outputs", ()), *data.get("stored", ()), *data.get("ends", ())]
    return list(dict.fromkeys(names))


def failed_in(event: Event, node: str) -> bool:
    return event.type == "node_failed" and event.node_id == node


def decision_of(event: Event, node: str) -> Mapping[str, Any] | None:
    return next((told for told in event.data.get("decisions", ()) if told.get("node") == node), None)


def targets(event: Event, node: str, ir: IR | None) -> list[str]:
    """Where an executed node went in this step; [] where it ended."""
    data = event.data
    if failed_in(event, node):
        return list((data.get("taken_over") or {}).get("next", _sent(event, node)))
    if node in data.get("ends", ()):
        return []
    if told := decision_of(event, node):
        return list(told.get("next", told.get("edges", ())))
    known = ir.nodes.get(node) if ir else None
    return list(dict.fromkeys(edge.to for edge in known.edges)) if known else _sent(event, node)


def _sent(event: Event, node: str) -> list[str]:
    """By the tokens that came of it."""
    records = (event.data.get("tokens") or {}).values()
    found = (record["node"] for record in records if any(origin[0] == node for origin in record.get("from") or ()))
    return list(dict.fromkeys(found))


def value_of(event: Event, node: str) -> Value | None:
    """What a node gave in this step; of one that failed, the error that it passes on."""
    data = event.data
    if failed_in(event, node):
        return shown({"error": data.get("error")})
    if node in data.get("stored", ()):
        return Value(data["stored"][node])
    return shown(data["outputs"][node]) if node in data.get("outputs", ()) else None


def shown(value: Any) -> Value:
    text = orjson.dumps(value)
    whole = len(text) <= PREVIEW_CHARS
    return Value(text.decode() if whole else text[:PREVIEW_CHARS].decode(errors="ignore") + "…", len(text))
