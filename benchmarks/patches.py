"""Patches: of one run over HTTP, of 2,000 runs at once, and what they cost other runs' hops."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import suppress
from itertools import count, pairwise
from typing import Any

import httpx
import orjson

from benchmarks.figure import Figure
from benchmarks.floor import round_trips_ms
from benchmarks.hops import chain
from benchmarks.stand import Stand, stand
from lua.connection import connect_redis
from lua.patching import Patch, Patched, Patching
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.keys import Keys
from schemas.revision import revise
from schemas.submission import make_start

NODES = 30
PATCHES = 100
PACE = 20
LIVE_RUNS = 2_000
LOAD_RUNS, LOAD_STEPS = 200, 20
ROUNDS = 5
LIVE_BESIDE = 1
"""The run that is patched."""
WAIT_S = 0.005


def _workflow() -> IR:
    """A chain of NODES nodes whose first one waits for a long time."""
    nodes: list[dict[str, Any]] = [{"id": "n0", "type": "wait", "config": {"for_ms": 600_000}}]
    nodes += [
        {"id": f"n{i}", "type": "agent", "config": {"model": "m", "prompt": f"Improve {i}: {{{{ output }}}}"}}
        for i in range(1, NODES)
    ]
    edges = [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(NODES - 1)]
    return compile_workflow({"id": "bench-patch", "nodes": nodes, "edges": edges}).ir


def _operations(number: int) -> list[dict[str, Any]]:
    return [{"op": "replace", "path": "/nodes/n15/config/prompt", "value": f"Patch {number}: {{{{ output }}}}"}]


async def _start(store: RunStore, ir: IR, runs: int, prefix: str) -> list[str]:
    starts = [make_start(f"{prefix}_{i}", ir, {"text": "x"}, request=prefix).arguments() for i in range(runs)]
    for first in range(0, runs, 100):
        await store.start_runs(starts[first : first + 100])
    return [f"{prefix}_{i}" for i in range(runs)]


async def _over_http(at: Stand, run_id: str) -> float:
    """Median ms from the request for a patch to its answer."""
    took = []
    async with httpx.AsyncClient(base_url=at.api_url, timeout=60) as client:
        for number in range(PATCHES):
            begin = time.perf_counter()
            answer = await client.post(f"/runs/{run_id}/patch", json={"operations": _operations(number)})
            took.append((time.perf_counter() - begin) * 1_000)
            answer.raise_for_status()
    return statistics.median(took[10:])


async def _many(store: RunStore, run_ids: list[str]) -> float:
    """Seconds to patch them all."""
    begin = time.perf_counter()
    patch = Patch(lambda ir: revise(ir, _operations(0)), {"by": "bench"})
    results = await Patching(store).patch_all(run_ids, patch)
    took = time.perf_counter() - begin
    assert all(isinstance(result, Patched) for result in results)
    return took


async def _loaded_hop(store: RunStore, prefix: str) -> float:
    """Median ms from one handler's start to the next one's, in LOAD_RUNS runs at once."""
    run_ids = await _start(store, chain("stamp", LOAD_STEPS), LOAD_RUNS, prefix)
    while await store.redis.zcard(store.keys.live_runs) > LIVE_BESIDE:  # noqa: ASYNC110 - the condition is in Redis
        await asyncio.sleep(WAIT_S)
    gaps: list[float] = []
    for run_id in run_ids:
        outputs = await store.redis.hgetall(store.keys.context(run_id))
        stamps = [orjson.loads(text)["at"] for text in outputs.values()]
        gaps += [(later - earlier) / 1e6 for earlier, later in pairwise(sorted(stamps))]
    return statistics.median(gaps)


async def _patch_on(at: Stand, run_id: str, patched: list[int]) -> None:
    """Patch a run again and again, PACE times a second: the sleep is the pace, nothing is waited for."""
    begin = time.perf_counter()
    async with httpx.AsyncClient(base_url=at.api_url, timeout=60) as client:
        for number in count(1):
            await asyncio.sleep(max(begin + number / PACE - time.perf_counter(), 0))
            answer = await client.post(f"/runs/{run_id}/patch", json={"operations": _operations(number)})
            answer.raise_for_status()
            patched[0] += 1


async def _beside(at: Stand, store: RunStore, run_id: str) -> tuple[float, float, int]:
    """Median hop under load without patches, and with them; and how many there were."""
    without, beside, patched = [], [], [0]
    for number in range(ROUNDS):
        without.append(await _loaded_hop(store, f"without{number}"))
        patching = asyncio.create_task(_patch_on(at, run_id, patched))
        beside.append(await _loaded_hop(store, f"beside{number}"))
        patching.cancel()
        with suppress(asyncio.CancelledError):
            await patching
    return statistics.median(without), statistics.median(beside), patched[0]


async def _measure(at: Stand) -> list[Figure]:
    store = RunStore(connect_redis(at.redis_url), Keys())
    ir = _workflow()
    (run_id,) = await _start(store, ir, 1, "one")
    bare = await asyncio.to_thread(round_trips_ms, at.redis_url)
    alone = await _over_http(at, run_id)
    await _loaded_hop(store, "warm")
    without, beside, patched = await _beside(at, store, run_id)
    many = await _many(store, await _start(store, ir, LIVE_RUNS, "many"))
    await store.redis.aclose()
    return [
        Figure(
            f"patch of a workflow of {NODES} nodes over HTTP, median", f"{alone:.1f} ms",
            f"round trips of a hop bare {bare:.2f} ms", alone / bare, "under 10 ms",
        ),
        Figure(
            f"hop of {LOAD_RUNS} runs beside {patched} patches at {PACE}/s, median", f"{beside:.1f} ms",
            f"without {without:.1f} ms", beside / without, "under 1.10",
        ),
        Figure(f"patch of {LIVE_RUNS:,} live runs", f"{many:.2f} s", "", None, "under 3 s"),
    ]  # fmt: skip


def measure() -> list[Figure]:
    with stand(api=True) as at:
        return asyncio.run(_measure(at))
