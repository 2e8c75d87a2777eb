"""Waiting for the ends of runs: they are published, and looked for as well, since what is published may be lost."""

from __future__ import annotations

import asyncio
import logging

from redis.exceptions import RedisError

from agent_runner.backoff import Backoff
from lua.run_store import RunStore

log = logging.getLogger("pavane.runner")

LOOK_S = 1.0
"""How often a run is looked at although nothing was heard of it."""
LIVE = ("RUNNING", "PAUSED")
_QUIET_S = 5.0  # of one read of the subscription


class RunEnds:
    """Of one shard. `close` when nobody waits any more."""

    def __init__(self, store: RunStore, look_s: float = LOOK_S) -> None:
        self._store = store
        self._look_s = look_s
        self._heard: dict[str, asyncio.Event] = {}
        self._listening: asyncio.Task[None] | None = None

    async def wait(self, run_id: str, parent: str) -> tuple[str, bool]:
        """Until the run has ended, or its parent has: (status of the run, "" if it is unknown; the parent is live)."""
        heard = self._heard[run_id] = asyncio.Event()
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            while True:
                heard.clear()
                statuses = await self._look(run_id, parent)
                if statuses is not None and (statuses[0] not in LIVE or statuses[1] not in LIVE):
                    return statuses[0], statuses[1] in LIVE
                try:
                    async with asyncio.timeout(self._look_s):
                        await heard.wait()
                except TimeoutError:
                    continue
        finally:
            del self._heard[run_id]

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _look(self, *run_ids: str) -> list[str] | None:
        """Statuses of the runs; None while Redis can not be asked."""
        try:
            async with self._store.redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hget(self._store.keys.run(run_id), "status")
                return [status.decode() if status else "" for status in await pipe.execute()]
        except (RedisError, OSError):
            return None

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            try:
                async with self._store.redis.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._store.keys.ended)
                    while True:
                        message = await channel.get_message(timeout=_QUIET_S)
                        backoff.reset()
                        heard = self._heard.get(message["data"].decode()) if message else None
                        if heard is not None:
                            heard.set()
            except (RedisError, OSError) as error:
                log.info("not listening to the ends of runs: %s", error)
            await asyncio.sleep(backoff.next_s())
