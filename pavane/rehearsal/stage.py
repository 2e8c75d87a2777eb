"""The stage: Redis in memory, the services' own code on it, and a clock that only we move."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fakeredis

from agent_runner.claims import Claims
from agent_runner.streams import Streams
from agent_runner.work import Fetched
from coordinator.ir_cache import IRCache
from coordinator.signal_batch import SignalBatch
from coordinator.timers import Timers
from lua.run_store import RunStore
from schemas.events import Event, read_event
from schemas.ir import TASK_TYPES
from schemas.keys import Keys
from schemas.messages import read_signal
from schemas.values import ARTIFACT, artifact_name, unpack

RUNNER = "rehearsal"
DEFAULT_TIMEOUT_MS = 600_000
SIGNALS = 1_000


class Stage:
    """One server for all cases of a workflow: scripts and IRs stay, everything else goes with `clear`."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.redis: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), version=(7,))
        self.store = RunStore(self.redis, Keys(), clock=self._clock)
        self.claims = Claims(self.store, RUNNER, TASK_TYPES, DEFAULT_TIMEOUT_MS)
        self.streams = Streams(self.store, RUNNER)
        self.unknown_workflows: list[str] = []
        self._signals = SignalBatch(self.store, IRCache(self.store), self._no_workflow)
        self._timers = Timers(self.store)

    async def _clock(self) -> int:
        return self.now_ms

    async def _no_workflow(self, workflow_id: str, version: int | None) -> None:
        """Registered workflows are Postgres's; a case scripts what they give."""
        self.unknown_workflows.append(workflow_id)

    async def clear(self, now_ms: int) -> None:
        await self.redis.flushall()
        self.streams = Streams(self.store, RUNNER)  # the groups went with the streams
        self.now_ms = now_ms
        self.unknown_workflows = []

    async def route(self) -> None:
        """Route signals until there is none."""
        while raws := await self.redis.lpop(self.store.keys.signals, SIGNALS):
            await self._signals.route([read_signal(raw) for raw in raws])

    async def events(self) -> list[tuple[Event, dict[str, Any]]]:
        """What happened since the last call, each with the values of the artifacts that it names."""
        entries = await self.redis.xrange(self.store.keys.events)
        if entries:
            await self.redis.delete(self.store.keys.events)
        found = [read_event(fields) for _, fields in entries]
        return [(event, await self._stored(event)) for event in found]

    async def _stored(self, event: Event) -> dict[str, Any]:
        stored = event.data.get("stored") or {}
        texts = [*(stored.values() if isinstance(stored, dict) else [stored])]
        texts += [event.data[name] for name in ("stored_input", "stored_items") if name in event.data]
        found: dict[str, Any] = {}
        for text in texts:
            if text.startswith(ARTIFACT):
                packed = await self.store.artifact(event.run_id, artifact_name(text) or "")
                found[text] = unpack(packed) if packed is not None else text
        return found

    async def fetch(self) -> list[Fetched]:
        """The tasks that came onto streams since the last call, in the order in which their tokens were made."""
        names = sorted(name.decode() for name in await self.redis.smembers(self.store.keys.streams))
        fetched = await self.streams.read(names, SIGNALS) if names else []
        return sorted(fetched, key=lambda one: (one.task.run_id, int(one.task.token_id.rpartition(".")[2])))

    async def fire_timers(self) -> None:
        """Handle what is due."""
        while await self._timers.handle_due(self.now_ms) == 0:
            pass

    async def next_timer(self) -> int | None:
        """When the first timer is due, in ms."""
        first = await self.redis.zrange(self.store.keys.timers, 0, 0, withscores=True)
        return int(first[0][1]) if first else None


@contextmanager
def same_chance() -> Iterator[None]:
    """The jitter of backoffs is all that chance decides: within this it is the same in every play."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)
