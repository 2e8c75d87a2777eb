"""What-if: 2,000 recorded runs of 20 steps routed again, on one core, reading from Postgres included; and a sweep."""

from __future__ import annotations

import asyncio
import itertools
import resource
import time
from collections.abc import Iterator
from typing import Any

import orjson
import psycopg
from psycopg_pool import AsyncConnectionPool

from benchmarks.figure import Figure
from benchmarks.stand import stand
from history.history import History
from pavane.whatif.engine import WhatIf
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR

RUNS, STEPS = 2_000, 20
BATCH = "batch_1"
VALUES = list(range(60, 91))


def workflow() -> dict[str, Any]:
    """s1 .. s16 in a row, each reading the one before; a branch that sends what is bad to `improve`; then the end."""
    nodes: list[dict[str, Any]] = [_agent(f"s{number}") for number in range(1, 17)]
    nodes += [
        _agent("grade"),
        {
            "id": "quality", "type": "branch",
            "config": {
                "rules": [{"condition": {"type": "cel", "expression": "output.score >= 80"}, "next": ["publish"]}],
                "default": ["improve"],
            },
        },
        _agent("improve"), _agent("publish"),
    ]  # fmt: skip
    row = [f"s{number}" for number in range(1, 17)] + ["grade", "quality"]
    edges = [{"from": one, "to": other} for one, other in itertools.pairwise(row)]
    return {"id": "bench", "nodes": nodes, "edges": [*edges, {"from": "improve", "to": "publish"}]}


def _agent(name: str) -> dict[str, Any]:
    shape = {"type": "object", "properties": {"score": {"type": "integer"}, "text": {"type": "string"}}}
    prompt = f"Do {name} with {{{{ output }}}} for {{{{ input.n }}}}"
    return {"id": name, "type": "agent", "config": {"model": "small", "prompt": prompt, "response_format": shape}}


def events_of(number: int, ir: IR) -> Iterator[tuple[Any, ...]]:
    """The rows of a run whose grade is 50 to 99: what the recorder writes, task_started too."""
    run_id, score, seq = f"run_{number}", 50 + number % 50, 1
    improved = score < 80
    path = [name for name in ir.nodes if name != "quality" and (improved or name != "improve")]

    def row(kind: str, node: str, token: str, data: dict[str, Any]) -> tuple[Any, ...]:
        return (run_id, seq, kind, "2026-01-01T00:00:00+00:00", node, token, "", orjson.dumps(data).decode())

    def record(place: int, source: str | None, state: str = "queued") -> dict[str, Any]:
        made = {"node": path[place], "attempt": 0, "depth": place, "lane": "", "iteration": 0, "state": state,
                "stream": "wf.tasks.agent.small", "since": 1, "entry": "1-0"}  # fmt: skip
        return made | ({"from": [[source, place - 1, ""]]} if source else {})

    start = {"workflow_id": ir.workflow_id, "revision": 1, "digest": ir.digest, "input": {"n": number}}
    yield row("run_started", "", "", {**start, "tokens": {f"{run_id}.1": record(0, None)}, "live": 1})
    for place, name in enumerate(path):
        token = f"{run_id}.{place + 1}"
        seq += 1
        yield row("task_started", name, token, {"revision": 1, "attempt": 1, "runner": "gpu-1",
                  "tokens": {token: record(place, None, "running")}, "live": 1})  # fmt: skip
        output = {"score": score, "text": "a sentence or two of what a model says " * 5}
        data: dict[str, Any] = {"attempt": 1, "outputs": {name: output}, "gone": [token], "live": 1}
        source = name
        if name == "grade":
            data["outputs"] = {name: output, "quality": output}
            rule: int | str = "default" if improved else 0
            data["decisions"] = [{"node": "quality", "rule": rule, "next": ["improve" if improved else "publish"]}]
            source = "quality"
        if place + 1 < len(path):
            data["tokens"] = {f"{run_id}.{place + 2}": record(place + 1, source)}
        else:
            data["ends"] = [name]
        seq += 1
        yield row("node_completed", name, token, {**data, "usage": {"execution_time_ms": 1_500, "load_ms": 0}})
    seq += 1
    yield row("run_completed", "", "", {})


def fill(database_url: str, runs: int = RUNS) -> None:
    """A batch that has ended, as it lies in Postgres."""
    ir = compile_workflow(workflow()).ir
    at = "2026-01-01T00:00:00+00:00"
    with psycopg.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO irs (digest, ir) VALUES (%s, %s)", (ir.digest, ir.text))
        cursor.execute(
            "INSERT INTO batches (batch_id, workflow_id, digest, status, priority, labels, total, skipped, done, "
            "state_before, expected_work, created_at) VALUES (%s, 'bench', %s, 'COMPLETED', 'normal', '{}', %s, 0, %s, "
            "'{}', '{}', now())",
            (BATCH, ir.digest, runs, runs),
        )
        with cursor.copy("COPY batch_items (batch_id, position, key, run_id, input, state) FROM STDIN") as copy:
            for number in range(runs):
                copy.write_row((BATCH, number, f"k{number}", f"run_{number}", "{}", "done"))
        with cursor.copy(
            "COPY run_projection (run_id, workflow_id, status, revision, digest, batch_id, key, labels, priority, seq, "
            "input, created_at, ended_at) FROM STDIN"
        ) as copy:
            for number in range(runs):
                row = ("bench", "COMPLETED", 1, ir.digest, BATCH, f"k{number}", "{}", "normal", 42, "{}", at, at)
                copy.write_row((f"run_{number}", *row))
        with cursor.copy(
            "COPY execution_events (run_id, seq, type, at, node_id, token_id, scope, data) FROM STDIN"
        ) as copy:
            for number in range(runs):
                for row in events_of(number, ir):
                    copy.write_row(row)
        cursor.execute("ANALYZE")


async def _ask(database_url: str) -> tuple[float, float, dict[str, Any], dict[str, Any]]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=2, open=False) as pool:
        what_if = WhatIf(History(pool))
        path = "/nodes/quality/config/rules/0/condition/expression"
        begin = time.perf_counter()
        one = await what_if.by_operations(BATCH, [{"op": "replace", "path": path, "value": "output.score >= 70"}], 20)
        between = time.perf_counter()
        many = await what_if.by_sweep(BATCH, "nodes.quality.rules.0", VALUES, 0)
        return between - begin, time.perf_counter() - between, one, many


def measure() -> list[Figure]:
    with stand() as at:
        fill(at.database_url)
        took, swept, one, many = asyncio.run(_ask(at.database_url))
        begin = time.perf_counter()
        with psycopg.connect(at.database_url) as connection:
            for (text,) in connection.execute("SELECT data::text FROM execution_events"):
                orjson.loads(text)
        read = time.perf_counter() - begin
    assert one["runs"]["changed"] == RUNS // 5, one["runs"]
    assert many["values"][10]["changed"] == RUNS // 5, many["values"][10]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        Figure(
            f"what-if of {RUNS:,} runs of {STEPS} steps", f"{took:.2f} s, {memory:.0f} MB",
            f"reading their events alone {read:.2f} s", took / read, "under 5 s",
        ),
        Figure(
            f"a sweep of {len(VALUES)} values over them", f"{swept:.2f} s", f"one value {took:.2f} s", swept / took,
            "under 2 times",
        ),
    ]  # fmt: skip
