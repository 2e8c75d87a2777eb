"""Lost counts: what batches count in Redis of work that is over, made up for after Redis was emptied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from history.unfinished import Unfinished
from lua.run_store import RunStore

AT_ONCE = 2_000
"""Runs that are looked for in one round trip."""


@dataclass(frozen=True, slots=True)
class LostBatch:
    """A batch whose counts were lost: all that happened before `at` (ms), but in the runs that were there already."""

    batch_id: str
    at: int
    there: Sequence[str]


class LostCounts:
    """Of one shard."""

    def __init__(self, store: RunStore, unfinished: Unfinished) -> None:
        self.store = store
        self.unfinished = unfinished

    async def look(self) -> list[LostBatch]:
        """The open batches of which Redis, which counts first, counts less than is recorded."""
        found = []
        for batch_id, recorded in (await self.unfinished.open_batches()).items():
            done, failed = await self.store.redis.hmget(self.store.keys.batch(batch_id), "done", "failed")
            if int(done or 0) + int(failed or 0) < recorded:
                now = await self.store.now()
                found.append(LostBatch(batch_id, now, await self._there(await self.unfinished.runs_of(batch_id))))
        return found

    async def _there(self, run_ids: Sequence[str]) -> list[str]:
        there: list[str] = []
        for first in range(0, len(run_ids), AT_ONCE):
            some = run_ids[first : first + AT_ONCE]
            async with self.store.redis.pipeline(transaction=False) as pipe:
                for run_id in some:
                    pipe.exists(self.store.keys.run(run_id))
                known = await pipe.execute()
            there += [run_id for run_id, exists in zip(some, known, strict=True) if exists]
        return there

    async def make_up(self, batches: Sequence[LostBatch]) -> None:
        """Add what was lost, when all that happened before is recorded."""
        for batch in batches:
            counts = await self.unfinished.batch_counts(batch.batch_id, batch.at, batch.there)
            async with self.store.redis.pipeline(transaction=True) as pipe:
                for name, count in counts.items():
                    pipe.hincrby(self.store.keys.batch(batch.batch_id), name, count)
                await pipe.execute()
