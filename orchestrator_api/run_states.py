"""Runs as the API shows them: live and lately ended ones from Redis, the others by folding what Postgres recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson
from psycopg import OperationalError

from history.artifacts import Artifacts
from history.dropped_events import EventsDropped
from history.events import NotRecorded
from lua.run_store import RunStore
from orchestrator_api.event_log import EventLog
from orchestrator_api.family import Family
from orchestrator_api.token_views import waiting_tokens
from schemas.run_state import Reference, RunState, Usage, run_output
from schemas.values import artifact_name, decode_value, unpack

SHOWN_BYTES = 64_000_000
"""Of packed artifacts in one answer; what is over is shown by its name, `artifact://sha256-...`."""


FAR_BEHIND = 50_000
"""Events that wait for Postgres, from which on nobody looks through them only for a run's usage."""


class RunStates:
    def __init__(self, store: RunStore, log: EventLog, artifacts: Artifacts, family: Family) -> None:
        self.store = store
        self.log = log
        self.artifacts = artifacts
        self.family = family

    async def get(self, run_id: str) -> RunState | None:
        """The run now; None if nobody knows it. `usage.tasks` is -1 where Postgres, away or behind, is needed."""
        state = await self._from_redis(run_id)
        if state is None:
            return await self._recorded(run_id)
        folded = None
        if await self.store.redis.xlen(self.store.keys.events) < FAR_BEHIND:
            with suppress(OperationalError, EventsDropped, NotRecorded):
                folded = await self.log.state(run_id)
        state.usage = folded.usage if folded else Usage(tasks=-1)
        return state

    async def status(self, run_id: str) -> str | None:
        """RUNNING, COMPLETED, ...; None if nobody knows the run."""
        status = await self.store.redis.hget(self.store.keys.run(run_id), "status")
        if status is not None:
            return str(status.decode())
        state = await self._recorded(run_id)
        return state.status if state else None

    async def _recorded(self, run_id: str) -> RunState | None:
        """From its events, or from what it came to where they were dropped."""
        try:
            return await self.log.state(run_id)
        except EventsDropped:
            return await self.log.dropped.state(run_id)

    async def show(self, state: RunState) -> dict[str, Any]:
        """GET /runs/{run_id}: the run with its large values put in."""
        packed = await self.packed(state.run_id, [state.input, *state.outputs.get("", {}).values()])
        outputs = state.outputs.get("", {})
        return {
            "run_id": state.run_id,
            "status": state.status,
            "workflow_id": state.workflow_id,
            "version": state.version,
            "revision": state.revision,
            "batch_id": state.batch_id,
            "key": state.key,
            "labels": state.labels,
            "priority": state.priority,
            "seq": state.seq,
            "input": whole(state.input, packed),
            "outputs": {node: whole(value, packed) for node, value in outputs.items()},
            "output": _whole_output(run_output(state), packed),
            "error": state.error,
            "live_tokens": await waiting_tokens(self.store, state.run_id, state.tokens),
            "counter": state.live,
            **await self.family.of(state.run_id),
            "forked_from": state.started.get("forked_from"),
            "created_at": state.created_at,
            "ended_at": state.ended_at,
            "usage": None if state.usage.tasks < 0 else asdict(state.usage),
        }

    async def _from_redis(self, run_id: str) -> RunState | None:
        keys = self.store.keys
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.hgetall(keys.run(run_id))
            pipe.hgetall(keys.tokens(run_id))
            pipe.hgetall(keys.context(run_id))
            pipe.smembers(keys.ends(run_id))
            fields, tokens, context, ends = await pipe.execute()
        if not fields:
            return None
        run = {name.decode(): value.decode() for name, value in fields.items()}
        return RunState(
            run_id=run_id,
            status=run["status"],
            workflow_id=run["workflow"],
            version=int(run["version"]) if run.get("version") else None,
            revision=int(run["revision"]),
            digest=run["digest"],
            batch_id=run.get("batch") or None,
            key=run.get("key") or None,
            labels=orjson.loads(run.get("labels") or "{}"),
            priority=run.get("priority") or "normal",
            input=_value(run["input"]),
            seq=int(run["seq"]),
            live=int(run["live"]),
            tokens={token.decode(): orjson.loads(record) for token, record in tokens.items()},
            outputs={"": {node.decode(): _value(text.decode()) for node, text in context.items()}},
            ends={"": {node.decode() for node in ends}},
            error=_error(run),
            created_at=int(run["created_at"]),
            ended_at=int(run["ended_at"]) if run.get("ended_at") else None,
            started=_origin(run),
        )

    async def ir(self, run_id: str) -> tuple[str | None, int]:
        """The IR that Redis has of a run, as text, and its revision; None for a run that it does not have."""
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.get(self.store.keys.ir(run_id))
            pipe.hget(self.store.keys.run(run_id), "revision")
            text, revision = await pipe.execute()
        return (text.decode(), int(revision)) if text and revision else (None, 0)

    async def packed(self, run_id: str, values: Iterable[Any]) -> dict[str, bytes]:
        """The artifacts that a run's values refer to, from Redis or, where it has none, from Postgres."""
        names = list(dict.fromkeys(value.name for value in values if isinstance(value, Reference)))
        if not names:
            return {}
        live = await self.store.redis.hmget(self.store.keys.artifacts(run_id), names)
        found = {name: packed for name, packed in zip(names, live, strict=True) if packed is not None}
        if missing := [name for name in names if name not in found]:
            found |= await self.artifacts.get_many(missing)
        return _within(found.items())


def _origin(run: Mapping[str, str]) -> dict[str, Any]:
    """What of a run's first event is shown."""
    if not run.get("forked_from"):
        return {}
    origin, seq = run["forked_from"].split(" ")
    return {"forked_from": {"run_id": origin, "seq": int(seq)}}


def _value(text: str) -> Any:
    return Reference(text) if artifact_name(text) else decode_value(text)


def _error(run: Mapping[str, str]) -> Any:
    """What `fold` makes of the event that ended the run."""
    if "error" not in run:
        return None
    body = orjson.loads(run["error"])
    return body.get("error") if run["status"] == "FAILED" else body


def _within(found: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    kept: dict[str, bytes] = {}
    size = 0
    for name, packed in found:
        size += len(packed)
        if size <= SHOWN_BYTES:
            kept[name] = packed
    return kept


def whole(value: Any, packed: Mapping[str, bytes]) -> Any:
    """A value with what it refers to put in."""
    if not isinstance(value, Reference):
        return value
    return unpack(packed[value.name]) if value.name in packed else value.text


def _whole_output(output: Any, packed: Mapping[str, bytes]) -> Any:
    """The run's output: one value, or {node: value} where several ends came together."""
    if isinstance(output, Reference):
        return whole(output, packed)
    if isinstance(output, dict):
        return {name: whole(value, packed) for name, value in output.items()}
    return output
