"""Recovery: how long it takes to rebuild 2,000 unfinished runs in a Redis that went empty.

Each run has done 10 of 20 steps with 1 KB of output each, and 4 tasks of it are queued side by side.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from benchmarks.figure import Figure
from benchmarks.recorder import record
from coordinator.recovery import Recovery
from history.history import History
from lua.connection import connect_redis
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey
from tests.play import Play

RUNS = 2_000
STEPS, DONE, BESIDE = 20, 10, 4
TEXT = "A sentence of a model's answer, as long as sentences are. " * 16


def workflow() -> dict[str, Any]:
    """A chain, and after its first half some nodes side by side."""
    chain = [f"n{i}" for i in range(STEPS - BESIDE)]
    beside = [f"m{i}" for i in range(BESIDE)]
    nodes = [{"id": name, "type": "function", "config": {"handler": "h"}} for name in (*chain, *beside)]
    edges = [{"from": one, "to": other} for one, other in pairwise(chain)]
    edges += [{"from": chain[DONE - 1], "to": name} for name in beside]
    return {"id": "bench-recovery", "nodes": nodes, "edges": edges}


async def _recover(redis_url: str, database_url: str) -> tuple[float, float, int]:
    """Seconds to rebuild the runs, and to start as many anew; events that there were."""
    redis = connect_redis(redis_url)
    play = Play(redis, workflow(), lambda task, started: {"text": TEXT, "of": task.token_id})
    for number in range(RUNS):
        await play.start(f"run_{number}")
    for _ in range(DONE):
        for task in await play.tasks():
            await play.execute(task)
        await play.settle()
    events = await redis.xlen(play.keys.events)
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        await History(pool).migrate()
        await record(redis, database_url, events)
        await redis.flushall()
        begin = time.perf_counter()
        report = await Recovery(play.store, pool, "benchmark").recover("a benchmark")
        taken = time.perf_counter() - begin
        assert (len(report.recovered), report.failed) == (RUNS, {})
    await redis.flushall()
    begin = time.perf_counter()
    for number in range(RUNS):
        await play.start(f"run_{number}")
    anew = time.perf_counter() - begin
    await redis.aclose()
    return taken, anew, events


def measure() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="pavane-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        with psycopg.connect(postgres.url):
            pass
        taken, anew, events = asyncio.run(_recover(valkey.url, postgres.url))
    return [
        Figure(
            f"recovery of {RUNS:,} unfinished runs ({events:,} events)",
            f"{taken:.1f} s",
            f"as many started anew, one by one {anew:.1f} s",
            taken / anew,
            "< 10 s",
        )
    ]
