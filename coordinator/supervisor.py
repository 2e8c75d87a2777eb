"""The supervisor: finds what got lost between two steps and starts it again.

- Outcomes that were stored and not routed: their stream entries stay pending and grow idle; it signals them again.
- Runs whose live count is not the number of their tokens are reported as broken: no script can make them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.exceptions import ResponseError

from coordinator.service_loop import repeat
from lua.run_store import RunStore
from schemas.keys import RUNNERS_GROUP

log = logging.getLogger("pavane.supervisor")

SLICE = 500
BEHIND = 1_000
"""Signals that wait, over which idle outcomes are no sign of a loss."""
REPORTED = 1_000


class Supervisor:
    """Watches one shard. Every step is idempotent, so any number may run."""

    def __init__(self, store: RunStore, *, idle_ms: int = 10_000, interval_s: float = 5.0) -> None:
        self.store = store
        self.idle_ms = idle_ms
        self.interval_s = interval_s
        self._cursor = 0
        self._reported: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        await repeat("the supervisor", stop, self._step)

    async def _step(self) -> float:
        if signalled := await self.resignal_idle():
            log.info("%d stored outcomes were not routed; signalled again", signalled)
        await self.check_runs()
        return self.interval_s

    async def resignal_idle(self) -> int:
        """Signal every stored outcome again whose entry has been idle for `idle_ms`; how many there were."""
        if await self.store.redis.llen(self.store.keys.signals) > BEHIND:
            return 0  # what is idle is not lost: its signal waits its turn
        signalled = 0
        for stream in await self.store.redis.smembers(self.store.keys.streams):
            for entry in await self._idle_entries(stream.decode()):
                fields = await self._entry(stream.decode(), entry)
                if fields and b"run" in fields and b"token" in fields:
                    answer = await self.store.resignal(fields[b"run"].decode(), fields[b"token"].decode())
                    signalled += answer[0] == "signalled"
        return signalled

    async def _idle_entries(self, stream: str) -> list[str]:
        try:
            pending: list[dict[str, Any]] = await self.store.redis.xpending_range(
                self.store.keys.stream(stream), RUNNERS_GROUP, "-", "+", SLICE, idle=self.idle_ms
            )
        except ResponseError:  # nobody has read this stream yet: no group
            return []
        return [entry["message_id"].decode() for entry in pending]

    async def _entry(self, stream: str, entry: str) -> dict[bytes, bytes] | None:
        found = await self.store.redis.xrange(self.store.keys.stream(stream), entry, entry)
        return found[0][1] if found else None

    async def check_runs(self) -> None:
        """Double-check a slice of the live runs: each has live tokens, and as many as it counts."""
        self._cursor, slice_ = await self.store.redis.zscan(self.store.keys.live_runs, self._cursor, count=100)
        for run_id, _ in slice_:
            await self._check_run(run_id.decode())

    async def _check_run(self, run_id: str) -> None:
        keys = self.store.keys
        async with self.store.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(keys.run(run_id), "status", "live")
            pipe.hlen(keys.tokens(run_id))
            (status, live), tokens = await pipe.execute()
        if status is None:
            await self.store.redis.zrem(keys.live_runs, run_id)
        elif status in (b"RUNNING", b"PAUSED") and int(live) != tokens:
            if run_id not in self._reported:
                await self.store.dead_letter("broken_run", f"{tokens} tokens but live={int(live)}", run=run_id)
            self._reported = {run_id, *list(self._reported)[:REPORTED]}
