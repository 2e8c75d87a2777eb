"""Items through the coordinator, Redis, a runner and llama.cpp: a model stays while it has work."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from redis.asyncio import Redis

from agent_runner.engines.openai import OpenAIEngine
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from coordinator.coordinator import Coordinator
from coordinator.timers import Timers
from lua.run_store import RunStore
from schemas.keys import Keys
from tests.real_engines.router import Router
from tests.real_engines.workload import ANSWER, MEMORY, MODELS, STEPS, item_first, outputs, start_runs, texts

ITEMS = 12
SETTINGS = RunnerSettings(slots=4, block_ms=50, heartbeat_ms=100)
WaitUntil = Callable[..., Awaitable[Any]]


@pytest.fixture
async def gpu(model_files: Path) -> AsyncIterator[Router]:
    async with Router(MODELS, model_files, memory=MEMORY) as router:
        yield router


@asynccontextmanager
async def serving(store: RunStore, gpu: Router) -> AsyncIterator[None]:
    """A coordinator and the GPU's runner."""
    stop = asyncio.Event()
    runner = Runner(store, "gpu", SETTINGS, engine=OpenAIEngine(gpu.url))
    parts = [asyncio.create_task(part.run(stop)) for part in (Coordinator(store), Timers(store), runner)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*parts)


async def all_ended(store: RunStore) -> bool:
    return not await store.redis.zcard(store.keys.live_runs)


async def test_each_model_is_loaded_a_few_times(redis: Redis, gpu: Router, wait_until: WaitUntil) -> None:
    store = RunStore(redis, Keys())
    async with serving(store, gpu):
        run_ids = await start_runs(store, texts(ITEMS))
        await wait_until(lambda: all_ended(store), 90)
    for run_id in run_ids:
        for answer in (await outputs(store, run_id)).values():
            jsonschema.validate(answer, ANSWER)
    assert set(gpu.loads) == {model.name for model in MODELS}
    assert len(gpu.loads) <= 3 * len(MODELS), gpu.loads
    assert gpu.evictions == 0  # the runner made room itself


async def test_item_first_loads_for_nearly_every_step(gpu: Router) -> None:
    engine = OpenAIEngine(gpu.url)
    await item_first(engine, texts(4), at_once=1)
    await engine.close()
    assert len(gpu.loads) == 4 * len(STEPS)


async def test_a_model_that_is_killed_costs_no_item(redis: Redis, gpu: Router, wait_until: WaitUntil) -> None:
    store = RunStore(redis, Keys())
    async with serving(store, gpu):
        run_ids = await start_runs(store, texts(ITEMS))
        await wait_until(lambda: gpu.running("beta"), 60)
        os.kill(gpu.pid("beta"), signal.SIGKILL)
        await wait_until(lambda: all_ended(store), 90)
    for run_id in run_ids:
        await outputs(store, run_id)
