"""Tokens as the API shows them: where each is, and what it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lua.run_store import RunStore
from schemas.keys import path_of

Record = Mapping[str, Any]


def live_tokens(tokens: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The run's own tokens in the order in which they were made, without those of maps' items; those of a failed run
    are dead or held."""
    own = {token: record for token, record in tokens.items() if not record.get("scope")}
    return [
        {
            "token_id": token,
            "node_id": record["node"],
            "state": record["state"],
            "attempt": record["attempt"],
            "stream": record.get("stream"),
            "since": record.get("since"),
            "runner": record.get("runner"),
            "scope": record.get("scope", ""),
        }
        for token, record in sorted(own.items(), key=lambda item: _number(item[0]))
    ]


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
        elif waits_for := _waits_for(tokens[token_id], found.get(token_id)):
            token["waits_for"] = waits_for
    return shown


def _waits_for(record: Record, approval: bytes | None) -> dict[str, Any] | None:
    """What ends a token's waiting; `due` is ms since the epoch."""
    due = {"due": record.get("due")}
    match record["state"]:
        case "asked":
            question = orjson.loads(approval or b"{}")
            return {name: question.get(name) for name in ("assignee", "prompt", "choices")} | due
        case "listening":
            return {"event": record.get("event"), "key": record.get("key", "")} | due
        case "timed":
            return due
        case "calling":
            return {"run_id": record.get("child")}
    return None


def _number(token: str) -> int:
    tail = token.rpartition(".")[2]
    return int(tail) if tail.isdigit() else 0
