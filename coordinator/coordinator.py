"""The coordinator: pops completion signals and moves their tokens on.

BLMPOP (one, then all that waits, up to a limit) -> read -> SignalBatch: load, decide, advance
"""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from coordinator.ir_cache import IRCache
from coordinator.signal_batch import SignalBatch
from lua.run_store import RunStore
from schemas.messages import CompletionSignal, MalformedSignal, read_signal

log = logging.getLogger("pavane.coordinator")

POP_LIMIT = 256
POP_TIMEOUT_S = 1.0


class Coordinator:
    """Routes completions of one shard until it is stopped. Nothing is kept here that another coordinator needs."""

    def __init__(self, store: RunStore, *, workers: int = 2, irs: IRCache | None = None) -> None:
        self.store = store
        self.batch = SignalBatch(store, irs or IRCache(store))
        self.workers = workers

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what was popped.

        Two workers by default: while Redis applies the batch of one, the other decides.
        """
        await asyncio.gather(*(self._work(stop) for _ in range(self.workers)))

    async def _work(self, stop: asyncio.Event) -> None:
        wait = 0.1
        while not stop.is_set():
            try:
                await self.route(await self.pop(POP_TIMEOUT_S))
                wait = 0.1
            except (RedisConnectionError, RedisTimeoutError) as error:
                # What was popped and not routed is still stored under its token: the supervisor signals it again.
                log.warning("redis is away (%s); trying again in %.1f s", error, wait)
                await _pause(stop, wait)
                wait = min(wait * 2, 5.0)
            except RedisError:
                log.exception("a batch of signals failed; the supervisor will signal it again")
                await _pause(stop, wait)

    async def pop(self, timeout_s: float) -> list[bytes]:
        """All signals that wait, at most POP_LIMIT; waits up to `timeout_s` for a first one."""
        answer = await self.store.redis.blmpop(timeout_s, 1, self.store.keys.signals, direction="LEFT", count=POP_LIMIT)
        return list(answer[1]) if answer else []

    async def route(self, raws: list[bytes]) -> None:
        signals: list[CompletionSignal] = []
        for raw in raws:
            try:
                signals.append(read_signal(raw))
            except MalformedSignal as error:
                await self.store.dead_letter("malformed", f"{error}: {raw[:2_000].decode(errors='replace')}")
        if signals:
            await self.batch.route(signals)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, unless the process is asked to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
