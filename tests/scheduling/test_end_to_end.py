"""Two simulated GPUs in scaled time: real Redis, HTTP, coordinator and runners, one decision after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.gpu import Tenant
from agent_runner.engines.simulated.residency import Residency
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from benchmarks.gpus.engine import CARD, SLOTS, Seen, WatchedServer
from benchmarks.gpus.workload import input_of, interactive, screening
from benchmarks.gpusim.workloads import G3, Q7, seed_S
from coordinator.coordinator import Coordinator
from coordinator.timers import Timers
from lua.run_store import RunStore
from schemas.keys import Keys
from schemas.submission import Start, make_start

ITEMS = 60
SPEED = 50.0
SETTINGS = RunnerSettings(slots=SLOTS, kind=CARD.name, memory=int(CARD.usable_gb * 1e9))


@asynccontextmanager
async def serving(store: RunStore, servers: list[WatchedServer]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    runners = [
        Runner(store, f"gpu-{number}", SETTINGS, engine=OllamaEngine(server.url))
        for number, server in enumerate(servers)
    ]
    running = [part.run(stop) for part in (Coordinator(store), Timers(store))] + [one.run(stop) for one in runners]
    tasks = [asyncio.create_task(part) for part in running]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> list[Residency]:
    """The engines that had to make room by themselves, once for each time: a runner loaded more than fits."""
    found: list[Residency] = []
    choose = Residency._victim

    def victim(self: Residency) -> Tenant:
        found.append(self)
        return choose(self)

    monkeypatch.setattr(Residency, "_victim", victim)
    return found


async def serve(store: RunStore, gpus: int, starts: Sequence[Start], wait_until: Any) -> list[Seen]:
    """What the GPUs did until all these runs had completed."""
    async with AsyncExitStack() as stack:
        servers = [WatchedServer(SPEED) for _ in range(gpus)]
        for server in servers:
            await stack.enter_async_context(server)
        await stack.enter_async_context(serving(store, servers))
        await store.start_runs([start.arguments() for start in starts])

        async def over() -> bool:
            return not await store.redis.zcard(store.keys.live_runs)

        await wait_until(over, 60)
        seen = [server.seen() for server in servers]
    statuses = {await store.redis.hget(store.keys.run(start.run_id), "status") for start in starts}
    assert statuses == {b"COMPLETED"}
    return seen


async def test_models_first_on_two_gpus(redis: Redis, wait_until: Any, crowded: list[Residency]) -> None:
    ir, items = screening(), seed_S(ITEMS)
    starts = [make_start(f"run_{n}", ir, input_of(item), request=f"{n}") for n, item in enumerate(items)]
    seen = await serve(RunStore(redis, Keys()), 2, starts, wait_until)
    work = sum(seconds for item in items for _, model, seconds in item.path if model)
    assert abs(sum(gpu.work_s for gpu in seen) - work) < 1e-3 * work  # every task once
    assert all(gpu.work_s > 0.2 * work for gpu in seen)
    assert not crowded
    assert sum(gpu.loads for gpu in seen) < ITEMS  # item by item it would be nine for each


async def test_interactive_tasks_of_two_models_on_one_gpu(redis: Redis, wait_until: Any) -> None:
    """Which have no room beside each other. Neither is displaced before it was of use."""
    starts = [
        make_start(f"run_{n}", interactive(model), {"work": 2.0}, request=f"{n}", priority="interactive")
        for n, model in enumerate([Q7, G3] * 4)
    ]
    (seen,) = await serve(RunStore(redis, Keys()), 1, starts, wait_until)
    assert seen.loads <= len(starts)
