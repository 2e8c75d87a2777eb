"""A real engine: llama.cpp on this CPU, three models that do not fit together, by Pavane and item by item."""

from __future__ import annotations

import asyncio
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from agent_runner.engines.openai import OpenAIEngine
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from benchmarks.figure import Figure
from benchmarks.stand import stand
from lua.connection import connect_redis
from lua.run_store import RunStore
from schemas.keys import Keys

ITEMS = 200
SLOTS = 4
WAIT_S = 0.05
AVAILABLE = find_spec("xllamacpp") is not None and find_spec("gguf") is not None


async def _by_pavane(folder: Path, redis_url: str) -> tuple[float, list[str]]:
    """Seconds for all items, and the models in the order in which they were loaded."""
    from tests.real_engines.router import Router
    from tests.real_engines.workload import MEMORY, MODELS, outputs, start_runs, texts

    store = RunStore(connect_redis(redis_url), Keys())
    async with Router(MODELS, folder, memory=MEMORY, slots=SLOTS) as gpu:
        stop = asyncio.Event()
        runner = Runner(store, "gpu", RunnerSettings(slots=SLOTS), engine=OpenAIEngine(gpu.url))
        serving = asyncio.create_task(runner.run(stop))
        begin = time.perf_counter()
        run_ids = await start_runs(store, texts(ITEMS))
        while await store.redis.zcard(store.keys.live_runs):  # noqa: ASYNC110 - the condition is in Redis
            await asyncio.sleep(WAIT_S)
        seconds = time.perf_counter() - begin
        stop.set()
        await serving
    for run_id in run_ids:
        await outputs(store, run_id)
    await store.redis.aclose()
    return seconds, gpu.loads


async def _item_first(folder: Path) -> tuple[float, list[str]]:
    """The same without Pavane."""
    from tests.real_engines.router import Router
    from tests.real_engines.workload import MEMORY, MODELS, item_first, texts

    async with Router(MODELS, folder, memory=MEMORY, slots=SLOTS) as gpu:
        engine = OpenAIEngine(gpu.url)
        begin = time.perf_counter()
        await item_first(engine, texts(ITEMS), SLOTS)
        seconds = time.perf_counter() - begin
        await engine.close()
    return seconds, gpu.loads


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="pavane-bench-models-") as name:
        folder = Path(name)
        with stand(runners=0) as at:
            seconds, loads = asyncio.run(_by_pavane(folder, at.redis_url))
        peer_seconds, peer_loads = asyncio.run(_item_first(folder))
    peer = f"item-first, {SLOTS} at once"
    return [
        Figure(
            f"loads of 3 models of which one fits ({ITEMS} items x 5 steps)",
            str(len(loads)),
            f"{peer} {len(peer_loads)}",
            len(loads) / len(peer_loads),
            "at most 9",
        ),
        Figure("wall time of the same", f"{seconds:.0f} s", f"{peer} {peer_seconds:.0f} s", seconds / peer_seconds, ""),
    ]
