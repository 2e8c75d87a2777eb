"""Maps: a map of 100,000 items, and how other runs' hops keep their pace beside it."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import pairwise

import orjson

from benchmarks.figure import Figure
from benchmarks.hops import chain
from benchmarks.stand import Stand, stand
from lua.connection import connect_redis
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.keys import Keys
from schemas.submission import make_start

ITEMS = 100_000
RUNS = 1_000
STEPS = 20
WAIT_S = 0.005


def fan(parallel: int) -> IR:
    """A map with one task an item."""
    item = {"id": "one", "type": "function", "config": {"handler": "stamp"}}
    config = {"items": "input.items", "nodes": [item], "max_parallel": parallel}
    return compile_workflow({"id": "bench-map", "nodes": [{"id": "each", "type": "map", "config": config}]}).ir


async def _start(store: RunStore, run_id: str, ir: IR, value: object, interactive: bool = False) -> None:
    priority = "interactive" if interactive else "normal"
    await store.start_run(**make_start(run_id, ir, value, request=run_id, priority=priority).arguments())


async def _end(store: RunStore, run_id: str) -> None:
    while await store.redis.zscore(store.keys.live_runs, run_id) is not None:  # noqa: ASYNC110 - it is in Redis
        await asyncio.sleep(WAIT_S)


async def _gaps(store: RunStore, run_id: str) -> list[float]:
    """ms from each handler's start to the next one's, in one interactive run."""
    await _start(store, run_id, chain("stamp", STEPS), {}, interactive=True)
    await _end(store, run_id)
    outputs = await store.redis.hgetall(store.keys.context(run_id))
    stamps = [orjson.loads(outputs[f"n{i}".encode()])["at"] for i in range(STEPS)]
    return [(later - earlier) / 1e6 for earlier, later in pairwise(stamps)]


async def _beside(store: RunStore, name: str, load: str) -> list[float]:
    """Gaps of interactive runs, one after the other, while the run `load` goes on."""
    gaps: list[float] = []
    number = 0
    while await store.redis.zscore(store.keys.live_runs, load) is not None:
        gaps += await _gaps(store, f"{name}{number}")
        number += 1
    return gaps


async def _measure(at: Stand) -> list[Figure]:
    store = RunStore(connect_redis(at.redis_url), Keys())
    alone = await _gaps(store, "warm") and await _gaps(store, "alone0") + await _gaps(store, "alone1")
    begin = time.perf_counter()
    ordinary = await _beside_runs(store)
    await _start(store, "map", fan(1_000), {"items": list(range(ITEMS))})
    during = await _beside(store, "during", "map")
    seconds = time.perf_counter() - begin
    status = await store.redis.hget(store.keys.run("map"), "status")
    await store.redis.aclose()
    if status != b"COMPLETED":
        raise RuntimeError(f"the map ended as {status!r}")
    return [
        Figure("map of 100,000 items, 1,000 at once", f"{seconds:.1f} s", f"{ITEMS / seconds:,.0f} items/s", None, ""),
        Figure(
            "hop of an interactive run beside it, median",
            f"{statistics.median(during):.2f} ms",
            f"{statistics.median(ordinary):.2f} ms beside {RUNS} runs, {statistics.median(alone):.2f} ms alone",
            statistics.median(during) / statistics.median(ordinary),
            "",
        ),
        Figure(
            "the same, 99 of 100", f"{_p99(during):.1f} ms", f"{_p99(ordinary):.1f} ms beside {RUNS} runs",
            _p99(during) / _p99(ordinary), "",
        ),
    ]  # fmt: skip


async def _beside_runs(store: RunStore) -> list[float]:
    """The peer: gaps beside as many ordinary runs as the map has items at once."""
    starts = [make_start(f"peer{i}", chain("stamp", 50), {}, request="peer").arguments() for i in range(RUNS)]
    for first in range(0, RUNS, 100):
        await store.start_runs(starts[first : first + 100])
    gaps: list[float] = []
    while True:
        more = await _gaps(store, f"ordinary{len(gaps)}")
        if not await store.redis.zcard(store.keys.live_runs):
            return gaps  # the last ones were not beside all of them
        gaps += more


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def measure() -> list[Figure]:
    with stand() as at:
        return asyncio.run(_measure(at))
