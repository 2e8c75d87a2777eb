"""Waiting for entries on streams without consuming any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from lua.run_store import RunStore
from schemas.keys import FAST_LANE, agent_stream, pool_of


class News:
    """Says when an entry came to the agent streams of a shard, of the fast lanes only or of all.

    `wait` first takes note of where the streams end and returns, so that its caller looks once more: what came before
    that is seen by the look, what comes after ends the next `wait`.
    """

    def __init__(self, store: RunStore, block_ms: int) -> None:
        self._store = store
        self._block_ms = block_ms
        self.known: frozenset[str] = frozenset()  # pools that tasks were ever meant for
        self._known_at = float("-inf")
        self._read: asyncio.Task[Any] | None = None
        self._pools: frozenset[str] | None = None

    async def wait(self, changed: asyncio.Event, pools: frozenset[str] | None) -> bool:
        """Until `changed` is set, `block_ms` are over, or an entry comes: whether one came.

        To a fast lane or to a stream of `pools`; None: to any stream.
        """
        read = self._read
        if read is None or read.done() or self._pools != pools:
            await self.close()
            if read is not None and read.done() and not read.cancelled():
                read.result()  # a connection error is the caller's
            self._pools = pools
            self._read = asyncio.create_task(self._listen(await self._ends(pools)))
            return False
        waits = {read, asyncio.create_task(changed.wait())}
        try:
            await asyncio.wait(waits, timeout=self._block_ms / 1000, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits - {read}:
                wait.cancel()
        return read.done() and read.exception() is None and bool(read.result())

    async def close(self) -> None:
        read, self._read = self._read, None
        if read is not None:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)

    async def _all(self) -> frozenset[str]:
        now = time.monotonic()
        if now - self._known_at >= self._block_ms / 1000:
            members = await self._store.redis.smembers(self._store.keys.streams)
            self.known = frozenset(pool for member in members if (pool := pool_of(member.decode())))
            self._known_at = now
        return self.known

    async def _ends(self, pools: frozenset[str] | None) -> dict[str, bytes]:
        """Key -> its last entry."""
        known = await self._all()
        names = [agent_stream(pool) + FAST_LANE for pool in known]
        names += [agent_stream(pool) for pool in (known if pools is None else pools)]
        pipe = self._store.redis.pipeline(transaction=False)
        keys = [self._store.keys.stream(name) for name in names]
        for key in keys:
            pipe.xrevrange(key, count=1)
        answers: Sequence[Any] = await pipe.execute() if keys else []
        return {key: answer[0][0] if answer else b"0-0" for key, answer in zip(keys, answers, strict=True)}

    async def _listen(self, ends: dict[str, bytes]) -> Any:
        """The entry that came, if any did in time."""
        if ends:
            return await self._store.redis.xread(ends, count=1, block=self._block_ms)
        return await asyncio.sleep(self._block_ms / 1000)
