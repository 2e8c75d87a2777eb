"""The recorder alone: how many events a second it copies from a full stream, beside a bare COPY of the same rows.

The events are those of one run that is really played (ten model steps of 1 KB, a branch, a retry), once for each of
the runs with the run's own id, in waves as a batch makes them.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from redis.asyncio import Redis

from benchmarks.figure import Figure
from coordinator.recorder import PAGE_COUNT, Recorder
from coordinator.stream import read_entry
from history.entry import COLUMNS
from history.migration import migrate
from lua.answers import StartedTask
from lua.connection import connect_redis
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey
from pavane.services.process import settle_memory
from schemas.keys import Keys
from schemas.messages import Failure, Task
from tests.play import Play

RUNS = 2_000
WAVE = 500
"""Runs that are live at once: the events of theirs are mixed."""
STEPS = 10
ROUNDS = 3
TEXT = "A sentence of a model's answer, as long as sentences are. " * 16

Fields = Mapping[bytes, bytes]


class Round(NamedTuple):
    """Seconds of wall and CPU that the recorder took, and seconds of the bare COPY, for the same events."""

    events: int
    wall_s: float
    cpu_s: float
    copy_s: float


async def played(redis: Redis, run_id: str) -> list[Fields]:
    """The stream entries of a run of STEPS steps, one of them executed twice, one beside a branch not taken."""
    nodes: list[dict[str, Any]] = [
        {"id": f"step_{i}", "type": "function", "config": {"handler": "echo"}} for i in range(STEPS)
    ]
    nodes[3]["retry"] = {"max_attempts": 2, "backoff_ms": 0}
    edges: list[dict[str, Any]] = [{"from": f"step_{i}", "to": f"step_{i + 1}"} for i in range(STEPS - 1)]
    edges[5]["condition"] = {"type": "cel", "expression": "output.score >= 50"}

    def answer(task: Task, started: StartedTask) -> Any:
        if task.node_id == "step_3" and started.attempt == 1:
            return Failure("handler", "the first attempt fails", True)
        return {"text": TEXT, "score": 80, "language": "en", "of": task.node_id}

    play = Play(redis, {"id": "bench-recorder", "nodes": nodes, "edges": edges}, answer)
    await play.start(run_id, {"text": TEXT, "number": 7})
    await play.run_to_end()
    assert await play.status(run_id) == "COMPLETED"
    return [fields for _, fields in await redis.xrange(play.keys.events)]


def events_of(model: Sequence[Fields], model_id: str) -> Iterator[dict[Any, Any]]:
    """The same entries for RUNS runs, wave by wave."""
    old = model_id.encode()
    for first in range(0, RUNS, WAVE):
        for fields in model:
            for number in range(first, min(first + WAVE, RUNS)):
                new = f"run_{number:0{len(model_id) - 4}d}".encode()
                yield {name: value.replace(old, new) for name, value in fields.items()}


async def fill(redis: Redis, model: Sequence[Fields], model_id: str) -> list[bytes]:
    """Put all events on the stream; their rows as COPY takes them."""
    await redis.flushdb()
    rest, rows = events_of(model, model_id), []
    while part := list(islice(rest, 1_000)):
        pipe = redis.pipeline(transaction=False)
        for fields in part:
            pipe.xadd(Keys().events, fields)
            rows.append(read_entry(fields).line())
        await pipe.execute()
    return rows


async def record(redis: Redis, url: str, events: int) -> tuple[float, float]:
    """Seconds of wall and CPU until a recorder in this process has recorded all."""
    stop = asyncio.Event()
    recorder = Recorder(redis, Keys(), lambda: psycopg.AsyncConnection.connect(url, autocommit=True))
    settle_memory()  # as the service does
    wall, cpu = time.perf_counter(), time.process_time()
    task = asyncio.create_task(recorder.run(stop))
    while recorder.recorded < events and not task.done():  # noqa: ASYNC110 - a counter tells nobody
        await asyncio.sleep(0.005)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    stop.set()
    await task
    return taken


def copy(url: str, rows: Sequence[bytes]) -> float:
    """Seconds for a bare COPY of the rows into such a table, a transaction for each page."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bare (LIKE execution_events INCLUDING ALL) PARTITION BY RANGE (at)")
        connection.execute("CREATE TABLE bare_default PARTITION OF bare DEFAULT")
        connection.commit()
        begin = time.perf_counter()
        for first in range(0, len(rows), PAGE_COUNT):
            with connection.cursor() as cursor, cursor.copy(f"COPY bare ({COLUMNS}) FROM STDIN") as writer:
                writer.write(b"".join(rows[first : first + PAGE_COUNT]))
            connection.commit()
        taken = time.perf_counter() - begin
        connection.execute("DROP TABLE bare")
    return taken


async def _round(redis: Redis, url: str, model: Sequence[Fields], model_id: str) -> Round:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        await migrate(connection)
    rows = await fill(redis, model, model_id)
    wall_s, cpu_s = await record(redis, url, len(rows))
    return Round(len(rows), wall_s, cpu_s, await asyncio.to_thread(copy, url, rows))


async def _rounds(redis_url: str, database_url: str) -> list[Round]:
    redis, model_id = connect_redis(redis_url), "run_0000"
    await redis.flushdb()
    model = await played(redis, model_id)
    rounds = [await _round(redis, database_url, model, model_id) for _ in range(ROUNDS)]
    await redis.aclose()
    return rounds


def measure() -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(prefix="pavane-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})  # one core; the servers have begun, and keep all
        try:
            rounds = asyncio.run(_rounds(valkey.url, postgres.url))
        finally:
            os.sched_setaffinity(0, cores)
    events = rounds[0].events
    rate = statistics.median(one.events / one.wall_s for one in rounds)
    bare = statistics.median(one.events / one.copy_s for one in rounds)
    cpu = statistics.median(one.cpu_s / one.events for one in rounds)
    return [
        Figure(
            f"events recorded per second ({events:,} events of {RUNS:,} runs), median of {ROUNDS}",
            f"{rate:,.0f}/s",
            f"bare COPY {bare:,.0f}/s",
            rate / bare,
            "at least 20,000/s and 0.40",
        ),
        Figure("CPU of the recorder per event", f"{cpu * 1e6:.1f} us", "", None, "under 50 us"),
    ]
