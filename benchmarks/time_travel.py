"""Time travel: how long it takes to tell a run's state at any of its 10,000 events.

The run is really played: a map of 400 items, 12 tasks each with 1 KB of output, so that a state in the middle of it has
hundreds of values.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from benchmarks.figure import Figure
from benchmarks.recorder import record
from history.history import History
from lua.connection import connect_redis
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey
from pavane.services.process import settle_memory
from schemas.fold import fold
from tests.play import Play

ITEMS, TASKS = 400, 12
READS = 200
TEXT = "A sentence of a model's answer, as long as sentences are. " * 16


def workflow() -> dict[str, Any]:
    nodes = [{"id": f"n{i}", "type": "function", "config": {"handler": "h"}} for i in range(TASKS)]
    edges = [{"from": f"n{i}", "to": f"n{i + 1}"} for i in range(TASKS - 1)]
    each = {"items": "input.items", "max_parallel": 16, "nodes": nodes, "edges": edges}
    return {"id": "bench-travel", "nodes": [{"id": "each", "type": "map", "config": each}], "edges": []}


async def _travel(redis_url: str, database_url: str) -> tuple[int, list[float], float]:
    """Events of the run; seconds of each read of a state; seconds to fold the last one from the start."""
    redis = connect_redis(redis_url)
    play = Play(redis, workflow(), lambda task, started: {"text": TEXT, "of": task.token_id})
    await play.start(input={"items": list(range(ITEMS))})
    await play.run_to_end(limit=100_000)
    events = await redis.xlen(play.keys.events)
    async with AsyncConnectionPool(database_url, min_size=1, max_size=1, open=False) as pool:
        history = History(pool)
        await history.migrate()
        await record(redis, database_url, events)
        settle_memory()  # as the API does
        taken = []
        rng = random.Random(1)
        for seq in rng.choices(range(1, events + 1), k=READS):
            begin = time.perf_counter()
            state = await history.events.state("run_1", seq)
            taken.append(time.perf_counter() - begin)
            assert state and state.seq == seq
        begin = time.perf_counter()
        whole = []
        while part := await history.events.after("run_1", len(whole)):
            whole += part
        folded = fold(whole)
        from_start = time.perf_counter() - begin
        assert await history.events.state("run_1") == folded
    await redis.aclose()
    return events, taken, from_start


def measure() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="pavane-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        events, taken, from_start = asyncio.run(_travel(valkey.url, postgres.url))
        with psycopg.connect(postgres.url) as connection:
            row = connection.execute(
                "SELECT count(*), sum(length(state)), (SELECT sum(length(data::text)) FROM execution_events) "
                "FROM run_snapshots"
            ).fetchone()
    assert row
    snapshots, size, length = row
    median = statistics.median(taken)
    return [
        Figure(
            f"state at any of {events:,} events, median of {READS} (slowest)",
            f"{median * 1_000:.0f} ms ({max(taken) * 1_000:.0f} ms)",
            f"folded from the start {from_start * 1_000:.0f} ms",
            median / from_start,
            "under 50 ms",
        ),
        Figure(f"{snapshots} snapshots", f"{size / 1e6:.1f} MB", f"events {length / 1e6:.1f} MB", size / length, ""),
    ]
