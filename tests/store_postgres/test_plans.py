"""The reads that matter use the indexes that docs/history.md names for them, by EXPLAIN on tables of some size."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from history.history import History
from tests.docs.pages import page, rows

RUNS = 5_000
DOCUMENTED = {
    name: set(re.findall(r"`(\w+)`", cells[-1]))
    for name, cells in rows(page("history").split("## Indexes")[1].split("\n## ")[0]).items()
    if "." in name
}
READS: dict[str, Callable[[History], Awaitable[Any]]] = {
    "Events.after": lambda history: history.events.after("run_2500", 1),
    "Events.state": lambda history: history.events.state("run_2500", 3),
    "Events.revisions": lambda history: history.events.revisions("run_2500"),
    "Runs.get": lambda history: history.runs.get("run_2500"),
    "Runs.list()": lambda history: history.runs.list(),
    "Runs.list(status)": lambda history: history.runs.list(status="FAILED"),
    "Runs.list(workflow_id)": lambda history: history.runs.list(workflow_id="rare"),
    "Runs.list(batch_id)": lambda history: history.runs.list(batch_id="batch_3"),
    "Runs.list(labels)": lambda history: history.runs.list(labels={"number": "7"}),
    "Runs.list(parent)": lambda history: history.runs.list(parent="run_0"),
    "DroppedEvents.of": lambda history: history.dropped_events.of("run_2500"),
}

_FILL = f"""
    SELECT create_event_partitions('2025-10-05', 2);
    INSERT INTO run_projection (run_id, workflow_id, status, revision, digest, batch_id, labels, priority, seq, input,
        created_at, ended_at, parent)
    SELECT 'run_' || n, CASE WHEN n % 50 = 0 THEN 'rare' ELSE 'demo' END,
        CASE WHEN n % 100 = 0 THEN 'FAILED' ELSE 'COMPLETED' END, 1, 'sha256-x', 'batch_' || n % 100,
        jsonb_build_object('number', (n % 1000)::text), 'normal', 8, '1', at, at + interval '1 minute',
        CASE WHEN n % 40 = 1 THEN 'run_' || n / 1000 END
    FROM generate_series(0, {RUNS - 1}) AS n,
        LATERAL (SELECT '2025-10-01'::timestamptz + n * interval '20 min' AS at) AS started;
    INSERT INTO execution_events SELECT run_id, number,
        (ARRAY['run_started', 'task_started', 'node_completed', 'task_started', 'node_completed'])[least(number, 5)],
        created_at + number * interval '1 s', 'a', '', '',
        json_build_object('revision', 1, 'workflow_id', 'demo', 'digest', 'sha256-x', 'outputs', '{{}}'::json)
    FROM run_projection, generate_series(1, 8) AS number;
    INSERT INTO run_snapshots SELECT run_id, 8, created_at, 1, '' FROM run_projection;
    INSERT INTO dropped_events (source, since, until, events, runs) VALUES ('x', '2024-01-01', '2024-02-01', 1, 1);
    ANALYZE execution_events, run_projection, run_snapshots, dropped_events;
"""
_INDEXES = """
    SELECT child.relname, parent.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    JOIN pg_class AS parent ON parent.oid = inhparent WHERE child.relkind = 'i'
"""


@pytest.fixture
async def plan_of(history: History, database_url: str) -> AsyncIterator[Callable[[Any], Awaitable[str]]]:
    """`await plan_of(read)`: the plans of all the statements that it makes, by the names of the partitioned indexes."""
    seen: list[tuple[Any, Any]] = []

    class Watched(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            seen.append((query, params))
            return await super().execute(query, params, **more)

    connection = await psycopg.AsyncConnection.connect(database_url, autocommit=True)
    options = {"cursor_factory": Watched}
    async with connection, AsyncConnectionPool(database_url, min_size=1, open=False, kwargs=options) as pool:
        await connection.execute(_FILL)
        partitioned = dict(await (await connection.execute(_INDEXES)).fetchall())

        async def plan_of(read: Callable[[History], Awaitable[Any]]) -> str:
            seen.clear()
            await read(History(pool))
            text = ""
            for query, params in list(seen):
                cursor = await connection.execute(b"EXPLAIN (COSTS OFF) " + query.encode(), params)
                text += "\n".join(line for (line,) in await cursor.fetchall()) + "\n\n"
            return re.sub(r"\w+", lambda word: partitioned.get(word[0], word[0]), text)

        yield plan_of


async def test_reads_use_the_indexes_that_are_documented(plan_of: Callable[[Any], Awaitable[str]]) -> None:
    assert DOCUMENTED.keys() == READS.keys()
    for name, read in READS.items():
        plan = await plan_of(read)
        used = set(re.findall(r"(?:using|Bitmap Index Scan on) (\w+)", plan))
        assert used == DOCUMENTED[name], f"{name}\n{plan}"
        assert not re.search(r"Seq Scan on (execution_events_2|run_projection|run_snapshots)", plan), f"{name}\n{plan}"
