"""The tail: one reader of the events stream for all who follow runs live, however many they are."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from psycopg import OperationalError
from redis.exceptions import RedisError, ResponseError

from lua.run_store import RunStore
from orchestrator_api.event_log import EventLog, try_event
from schemas.events import STATUS_OF, Event

log = logging.getLogger("pavane.api")

PAGE = 1_000
BLOCK_MS = 1_000
KEPT = 1_000  # events of one follower who is slow; what is over is read from the log later
BACKOFF_S = 1.0


class Follower:
    """Where the tail puts the events of one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.events: deque[Event] = deque(maxlen=KEPT)
        self._woken = asyncio.Event()

    def wake(self, event: Event | None = None) -> None:
        """Without an event: look into the log, something may have been missed."""
        if event:
            self.events.append(event)
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """False if nothing came in time."""
        try:
            await asyncio.wait_for(self._woken.wait(), timeout_s)
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def take(self) -> list[Event]:
        taken = list(self.events)
        self.events.clear()
        return taken


class EventTail:
    """Reads while somebody follows, and stops with the last one.

    The recorder deletes what it has recorded, perhaps before this reader came to it; followers see that from the
    numbers, and read the log.
    """

    def __init__(self, store: RunStore, log_: EventLog) -> None:
        self.store = store
        self.log = log_
        self.closing = asyncio.Event()
        self._starting = asyncio.Lock()
        self._followers: dict[str, set[Follower]] = {}
        self._reader: asyncio.Task[None] | None = None

    async def follow(self, run_id: str, seq: int, ping_s: float) -> AsyncIterator[Event | None]:
        """The run's events above `seq` as they happen, each once, until it has ended; None after each idle `ping_s`."""
        async with self._following(run_id) as follower:
            events = await self._look(run_id, seq)
            while not self.closing.is_set():
                ended = False
                for event in events:
                    if event.seq > seq:
                        yield event
                        seq, ended = event.seq, event.type in STATUS_OF
                if ended or len(events) >= PAGE:  # there may be more, and a run that failed may have been retried
                    events = await self._look(run_id, seq)
                    if ended and not events:
                        return
                    if events:
                        continue
                if not await follower.wait(ping_s):
                    yield None
                events = follower.take()
                if not _follow_on(seq, events):
                    events = await self._look(run_id, seq)

    async def _look(self, run_id: str, seq: int) -> list[Event]:
        """What the log has now; nothing while a server is away: the follower is woken, or looks again by itself."""
        try:
            return await self.log.after(run_id, seq)
        except (RedisError, OperationalError) as error:
            log.warning("following %s waits: %s", run_id, error)
            return []

    def close(self) -> None:
        """Let every follower end: the server stops."""
        self.closing.set()
        for followers in self._followers.values():
            for follower in followers:
                follower.wake()

    @asynccontextmanager
    async def _following(self, run_id: str) -> AsyncIterator[Follower]:
        follower = Follower(run_id)
        self._followers.setdefault(run_id, set()).add(follower)
        try:
            async with self._starting:
                if self._reader is None or self._reader.done():
                    # Positioned before the follower looks into the log: what comes later, the reader sees.
                    self._reader = asyncio.create_task(self._read(await self._end()), name="event tail")
            yield follower
        finally:
            self._followers[run_id].discard(follower)
            if not self._followers[run_id]:
                del self._followers[run_id]
            if not self._followers and self._reader:
                self._reader.cancel()
                self._reader = None

    async def _end(self) -> str:
        try:
            info = await self.store.redis.xinfo_stream(self.store.keys.events)
        except ResponseError:  # no stream yet
            return "0-0"
        last: bytes = info["last-generated-id"]
        return last.decode()

    async def _read(self, position: str) -> None:
        # Not for ever until it is cancelled: now and then a cancel gets lost in the client's own waiting.
        while asyncio.current_task() is self._reader:
            try:
                pages = await self.store.redis.xread({self.store.keys.events: position}, count=PAGE, block=BLOCK_MS)
            except RedisError as error:
                log.warning("following events waits for redis: %s", error)
                position = await self._reconnect(position)
                continue
            for entry, fields in pages[0][1] if pages else ():
                position = entry.decode()
                followers = self._followers.get(fields.get(b"run", b"").decode(errors="replace"), ())
                event = try_event(fields) if followers else None
                for follower in followers:
                    follower.wake(event)

    async def _reconnect(self, position: str) -> str:
        """Where to go on: Redis may come back with an older stream, whose ids are below our position."""
        while not self.closing.is_set():
            with suppress(RedisError):
                position = await self._end()
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self.closing.wait(), BACKOFF_S)
        for followers in self._followers.values():
            for follower in followers:
                follower.wake()
        return position


def _follow_on(seq: int, events: list[Event]) -> bool:
    """Whether the new ones among the events go on from `seq` without a gap, and there are any."""
    fresh = [event.seq for event in events if event.seq > seq]
    return bool(fresh) and fresh == list(range(seq + 1, seq + 1 + len(fresh)))
