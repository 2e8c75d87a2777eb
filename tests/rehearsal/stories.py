"""Workflows and cases as these tests write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_runner.handlers import Handlers
from pavane.rehearsal.case import Case
from pavane.rehearsal.player import Played, Player

Document = dict[str, Any]


def workflow(*nodes: Document, edges: Sequence[str] = (), **fields: Any) -> Document:
    """`edges` as `a -> b`."""
    pairs = [edge.split(" -> ") for edge in edges]
    return {"id": "w", "nodes": list(nodes), "edges": [{"from": a, "to": b} for a, b in pairs], **fields}


def agent(node_id: str, prompt: str = "p", schema: Document | None = None, **fields: Any) -> Document:
    config = {"model": "m", "prompt": prompt} | ({"response_format": schema} if schema else {})
    return {"id": node_id, "type": "agent", "config": config, **fields}


def function(node_id: str, handler: str = "f", args: Document | None = None, **fields: Any) -> Document:
    config = {"handler": handler} | ({"args": args} if args else {})
    return {"id": node_id, "type": "function", "config": config, **fields}


def transform(node_id: str, **sets: str) -> Document:
    return {"id": node_id, "type": "transform", "config": {"set": sets}}


def case(**fields: Any) -> Case:
    return Case.model_validate({"name": "one", **fields})


async def play(document: Document, handlers: Handlers | None = None, **fields: Any) -> Played:
    """A case of these fields, played."""
    return await Player(document, handlers).play(case(**fields))


def places(played: Played) -> list[str]:
    """Where it was not as expected."""
    return [difference.place for difference in played.differences]
