"""Admission: starts the items of batches as runs, a bounded number in flight; the rest wait in Postgres as items.

Starting is idempotent (an item's run id was given with the batch), so an admission that dies between the start of its
runs and the mark in Postgres starts nothing twice. Any number of coordinators admit side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from psycopg_pool import AsyncConnectionPool

from coordinator.gpus import Gpus
from coordinator.service_loop import repeat
from history.artifact_store import ArtifactStore
from history.batches import Batches, Claimed, Item, OpenBatch
from lua.answers import Started
from lua.run_store import RunStore
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.submission import RETENTION_MS, Start, item_digest, start_of_stored

log = logging.getLogger("pavane.admission")

SLICE = 200
IRS = 100
"""IRs at hand."""


class Admission:
    """Admits for one shard. `per_gpu` bounds the live runs of one batch, for each live agent runner: enough that no GPU
    waits for work, and no more, since a run in flight lies in Redis."""

    def __init__(
        self,
        store: RunStore,
        pool: AsyncConnectionPool[Any],
        *,
        per_gpu: int = 500,
        waiting_events: int = LIMITS.waiting_events,
        retention_ms: int = RETENTION_MS,
        interval_s: float = 0.25,
        artifacts: ArtifactStore | None = None,
    ) -> None:
        self.store = store
        self.batches = Batches(pool, artifacts)
        self.per_gpu = per_gpu
        self.waiting_events = waiting_events
        self.retention_ms = retention_ms
        self.interval_s = interval_s
        self._gpus = Gpus(store)
        self._irs: dict[str, IR] = {}

    async def run(self, stop: asyncio.Event) -> None:
        await repeat("admission", stop, self._step)

    async def _step(self) -> float:
        return 0.0 if await self.admit() else self.interval_s

    async def admit(self) -> int:
        """Start what there is room for, at most a slice of each batch; how many runs."""
        if await self.store.redis.xlen(self.store.keys.events) > self.waiting_events:
            log.warning("the events stream is over its limit: postgres does not follow; nothing is admitted")
            return 0
        pending = await self.batches.pending()
        most = self.per_gpu * max(1, await self._gpus.count()) if pending else 0
        started = 0
        for batch in pending:
            started += await self._admit_batch(batch, most)
        return started

    async def _admit_batch(self, batch: OpenBatch, most: int) -> int:
        running = await self.store.redis.hget(self.store.keys.batch(batch.batch_id), "running")
        room = min(most - int(running or 0), SLICE)
        if room <= 0:
            return 0
        async with self.batches.claim(batch.batch_id, room, known=self._irs) as items:
            await self._learn(items)
            starts = [self._start(batch, self._irs[item.digest], item) for item in items.items]
            answers = await self._start_runs(starts)
            for start, answer in zip(starts, answers, strict=True):
                if answer is Started.CONFLICT:
                    await self.store.dead_letter("run_id_taken", "another run has this id", run=start.run_id)
                    items.failed.append(start.run_id)
        return len(starts)

    async def _start_runs(self, starts: Sequence[Start]) -> list[Started]:
        return await self.store.start_runs([start.arguments() for start in starts])

    def _start(self, batch: OpenBatch, ir: IR, item: Item) -> Start:
        return start_of_stored(
            item.run_id,
            ir,
            item.input,
            item.artifact,
            request=item_digest(batch.batch_id, item.position),
            version=batch.version,
            batch_id=batch.batch_id,
            key=item.key,
            priority=batch.priority,
            labels=batch.labels,
            retention_ms=self.retention_ms,
            batch_patch=item.batch_patch,
        )

    async def _learn(self, claimed: Claimed) -> None:
        """Have the IRs of the items at hand; items whose IR is nowhere wait on."""
        if len(self._irs) > IRS:
            needed = {item.digest for item in claimed.items}
            self._irs = {digest: ir for digest, ir in self._irs.items() if digest in needed}
        self._irs |= {digest: IR.from_json(text) for digest, text in claimed.irs.items()}
        for digest in {item.digest for item in claimed.items} - self._irs.keys():
            await self.store.dead_letter("unknown_ir", f"no IR {digest} in postgres")
        claimed.items[:] = [item for item in claimed.items if item.digest in self._irs]
