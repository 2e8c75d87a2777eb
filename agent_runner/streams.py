"""Task streams as one consumer of the group `runners` sees them: read, refresh, take over, hand back."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from redis.exceptions import ResponseError

from agent_runner.work import Fetched
from lua.run_store import RunStore
from schemas.keys import RUNNERS_GROUP
from schemas.messages import Task, read_task

log = logging.getLogger("pavane.runner")

RETURNED = "~returned"
"""The consumer of what runners hand back. No runner can have this id."""
LONG_IDLE_MS = 86_400_000
"""Idle time given to an entry that is handed back: any runner's next look takes it over."""
_OLDEST = 16
"""Entries that are looked at, where one of them has to tell something."""
_LEFT = 1_000  # entries that one consumer leaves behind on a stream, at most


class Streams:
    """The streams of one shard. Names are without the shard's prefix."""

    def __init__(self, store: RunStore, runner_id: str) -> None:
        self._store = store
        self._redis = store.redis
        self._keys = store.keys
        self._runner_id = runner_id
        self._known: set[str] = set()
        self._stripped = len(store.keys.prefix)

    async def ensure(self, names: Iterable[str]) -> None:
        """The group exists on each stream, from the stream's first entry."""
        for name in names:
            if name in self._known:
                continue
            try:
                await self._redis.xgroup_create(self._keys.stream(name), RUNNERS_GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
            self._known.add(name)

    async def read(self, names: Sequence[str], count: int, block_ms: int | None = None) -> list[Fetched]:
        """Up to `count` new entries of each stream; with `block_ms`, waits so long for the first."""
        await self.ensure(names)
        keys = {self._keys.stream(name): ">" for name in names}
        try:
            answer = await self._redis.xreadgroup(RUNNERS_GROUP, self._runner_id, keys, count=count, block=block_ms)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            self._known.difference_update(names)  # Redis came back empty: made again at the next read
            return []
        return await self._fetched(answer)

    async def read_each(self, counts: Mapping[str, int]) -> list[Fetched]:
        """Up to so many new entries of each stream, in one round trip: what there is, without waiting."""
        await self.ensure(counts)
        pipe = self._redis.pipeline(transaction=False)
        for name, count in counts.items():
            pipe.xreadgroup(RUNNERS_GROUP, self._runner_id, {self._keys.stream(name): ">"}, count=count)
        fetched: list[Fetched] = []
        for name, answer in zip(counts, await pipe.execute(raise_on_error=False), strict=True):
            if isinstance(answer, ResponseError) and str(answer).startswith("NOGROUP"):
                self._known.discard(name)
            elif isinstance(answer, Exception):
                raise answer
            else:
                fetched += await self._fetched(answer)
        return fetched

    async def oldest(self, name: str) -> list[Task]:
        """The oldest entries of a stream, whoever has them; nothing is taken."""
        return await self._tasks(name, await self._redis.xrange(self._keys.stream(name), count=_OLDEST))

    async def named(self, name: str, entries: Sequence[bytes]) -> list[Task]:
        """The tasks of these entries, as far as they still lie there."""
        pipe = self._redis.pipeline(transaction=False)
        for entry in entries:
            pipe.xrange(self._keys.stream(name), entry, entry)
        return await self._tasks(name, [found[0] for found in await pipe.execute() if found])

    async def take_over(self, name: str, idle_ms: int, count: int) -> list[Fetched]:
        """Entries that nobody refreshed for `idle_ms`; they are this runner's now."""
        await self.ensure([name])
        answer = await self._redis.xautoclaim(
            self._keys.stream(name), RUNNERS_GROUP, self._runner_id, idle_ms, "0-0", count=count
        )
        entries = [entry for entry in answer[1] if entry[0] is not None]
        return [Fetched(task, reclaimed=True) for task in await self._tasks(name, entries)]

    async def refresh(self, tasks: Iterable[Task]) -> None:
        """Start the idle time of entries afresh: they are being worked on."""
        await self._claim(tasks, self._runner_id)

    async def hand_back(self, tasks: Iterable[Task]) -> None:
        """Let other runners take these entries over at once."""
        await self._claim(tasks, RETURNED, LONG_IDLE_MS)

    async def return_former(self) -> int:
        """Hand back what a process of this id that is no more has left, so that nobody waits for it to grow idle; how
        many entries. To be done before the first read: what is read after that is this process's own."""
        names = [member.decode() for member in await self._redis.smembers(self._keys.streams)]
        pipe = self._redis.pipeline(transaction=False)
        for name in names:
            key = self._keys.stream(name)
            pipe.xpending_range(key, RUNNERS_GROUP, "-", "+", _LEFT, consumername=self._runner_id)
        claims, left = self._redis.pipeline(transaction=False), 0
        for name, entries in zip(names, await pipe.execute(raise_on_error=False), strict=True):
            if entries and not isinstance(entries, ResponseError):  # the group may not be there yet
                ids = [entry["message_id"] for entry in entries]
                claims.xclaim(self._keys.stream(name), RUNNERS_GROUP, RETURNED, 0, ids, idle=LONG_IDLE_MS, justid=True)
                left += len(ids)
        if left:
            await claims.execute()
        return left

    async def leave(self) -> None:
        """Remove this consumer. Entries with outcomes that are not routed yet stay pending, though not for it."""
        for name in self._known:
            key = self._keys.stream(name)
            try:
                pending = await self._redis.xpending_range(
                    key, RUNNERS_GROUP, "-", "+", _LEFT, consumername=self._runner_id
                )
                if pending:
                    ids = [entry["message_id"] for entry in pending]
                    await self._redis.xclaim(key, RUNNERS_GROUP, RETURNED, 0, ids, justid=True)
                # Deleted with something pending, that would be lost; a new process of this id may be reading already.
                await self._store.drop_consumer(name, self._runner_id)
            except ResponseError as error:
                log.debug("consumer of %s not removed: %s", name, error)

    async def _fetched(self, answer: Sequence[Any] | None) -> list[Fetched]:
        fetched: list[Fetched] = []
        for key, entries in answer or ():
            name = key.decode()[self._stripped :]
            fetched += [Fetched(task) for task in await self._tasks(name, entries)]
        return fetched

    async def _claim(self, tasks: Iterable[Task], consumer: str, idle_ms: int | None = None) -> None:
        entries: dict[str, list[Any]] = {}
        for task in tasks:
            entries.setdefault(task.stream, []).append(task.entry)
        if not entries:
            return
        pipe = self._redis.pipeline(transaction=False)
        for name, ids in entries.items():
            pipe.xclaim(self._keys.stream(name), RUNNERS_GROUP, consumer, 0, ids, idle=idle_ms, justid=True)
        for answer in await pipe.execute(raise_on_error=False):
            if isinstance(answer, ResponseError):  # the stream is gone, and its entries with it
                log.warning("entries not claimed: %s", answer)

    async def _tasks(self, name: str, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Task]:
        tasks = []
        for entry_id, fields in entries:
            task = _task(name, entry_id, fields or {})
            if task is None:
                await self._drop(name, entry_id, fields)
            else:
                tasks.append(task)
        return tasks

    async def _drop(self, name: str, entry_id: bytes, fields: Any) -> None:
        key = self._keys.stream(name)
        await self._store.dead_letter("malformed_task", repr(fields), stream=name, entry=entry_id.decode())
        await self._redis.xack(key, RUNNERS_GROUP, entry_id)
        await self._redis.xdel(key, entry_id)


def _task(name: str, entry_id: bytes, fields: Mapping[bytes, bytes]) -> Task | None:
    try:
        texts = {field.decode(): value.decode() for field, value in fields.items()}
    except UnicodeDecodeError:
        return None
    return read_task(name, entry_id.decode(), texts)
