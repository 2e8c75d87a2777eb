"""Hops: how many steps per second a coordinator moves, and how long one hop takes when nothing else happens."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import pairwise
from typing import Any

import orjson
from psycopg import AsyncConnection

from benchmarks import floor
from benchmarks.figure import Figure
from benchmarks.stand import Stand, stand
from lua.connection import connect_redis
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.keys import Keys
from schemas.submission import make_start

STEPS = 10
RUNS = 500
WAIT_S = 0.005


def chain(handler: str, steps: int) -> IR:
    nodes = [{"id": f"n{i}", "type": "function", "config": {"handler": handler}} for i in range(steps)]
    edges = [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(steps - 1)]
    return compile_workflow({"id": f"bench-{handler}", "nodes": nodes, "edges": edges}).ir


async def _run(store: RunStore, ir: IR, runs: int, prefix: str) -> float:
    """Seconds from the submission of `runs` runs to the end of the last."""
    value = {"text": "y" * 1_000}
    starts = [make_start(f"{prefix}_{i}", ir, value, request=prefix).arguments() for i in range(runs)]
    begin = time.perf_counter()
    for first in range(0, runs, 100):
        await store.start_runs(starts[first : first + 100])
    while await store.redis.zcard(store.keys.live_runs):  # noqa: ASYNC110 - the condition is in Redis
        await asyncio.sleep(WAIT_S)
    return time.perf_counter() - begin


async def _recorded(at: Stand, events: int) -> float:
    """Seconds until Postgres has this many events."""
    begin = time.perf_counter()
    async with await AsyncConnection.connect(at.database_url, autocommit=True) as connection:
        while True:
            row = await (await connection.execute("SELECT count(*) FROM execution_events")).fetchone()
            if row and row[0] >= events:
                return time.perf_counter() - begin
            await asyncio.sleep(WAIT_S)


async def _throughput(at: Stand) -> dict[str, Any]:
    store = RunStore(connect_redis(at.redis_url), Keys())
    ir = chain("noop", STEPS)
    await _run(store, ir, 50, "warm")
    rates, floors, lag = [], [], 0.0
    for attempt in range(3):
        floors.append(await asyncio.to_thread(floor.transitions_per_s, at.redis_url, 1.0))
        rates.append(RUNS * STEPS / await _run(store, ir, RUNS, f"run{attempt}"))
        lag = await _recorded(at, (50 + (attempt + 1) * RUNS) * (2 * STEPS + 2))
    await store.redis.aclose()
    return {"rate": statistics.median(rates), "floor": statistics.median(floors), "lag": lag}


async def _latency(at: Stand) -> float:
    """Median ms from the start of a handler to the start of the next one, in one run alone."""
    store = RunStore(connect_redis(at.redis_url), Keys())
    ir = chain("stamp", 200)
    gaps: list[float] = []
    for number in range(3):
        await _run(store, ir, 1, f"alone{number}")
        outputs = await store.redis.hgetall(store.keys.context(f"alone{number}_0"))
        stamps = [orjson.loads(outputs[f"n{i}".encode()])["at"] for i in range(200)]
        gaps += [(later - earlier) / 1e6 for earlier, later in pairwise(stamps)]
    await store.redis.aclose()
    return statistics.median(gaps)


def measure() -> list[Figure]:
    with stand() as at:
        through = asyncio.run(_throughput(at))
        bare = floor.round_trips_ms(at.redis_url)
        alone = asyncio.run(_latency(at))
    return [
        Figure(
            f"steps per second ({RUNS} runs x {STEPS} no-op steps, 1 KB, history on)",
            f"{through['rate']:,.0f}/s",
            f"floor {through['floor']:,.0f}/s",
            through["rate"] / through["floor"],
            "at least 0.12",
        ),
        Figure("recorder behind the last run", f"{through['lag'] * 1_000:,.0f} ms", "", None, "under 1 s"),
        Figure(
            "hop of one run alone, median", f"{alone:.2f} ms", f"its round trips bare {bare:.2f} ms", alone / bare,
            "under 2 ms",
        ),
    ]  # fmt: skip
