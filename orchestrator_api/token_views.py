"""Tokens as the API shows them: where each is, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lua.run_store import RunStore
from schemas.keys import path_of
from schemas.state_view import live_tokens, waits_for

Record = Mapping[str, Any]


async def waiting_tokens(store: RunStore, run_id: str, tokens: Mapping[str, Record]) -> list[dict[str, Any]]:
    """As `live_tokens`, each that waits for something with `waits_for`, and a map with how far its `items` are."""
    shown = live_tokens(tokens)
    asked = [token["token_id"] for token in shown if token["state"] == "asked"]
    mapping = [token["token_id"] for token in shown if token["state"] == "mapping"]
    async with store.redis.pipeline(transaction=False) as pipe:
        for token_id in asked:
            pipe.hget(store.keys.approvals, token_id)
        for token_id in mapping:
            pipe.hmget(store.keys.map(run_id, path_of(run_id, token_id)), "total", "running", "done")
        found = dict(zip([*asked, *mapping], await pipe.execute(), strict=True))
    for token in shown:
        token_id = token["token_id"]
        if token_id in mapping:
            counts = zip(("total", "running", "done"), found[token_id], strict=True)
            token["items"] = {name: int(count or 0) for name, count in counts}
        elif waiting := waits_for(tokens[token_id], _question(found.get(token_id))):
            token["waits_for"] = waiting
    return shown


def _question(approval: bytes | None) -> Mapping[str, Any] | None:
    return orjson.loads(approval) if approval else None
