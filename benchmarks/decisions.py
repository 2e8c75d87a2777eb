"""Decisions: what one look of a runner at 50 models costs Redis, and what it costs the runner beside a PING."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.figure import Figure
from lua.connection import connect_redis
from lua.gpu_leases import GpuLeases, Lease
from pavane.embedded.valkey import EmbeddedValkey
from schemas.keys import RUNNERS_GROUP, Keys, agent_stream

MODELS = 50
GPUS = 4
RESIDENTS = 4  # of the GPU that looks
QUEUED = 40
BATCHES, LOOKS = 20, 100  # Redis gives the mean of a batch
TTL_MS = 15_000


def _lease(number: int) -> Lease:
    models = {f"model-{number * RESIDENTS + n}:7b": 1.5 for n in range(RESIDENTS if number == 0 else 1)}
    return Lease(f"http://gpu-{number}:11434", f"gpu-{number}", f"gpu-{number}", "8GB", models)


async def _fill(store: GpuLeases) -> None:
    """Every model has work, one in five in the fast lane too; of the residents some is in the runner's hands."""
    now = await store.now()
    pipe = store.redis.pipeline(transaction=False)
    for number in range(MODELS):
        pool = f"model-{number}:7b"
        pipe.hset(store.keys.served, pool, now)
        for lane, count in (("", QUEUED), (":interactive", 2 if number % 5 == 0 else 0)):
            key = store.keys.stream(agent_stream(pool) + lane)
            for n in range(count):
                run = f"run_{number:032x}"
                pipe.xadd(key, {"run": run, "token": f"{run}.{n}", "node": "node", "scope": "", "digest": "d" * 64})
            if count:
                pipe.hset(store.keys.backlog, pool + lane, count)
                pipe.hset(store.keys.backlog_since, pool + lane, now)
                pipe.xgroup_create(key, RUNNERS_GROUP, id="0")
        if number < RESIDENTS:
            pipe.xreadgroup(RUNNERS_GROUP, "gpu-0", {store.keys.stream(agent_stream(pool)): ">"}, count=8)
    await pipe.execute()
    for number in range(GPUS):
        await store.lease_models(_lease(number), version=None, residents=(), ttl_ms=TTL_MS)


async def _timed_us(call: Callable[[], Awaitable[Any]]) -> float:
    begin = time.perf_counter()
    await call()
    return (time.perf_counter() - begin) * 1e6


async def _decide(url: str) -> dict[str, float]:
    """Medians in µs: of Redis for one look, of the runner for one look, of the runner for a PING."""
    store = GpuLeases(connect_redis(url), Keys())
    await _fill(store)
    own = _lease(0)

    async def look() -> None:
        table = await store.lease_models(own, version=None, residents=list(own.models), ttl_ms=TTL_MS, served=[])
        assert len(table.waiting) == MODELS

    await look()
    took: dict[str, list[float]] = {"redis": [], "whole": [], "ping": []}
    for _ in range(BATCHES):
        await store.redis.config_resetstat()
        took["whole"] += [await _timed_us(look) for _ in range(LOOKS)]
        took["redis"].append((await store.redis.info("commandstats"))["cmdstat_evalsha"]["usec_per_call"])
        took["ping"] += [await _timed_us(store.redis.ping) for _ in range(LOOKS)]
    await store.redis.aclose()
    return {name: statistics.median(times) for name, times in took.items()}


def measure() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="pavane-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
    ):
        took = asyncio.run(_decide(valkey.url))
    what = f"{MODELS} models, {RESIDENTS} resident, {GPUS} leases"
    return [
        Figure(f"Redis time of one decision ({what})", f"{took['redis']:.0f} us", "", None, "under 200 us"),
        Figure(
            "round trip of one decision, median", f"{took['whole']:.0f} us", f"PING {took['ping']:.0f} us",
            took["whole"] / took["ping"], "",
        ),
    ]  # fmt: skip
