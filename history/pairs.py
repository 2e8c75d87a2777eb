"""Pairs: the items of two batches side by side, and those of one batch by whether they had its newest patch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal
from uuid import uuid4

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from schemas.batch_comparison import ItemSide, Pair
from schemas.run_state import Reference, output_of

CHUNK = 100
"""Pairs whose values are in memory together."""

By = Literal["key", "position", "patch"]


class Pairs:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def matched_by(self, a: str, b: str) -> By:
        """By their keys if both batches have any; else by their positions, where the inputs are equal."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT EXISTS (SELECT FROM batch_items WHERE batch_id = %s AND key IS NOT NULL) "
                "AND EXISTS (SELECT FROM batch_items WHERE batch_id = %s AND key IS NOT NULL)",
                (a, b),
            )
            row = await cursor.fetchone()
        return "key" if row and row[0] else "position"

    async def of(self, a: str, b: str, by: By) -> AsyncIterator[list[Pair]]:
        """The items of batches `a` and `b`, some at a time, streamed; large outputs are `Reference`s.

        By `patch` both are one batch: `a` has the items without its newest patch, `b` those with it, so that nothing is
        matched; items that were not started are in neither.
        """
        query, parameters = _QUERIES[by], {"a": a, "b": b}
        async with (
            self._pool.connection() as connection,
            connection.transaction(),
            connection.cursor(f"pairs_{uuid4().hex}", row_factory=dict_row) as rows,
        ):
            await rows.execute(query, parameters)
            while chunk := await rows.fetchmany(CHUNK):
                runs = await _runs(connection, [row[name] for row in chunk for name in ("run_a", "run_b")])
                yield [_pair(row, runs) for row in chunk]

    async def executions(self, run_ids: Sequence[str]) -> dict[str, int]:
        """How often each node was executed in these runs together; those that were decided in passing are left out."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_EXECUTIONS, (list(run_ids), list(run_ids)))
            return dict(await cursor.fetchall())


# The time lets Postgres leave out the partitions of earlier months.
_EXECUTIONS = """
    SELECT node_id, count(*) FROM execution_events
    WHERE run_id = ANY(%s) AND type IN ('node_completed', 'node_failed') AND at >=
        (SELECT min(created_at) FROM run_projection WHERE run_id = ANY(%s)) - interval '1 hour'
    GROUP BY node_id
"""

# One that stands twice in a forced batch is matched with its like.
_ITEMS = """
    SELECT position, key, run_id, state, input, row_number() OVER (PARTITION BY key ORDER BY position) AS nth
    FROM batch_items WHERE batch_id = %({side})s
"""
_SELECT = f"""
    SELECT coalesce(a.key, b.key, coalesce(a.position, b.position)::text) AS key,
        a.run_id AS run_a, a.state AS state_a, b.run_id AS run_b, b.state AS state_b
    FROM ({_ITEMS.format(side="a")}) AS a FULL JOIN ({_ITEMS.format(side="b")}) AS b ON
"""
_ORDER = "ORDER BY least(a.position, b.position), coalesce(a.key, b.key)"
# What began with the patch has its IR; what was patched, or is kept so, may have another by now.
_BY_PATCH = """
    WITH patch AS (SELECT number, after FROM batch_patches WHERE batch_id = %(a)s ORDER BY number DESC LIMIT 1),
    items AS (
        SELECT item.position, coalesce(item.key, item.position::text) AS key, item.run_id, item.state,
            coalesce(run.digest = patch.after OR asked.outcome IN ('patched', 'kept'), false) AS patched
        FROM batch_items AS item CROSS JOIN patch JOIN run_projection AS run USING (run_id)
        LEFT JOIN batch_patch_runs AS asked ON asked.batch_id = item.batch_id AND asked.number = patch.number
            AND asked.position = item.position
        WHERE item.batch_id = %(a)s
    )
    SELECT key, CASE WHEN patched THEN NULL ELSE run_id END AS run_a, state AS state_a,
        CASE WHEN patched THEN run_id END AS run_b, state AS state_b
    FROM items ORDER BY position
"""
_QUERIES: dict[By, str] = {
    "key": f"{_SELECT} a.key = b.key AND a.nth = b.nth {_ORDER}",
    "position": f"{_SELECT} a.position = b.position AND a.input = b.input {_ORDER}",
    "patch": _BY_PATCH,
}
_STATUS_OF = {"pending": "PENDING", "withdrawn": "CANCELLED"}


async def _runs(connection: AsyncConnection[Any], run_ids: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        "SELECT run_id, status, outputs::text, stored::text, ends, error::text, usage::text, "
        "(extract(epoch FROM ended_at - created_at) * 1000)::bigint AS duration_ms "
        "FROM run_projection WHERE run_id = ANY(%s)",
        ([run_id for run_id in run_ids if run_id],),
    )
    return {row["run_id"]: row for row in await cursor.fetchall()}


def _pair(row: Mapping[str, Any], runs: Mapping[str, Mapping[str, Any]]) -> Pair:
    a, b = (_side(row[f"run_{name}"], row[f"state_{name}"], runs) for name in ("a", "b"))
    return Pair(row["key"], a, b)


def _side(run_id: str | None, state: str | None, runs: Mapping[str, Mapping[str, Any]]) -> ItemSide | None:
    if run_id is None:
        return None
    run = runs.get(run_id)
    if run is None:
        return ItemSide(run_id, _STATUS_OF.get(state or "", "RUNNING"))
    output = None
    if run["status"] == "COMPLETED":
        stored = {node: Reference(text) for node, text in (_json(run["stored"]) or {}).items()}
        output = output_of(run["ends"] or (), (_json(run["outputs"]) or {}) | stored)
    return ItemSide(run_id, run["status"], output, _json(run["error"]), run["duration_ms"], _json(run["usage"]) or {})


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
