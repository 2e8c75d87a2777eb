"""Tasks that no counter tells of: those of dead runners, and those that somebody put on a stream by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from redis.exceptions import RedisError

from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.work import Fetched
from lua.run_store import RunStore
from schemas.keys import FAST_LANE, RUNNERS_GROUP, agent_stream, pool_of

_AGENT = agent_stream("")


class Orphans:
    """Iterates over the pools that have some."""

    def __init__(self, store: RunStore, streams: Streams, settings: RunnerSettings) -> None:
        self._store = store
        self._streams = streams
        self._settings = settings
        self._found: Counter[str] = Counter()  # by stream

    def __iter__(self) -> Iterator[str]:
        return iter({pool_of(name) for name, count in self._found.items() if count})

    def count(self, pool: str, *, fast: bool) -> int:
        """Of one lane, as many as a runner could take at once, at most."""
        return self._found[agent_stream(pool) + (FAST_LANE if fast else "")]

    async def find(self) -> bool:
        """Look on all agent streams; whether there are any."""
        redis, keys = self._store.redis, self._store.keys
        names = [name for member in await redis.smembers(keys.streams) if pool_of(name := member.decode())]
        pipe = redis.pipeline(transaction=False)
        most, idle = self._settings.slots, self._settings.reclaim_idle_ms
        pipe.hgetall(keys.backlog)
        for name in names:
            key = keys.stream(name)
            pipe.xlen(key).xpending(key, RUNNERS_GROUP).xpending_range(key, RUNNERS_GROUP, "-", "+", most, idle=idle)
        backlog, *answers = await pipe.execute(raise_on_error=False)
        found: Counter[str] = Counter()
        for name, length, pending, entries in zip(names, *(answers[n::3] for n in range(3)), strict=True):
            counted = int(backlog.get(name.removeprefix(_AGENT).encode(), 0))
            if isinstance(pending, RedisError):  # no group yet
                pending, entries = {"pending": 0}, ()
            uncounted = max(length - pending["pending"] - counted, 0)
            found[name] = uncounted + await self._without_outcome(name, [one["message_id"] for one in entries])
        self._found = found
        return any(found.values())

    async def _without_outcome(self, name: str, entries: Sequence[bytes]) -> int:
        """What was executed only waits to be routed: that is the supervisor's, and needs no model."""
        if not entries:
            return 0
        tasks = await self._streams.named(name, entries)
        pipe = self._store.redis.pipeline(transaction=False)
        for task in tasks:
            pipe.hexists(self._store.keys.outcomes(task.run_id, task.scope), task.token_id)
        return sum(not stored for stored in await pipe.execute()) if tasks else 0

    async def adopt(self, pool: str, most: int) -> list[Fetched]:
        """Take some over, interactive ones first."""
        taken: list[Fetched] = []
        for name in (agent_stream(pool) + FAST_LANE, agent_stream(pool)):
            self._found.pop(name, None)
            if len(taken) < most:
                taken += await self._streams.take_over(name, self._settings.reclaim_idle_ms, most - len(taken))
        return taken
