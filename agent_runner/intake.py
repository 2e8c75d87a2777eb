"""Where a runner's tasks come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agent_runner.hands import Hands
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.wakeup import Wakeup
from agent_runner.work import Fetched
from schemas.keys import FAST_LANE, task_stream

AHEAD_S = 0.1
"""Tasks are fetched ahead for so long: enough for the round trips, too short for another runner to miss them."""


class Intake(Protocol):
    """Fetches tasks, as many as there is room for."""

    def slots(self, pool: str) -> int:
        """How many tasks of a pool may be executed at once, as things are now."""

    async def fetch(self) -> list[Fetched]:
        """What there is to take; waits for it, not longer than `block_ms` where nothing changes."""

    async def reclaim(self, most: int) -> list[Fetched]:
        """Tasks that dead runners held."""

    def wake(self) -> None:
        """Something changed in this runner: a slot is free, or more."""

    def stop(self) -> None:
        """Fetch no more; a `fetch` that waits returns."""

    async def close(self) -> None:
        """After the last task."""


class TaskIntake:
    """The streams of task types that need no engine."""

    def __init__(self, streams: Streams, settings: RunnerSettings, types: Sequence[str], hands: Hands) -> None:
        self._streams = streams
        self._settings = settings
        names = [task_stream(node_type) for node_type in types]
        self._names = [*(name + FAST_LANE for name in names), *names]
        self._types = len(names)
        self._hands = hands
        self._room = Wakeup()
        self._stopped = False

    def slots(self, pool: str) -> int:
        return self._settings.slots

    async def fetch(self) -> list[Fetched]:
        await self._room.until(lambda: self._stopped or self._wanted() > 0)
        if self._stopped:
            return []
        of_each = -(-self._wanted() // self._types)  # a read gives so many of each stream
        return await self._streams.read(self._names, of_each, self._settings.block_ms)

    async def reclaim(self, most: int) -> list[Fetched]:
        taken: list[Fetched] = []
        for name in self._names:
            room = min(most, self._wanted()) - len(taken)
            if room > 0:
                taken += await self._streams.take_over(name, self._settings.reclaim_idle_ms, room)
        return taken

    def wake(self) -> None:
        self._room.notify()

    def stop(self) -> None:
        self._stopped = True
        self._room.notify()

    async def close(self) -> None:
        """Nothing is held."""

    def _wanted(self) -> int:
        """For the free slots, and ahead, not in small change."""
        slots = self._settings.slots
        ahead = self._hands.executions.within("", slots, AHEAD_S, self._settings.prefetch)
        waiting = len(self._hands.buffer)
        if waiting > ahead // 2:
            return 0
        return max(slots - self._hands.busy("") + ahead - waiting, 0)
