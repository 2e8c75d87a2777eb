"""A store, runners in the background, and the signals that they push."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from coordinator.coordinator import Coordinator
from coordinator.timers import Timers
from lua.run_store import RunStore
from schemas.keys import Keys
from tests.runner.bench import Bench

FAST = RunnerSettings(
    slots=8, block_ms=20, heartbeat_ms=50, heartbeat_ttl_ms=5_000, reclaim_ms=20, reclaim_idle_ms=60_000, drain_ms=5_000
)
IMPATIENT = dataclasses.replace(FAST, heartbeat_ms=20, reclaim_idle_ms=80)


@pytest.fixture
def store(redis: Redis) -> RunStore:
    return RunStore(redis, Keys())


@pytest.fixture
async def bench(store: RunStore) -> AsyncIterator[Bench]:
    made = Bench(store)
    yield made
    await made.gpu.close()


class Serving:
    """A runner that serves in the background."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(runner.run(self._stop))

    async def stop(self) -> None:
        self._stop.set()
        await self._task


Serve = Callable[..., Serving]


@pytest.fixture
async def serve(store: RunStore) -> AsyncIterator[Serve]:
    """`serve("r1", handlers=[fn, ...])`, `serve("r1", nodes={...})` or `serve("r1", engine=engine)`, stopped after the
    test."""
    started: list[Serving] = []

    def begin(
        runner_id: str = "r1", settings: RunnerSettings = FAST, *,
        handlers: Any = None, nodes: Any = None, engine: Any = None, tools: Any = None,
    ) -> Serving:  # fmt: skip
        if handlers is not None:
            nodes = {"function": FunctionNodes(Handlers(handlers))}
        serving = Serving(Runner(store, runner_id, settings, nodes=nodes, engine=engine, tools=tools))
        started.append(serving)
        return serving

    yield begin
    for serving in started:
        await asyncio.wait_for(serving.stop(), 20)


Completed = Callable[[str], Awaitable[None]]


@pytest.fixture
async def completed(store: RunStore, wait_until: Any) -> AsyncIterator[Completed]:
    """A coordinator in the background; `await completed("run_1")` waits until it has completed the run."""
    stop = asyncio.Event()
    serving = [asyncio.create_task(part.run(stop)) for part in (Coordinator(store), Timers(store))]

    async def wait(run_id: str) -> None:
        async def over() -> bool:
            return await store.redis.hget(store.keys.run(run_id), "status") not in (None, b"RUNNING")

        await wait_until(over)
        assert await store.redis.hget(store.keys.run(run_id), "status") == b"COMPLETED"

    yield wait
    stop.set()
    await asyncio.gather(*serving)


Signals = Callable[[int], Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def signals(store: RunStore, wait_until: Any) -> Signals:
    """`await signals(3)`: the first three completion signals, by token.

    With nobody to route them, impatient runners signal stored outcomes again: equal ones count once.
    """

    async def wait(count: int) -> list[dict[str, Any]]:
        async def enough() -> list[bytes] | None:
            different = set(await store.redis.lrange(store.keys.signals, 0, -1))
            return list(different) if len(different) >= count else None

        raw = await wait_until(enough, 15)
        assert len(raw) == count
        return sorted(map(orjson.loads, raw), key=lambda signal: signal["job_id"])

    return wait
