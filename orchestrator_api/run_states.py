"""Runs as the API shows them: live and lately ended ones from Redis, the others by folding what Postgres recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson
from psycopg import OperationalError

from history.artifacts import Artifacts
from history.dropped_events import EventsDropped
from history.events import NotRecorded
from lua.run_reading import head_of
from lua.run_store import RunStore
from orchestrator_api.event_log import EventLog
from orchestrator_api.family import Family
from orchestrator_api.token_views import waiting_tokens
from schemas.run_state import Reference, RunState, Usage, stored_value
from schemas.state_view import shown_state
from schemas.values import unpack

SHOWN_BYTES = 64_000_000
"""Of packed artifacts in one answer; what is over is shown by its name, `artifact://sha256-...`."""


FAR_BEHIND = 50_000
"""Events that wait for Postgres, from which on nobody looks through them only for a run's usage."""


NOT_READ = ("digest", "ends", "passes", "waiting")
"""What the view of a folded state has, and nobody asks of a run as it is now."""


class RunStates:
    def __init__(self, store: RunStore, log: EventLog, artifacts: Artifacts, family: Family) -> None:
        self.store = store
        self.log = log
        self.artifacts = artifacts
        self.family = family

    async def get(self, run_id: str) -> RunState | None:
        """The run now; None if nobody knows it. `usage.tasks` is -1 where Postgres, away or behind, is needed."""
        state = await self.in_redis(run_id)
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
        view = shown_state(state, lambda value: whole(value, packed))
        for name in NOT_READ:
            del view[name]
        return {
            **view,
            "live_tokens": await waiting_tokens(self.store, state.run_id, state.tokens),
            **await self.family.of(state.run_id),
            "usage": None if state.usage.tasks < 0 else view["usage"],
        }

    async def in_redis(self, run_id: str) -> RunState | None:
        """The run as Redis holds it, without the items of its maps and without its usage; None if it has none."""
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
        state = head_of(run_id, run)
        state.tokens = {token.decode(): orjson.loads(record) for token, record in tokens.items()}
        state.outputs = {"": {node.decode(): stored_value(text.decode()) for node, text in context.items()}}
        state.ends = {"": {node.decode() for node in ends}}
        return state

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
