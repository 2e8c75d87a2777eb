"""Submission: 2,000 items to POST /batches, against a bare COPY of the same rows."""

from __future__ import annotations

import time

import httpx
import orjson
import psycopg

from benchmarks.figure import Figure
from benchmarks.stand import Stand, stand

ITEMS = 2_000


def _bare_copy(at: Stand, rows: list[str]) -> float:
    with psycopg.connect(at.database_url) as connection:
        connection.execute("CREATE TEMP TABLE bench_items (position integer, input text)")
        begin = time.perf_counter()
        with connection.cursor().copy("COPY bench_items FROM STDIN") as copy:
            for row in enumerate(rows):
                copy.write_row(row)
        connection.commit()
        return time.perf_counter() - begin


def measure() -> list[Figure]:
    items = [{"n": n, "text": "x" * 1_000} for n in range(ITEMS)]
    node = {"id": "a", "type": "function", "config": {"handler": "noop"}}
    body = {"workflow": {"id": "bench-batch", "nodes": [node]}, "items": items, "key": "string(item.n)"}
    with stand(api=True) as at, httpx.Client(base_url=at.api_url, timeout=60) as client:
        begin = time.perf_counter()
        answer = client.post("/batches", content=orjson.dumps(body), headers={"content-type": "application/json"})
        took = time.perf_counter() - begin
        answer.raise_for_status()
        bare = _bare_copy(at, [orjson.dumps(item).decode() for item in items])
    return [
        Figure(
            f"submit a batch of {ITEMS:,} items of 1 KB", f"{took:.2f} s", f"bare COPY {bare:.3f} s", took / bare,
            "under 2 s",
        )
    ]  # fmt: skip
