"""A shop floor: a Redis with runs on it, processes that work on them, and the verdict."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from history.batches import NewBatch, NewItem
from history.history import UNAVAILABLE, History
from lua.run_store import RunStore
from pavane.embedded.valkey import EmbeddedValkey
from schemas.keys import Keys
from tests.faults.courses import BATCH, course_ids, start_runs, starts_of
from tests.faults.editor import Editor
from tests.faults.people import Clerk, Meddler, Repairer
from tests.faults.processes import Process, Processes
from tests.faults.verdict import EXECUTIONS, Events, Verdict
from tests.routing.judged import wordless
from tests.servers import PrivateServers

TIMEOUT_S = 40
PATIENT_MS = 60_000
"""`idle_ms` of processes that take nobody for dead."""


class Floor:
    """Runs, the processes at work on them, and how it ended."""

    def __init__(self, redis: Redis, processes: Processes, wait_until: Callable[..., Awaitable[Any]]) -> None:
        self.redis: Any = redis
        self.store = RunStore(redis, Keys())
        self.processes = processes
        self.run_ids: list[str] = []
        self.verdict = Verdict(redis, self.run_ids)
        self.repairer = Repairer(self.store, self.run_ids)
        self.people: list[Clerk | Meddler | Repairer | Editor] = [Clerk(self.store), self.repairer]
        self._wait_until = wait_until

    async def begin(self, run_ids: Sequence[str] = ()) -> None:
        """Start runs: 20 courses, if not said which."""
        fresh = run_ids or course_ids(20)
        self.run_ids += fresh
        await start_runs(self.store, fresh)

    async def start(self, *kinds: str, **options: Any) -> list[Process]:
        """Processes of these kinds, started side by side."""
        return list(await asyncio.gather(*(self.processes.start(kind, **options) for kind in kinds)))

    async def wait_until(self, condition: Callable[[], Any]) -> Any:
        """The condition's value, once it is truthy; people act meanwhile. Patient: the machine may be busy."""

        async def attended() -> Any:
            for one in self.people:
                await one.attend()
            value = condition()
            return await value if isawaitable(value) else value

        return await self._wait_until(attended, TIMEOUT_S)

    async def kill_at_random(self, at_work: Sequence[Process], rng: random.Random, times: int, most: int) -> None:
        """Kill one of these processes and start it again, so many times, each after up to `most` more executions."""
        for _ in range(times):
            goal = await self.progress() + rng.randint(1, most)
            await self.wait_until(lambda goal=goal: self.reached(goal))
            victim = rng.choice(at_work)
            await victim.kill()
            await victim.start()

    async def dies(self, process: Process) -> None:
        """It kills itself."""
        await self.wait_until(lambda: not process.alive)
        assert await process.died() == -signal.SIGKILL

    async def progress(self) -> int:
        """Tasks that were executed so far."""
        return int(await self.redis.llen(EXECUTIONS))

    async def reached(self, executions: int) -> bool:
        """So many tasks were executed, or all runs have ended."""
        return await self.progress() >= executions or await self.verdict.ended()

    async def ended(self) -> None:
        """All runs have ended; those that somebody retries for good."""

        async def over() -> bool:
            return await self.verdict.ended() and not await self.repairer.failed()

        try:
            await self.wait_until(over)
        except AssertionError:
            left = await self.verdict.open_ends()
            raise AssertionError(f"not ended: {left}\n{self.processes.logs()[-20_000:]}") from None

    async def is_right(self, events: Events | None = None, *, statuses: dict[str, int] | None = None) -> None:
        """Everything holds that must hold; all runs are completed, if no other `statuses` are given."""
        present = len(set(self.run_ids) - self.verdict.gone)
        assert await self.verdict.statuses() == (statuses or {"COMPLETED": present})
        assert await self.verdict.differences(events) == []
        assert await self.verdict.letters() == []


class Archive:
    """What Postgres knows of the runs."""

    unavailable = UNAVAILABLE

    def __init__(self, history: History) -> None:
        self.history = history

    async def create_batch(self, run_ids: Sequence[str]) -> None:
        """A batch whose items wait to be admitted."""
        starts = starts_of(run_ids)
        await self.history.workflows.add_ir(starts[0].ir)
        items = [NewItem(start.run_id, start.run_id, start.input_text) for start in starts]
        await self.history.batches.create(
            NewBatch(BATCH, starts[0].ir.workflow_id, None, starts[0].ir.digest, items, created_at=0)
        )

    async def events(self, run_ids: Sequence[str]) -> Events:
        return {run_id: await self.history.events.after(run_id, limit=100_000) for run_id in run_ids}

    async def outputs(self, run_ids: Sequence[str]) -> dict[str, Any]:
        """By run, the large ones from their artifacts."""
        runs = [await self.history.runs.get(run_id) for run_id in run_ids]
        return {run["run_id"]: wordless(run["output"]) for run in runs if run}

    async def has_ended(self, run_ids: Sequence[str]) -> bool:
        """The end of every run is recorded."""
        known = [await self.history.runs.get(run_id) for run_id in run_ids]
        return all(run and run["ended_at"] for run in known)


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    made = Processes(tmp_path)
    yield made
    await made.kill()


@pytest.fixture
async def floor(redis: Redis, redis_url: str, processes: Processes, wait_until: Callable[..., Awaitable[Any]]) -> Floor:
    processes.common["redis"] = redis_url
    return Floor(redis, processes, wait_until)


@pytest.fixture
def valkey(private_servers: PrivateServers) -> EmbeddedValkey:
    """A Redis to kill."""
    return private_servers.valkey()


@pytest.fixture
async def fragile_floor(
    valkey: EmbeddedValkey, processes: Processes, wait_until: Callable[..., Awaitable[Any]]
) -> AsyncIterator[Floor]:
    """A floor on `valkey`."""
    processes.common["redis"] = valkey.url
    client: Redis = Redis.from_url(valkey.url)
    yield Floor(client, processes, wait_until)
    await client.aclose()


@pytest.fixture
async def archive(database_url: str, processes: Processes) -> AsyncIterator[Archive]:
    """A migrated database, which every process is told of."""
    processes.common["database"] = database_url
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        history = History(pool)
        await history.migrate()
        yield Archive(history)
