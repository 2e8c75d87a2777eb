"""Run reading: a run's state as Redis holds it, whole: the other way of `RunImage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lua.run_control import answer_of
from lua.run_store import TOLD_AS_FIELDS, RunStore
from schemas.keys import path_of
from schemas.messages import read_signal
from schemas.run_state import MapState, RunState, stored_value

_STARTED = ("request", "parent", "parent_token")


async def read_run(store: RunStore, run_id: str) -> RunState | None:
    """The run now, but for its usage, which only events tell; None if there is none.

    Whoever writes by it must see to it that `seq` is still the same: the run may go on while it is read.
    """
    run = await _hash(store, store.keys.run(run_id))
    if not run:
        return None
    state = head_of(run_id, run)
    await _read_scope(store, state, "")
    for loop in run.get("loops", "").split():
        await _read_passes(store, state, loop)
    return state


def head_of(run_id: str, run: Mapping[str, str]) -> RunState:
    """What a run's hash tells of its state."""
    origin = run.get("forked_from", "").split()
    forked_from = {"forked_from": {"run_id": origin[0], "seq": int(origin[1])}} if origin else {}
    told = {name: run[name] for name in TOLD_AS_FIELDS if run.get(name) and name != "batch_patch"}
    return RunState(
        run_id=run_id, status=run["status"], seq=int(run["seq"]), live=int(run["live"]), made=int(run["made"]),
        created_at=int(run["created_at"]), revision=int(run["revision"]), workflow_id=run["workflow"],
        version=int(run["version"]) if run.get("version") else None, digest=run["digest"],
        batch_id=run.get("batch") or None, key=run.get("key") or None,
        labels=orjson.loads(run.get("labels") or "{}"), priority=run.get("priority") or "normal",
        input=stored_value(run["input"]), epoch=int(run.get("epoch", 0)), error=_error(run),
        ended_at=_optional(run, "ended_at"), paused_at=_optional(run, "paused_at"),
        paused_ms=int(run.get("paused_ms", 0)), batch_mark=run.get("batch_patch", ""),
        started={name: run[name] for name in _STARTED if run.get(name)} | {"fields": told} | forked_from,
    )  # fmt: skip


def _error(run: Mapping[str, str]) -> Any:
    """What `fold` makes of the event that ended the run."""
    if "error" not in run:
        return None
    body = orjson.loads(run["error"])
    return body.get("error") if run["status"] == "FAILED" else body


async def _read_scope(store: RunStore, state: RunState, scope: str) -> None:
    keys, run_id = store.keys, state.run_id
    tokens = await _hash(store, keys.tokens(run_id, scope))
    records = {token: orjson.loads(text) for token, text in tokens.items()}
    outputs = {node: stored_value(text) for node, text in (await _hash(store, keys.context(run_id, scope))).items()}
    ends = {node.decode() for node in await store.redis.smembers(keys.ends(run_id, scope))}
    ranks = await _hash(store, keys.ranks(run_id, scope))
    state.tokens |= records
    state.outputs |= {scope: outputs} if outputs else {}
    state.ends |= {scope: ends} if ends else {}
    state.ranks |= {scope: {node: (int(text[:8]), text[8:]) for node, text in ranks.items()}} if ranks else {}
    if scope and (adopted := await store.redis.hget(keys.scope(run_id, scope), "adopted")):
        state.adopted[scope] = adopted.decode()
    await _read_arrivals(store, state, scope, records)
    await _read_waits(store, state, scope, records)
    for token, record in records.items():
        if record.get("map"):
            await _read_map(store, state, token)


async def _read_arrivals(store: RunStore, state: RunState, scope: str, records: Mapping[str, Any]) -> None:
    kept = await _hash(store, store.keys.arrivals(state.run_id, scope))
    outputs = state.outputs.get(scope, {})
    for token, record in records.items():
        for source, *_ in record.get("from") or ():
            text = kept.get(f"{token}/{source}")
            value = outputs.get(source) if text is None else stored_value(text)
            state.arrivals.setdefault(token, {})[source] = value


async def _read_waits(store: RunStore, state: RunState, scope: str, records: Mapping[str, Any]) -> None:
    """Outcomes that wait to be routed, and questions that wait for an answer."""
    outcomes = await _hash(store, store.keys.outcomes(state.run_id, scope))
    for token, record in records.items():
        states = (record["state"], record.get("held"))
        if "answered" in states and token in outcomes:
            state.answers[token] = answer_of(read_signal(outcomes[token].encode()))
        if "asked" in states and (text := await _question(store, state.run_id, scope, token)):
            asked = orjson.loads(text)
            state.opened[token] = {name: asked.get(name) for name in ("assignee", "prompt", "due")}


async def _question(store: RunStore, run_id: str, scope: str, token: str) -> bytes | None:
    """What a person is asked; of a run that was rebuilt it lies with the scope until the token is restored."""
    asked: bytes | None = await store.redis.hget(store.keys.approvals, token)
    if asked is None:
        kept = store.keys.scope(run_id, scope) if scope else store.keys.run(run_id)
        asked = await store.redis.hget(kept, f"asked {token}")
    return asked


async def _read_map(store: RunStore, state: RunState, token: str) -> None:
    keys, run_id, path = store.keys, state.run_id, path_of(state.run_id, token)
    known = await _hash(store, keys.map(run_id, path))
    if not known:
        return
    results = await _hash(store, keys.results(run_id, path))
    state.maps[token] = MapState(
        int(known["total"]), stored_value(known["items"]), int(known["cursor"]),
        {int(index): stored_value(text) for index, text in results.items()},
    )  # fmt: skip
    for index in await store.redis.sunion(keys.items(run_id, path), keys.held(run_id, path)):
        await _read_scope(store, state, f"{path}-{index.decode()}")


async def _read_passes(store: RunStore, state: RunState, loop: str) -> None:
    scopes = {"", *(record.get("scope", "") for record in state.tokens.values())}
    for scope in scopes:
        count = await store.redis.hget(store.keys.loop(state.run_id, loop, scope), "current_iteration")
        if count is not None:
            state.passes.setdefault(scope, {})[loop] = int(count)


async def _hash(store: RunStore, key: str) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in (await store.redis.hgetall(key)).items()}


def _optional(run: Mapping[str, str], name: str) -> int | None:
    return int(run[name]) if run.get(name) else None
