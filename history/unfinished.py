"""Unfinished: runs that have not ended as far as is recorded, and what a rebuild of them needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore
from history.artifacts import Artifacts
from history.entry import timestamp
from history.events import read_entries
from history.snapshots import read_snapshots
from schemas.fold import BrokenHistory, fold
from schemas.run_state import RunState


class Recorded(NamedTuple):
    """A run as it is recorded. `seq` is that of its last event."""

    run_id: str
    seq: int
    ended: bool
    broken: bool  # events of it are missing in Postgres
    diverged: bool  # Redis tells it differently


class Untold(NamedTuple):
    """A run whose state can not be told, and why."""

    run_id: str
    reason: str


_COLUMNS = "run_id, seq, ended_at IS NOT NULL, broken_at IS NOT NULL, diverged"


class Unfinished:
    def __init__(self, pool: AsyncConnectionPool[Any], artifacts: ArtifactStore | None = None) -> None:
        self._pool = pool
        self.artifacts = Artifacts(pool, artifacts)

    async def page(self, after: str, limit: int) -> list[Recorded]:
        """The unfinished runs with ids after `after`, by id."""
        return await self._rows("ended_at IS NULL AND run_id > %s ORDER BY run_id LIMIT %s", (after, limit))

    async def oldest(self, limit: int) -> list[str]:
        """Ids of the oldest runs that run, and of the oldest that are paused, as far as is recorded."""
        one = "(SELECT run_id FROM run_projection WHERE status = %s ORDER BY created_at, run_id LIMIT %s)"
        async with self._pool.connection() as connection:
            cursor = await connection.execute(f"{one} UNION ALL {one}", ("RUNNING", limit, "PAUSED", limit))
            return [run_id for (run_id,) in await cursor.fetchall()]

    async def named(self, run_ids: Sequence[str]) -> list[Recorded]:
        """Those of the runs that are recorded."""
        return await self._rows("run_id = ANY(%s)", (list(run_ids),))

    async def _rows(self, where: str, parameters: tuple[Any, ...]) -> list[Recorded]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(f"SELECT {_COLUMNS} FROM run_projection WHERE {where}", parameters)
            return [Recorded(*row) for row in await cursor.fetchall()]

    async def states(self, runs: Sequence[Recorded]) -> list[RunState | Untold]:
        """The runs' last recorded states, in their order."""
        seqs = {run.run_id: run.seq for run in runs}
        async with self._pool.connection() as connection:
            snapshots = await read_snapshots(connection, seqs)
            after = {run_id: snapshots[run_id].state.seq if run_id in snapshots else 0 for run_id in seqs}
            entries = await read_entries(connection, after)
        found: list[RunState | Untold] = []
        for run in runs:
            before = snapshots[run.run_id].state if run.run_id in snapshots else None
            events = [entry.event() for entry in entries.get(run.run_id, ())]
            found.append(_folded(run, before, events))
        return found

    async def packed(self, names: Sequence[str]) -> Mapping[str, bytes]:
        """The artifacts of these names that there are."""
        return await self.artifacts.get_many(names)

    async def position(self) -> str:
        """How far the recorders have come."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT string_agg(position, ' ' ORDER BY shard) FROM recorder_positions")
            row = await cursor.fetchone()
            return str(row[0]) if row else ""

    @asynccontextmanager
    async def alone(self, shard: str) -> AsyncIterator[bool]:
        """Whether nobody else restores this shard's runs while the block lasts."""
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", (f"pavane recovery {shard}",)
            )
            row = await cursor.fetchone()
            yield bool(row and row[0])

    # -- batches -----------------------------------------------------------------------------------
    async def untold_items(self) -> list[str]:
        """Run ids of items that were admitted, of whose runs nothing is recorded."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT run_id FROM batch_items AS item JOIN batches AS batch USING (batch_id) "
                "WHERE batch.ended_at IS NULL AND item.state = 'admitted' "
                "AND NOT EXISTS (SELECT FROM run_projection AS run WHERE run.run_id = item.run_id)"
            )
            return [run_id for (run_id,) in await cursor.fetchall()]

    async def admit_again(self, run_ids: Sequence[str]) -> None:
        """Let the items of these runs wait to be admitted once more."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE batch_items SET state = 'pending' WHERE run_id = ANY(%s) AND state = 'admitted'",
                (list(run_ids),),
            )

    async def open_batches(self) -> dict[str, int]:
        """By batch that has not ended, how many of its items are recorded as over."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT batch_id, done + failed FROM batches WHERE ended_at IS NULL")
            return dict(await cursor.fetchall())

    async def runs_of(self, batch_id: str) -> list[str]:
        """The runs of a batch that were admitted."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT run_id FROM batch_items WHERE batch_id = %s AND state IN ('admitted', 'done', 'failed')",
                (batch_id,),
            )
            return [run_id for (run_id,) in await cursor.fetchall()]

    async def batch_counts(self, batch_id: str, before: int, without: Sequence[str]) -> dict[str, int]:
        """What a batch's hash in Redis counts of what was over before a time (ms): done, failed, `<node>|done` and
        `<node>|failed`; but for the runs `without`."""
        parameters = {"batch": batch_id, "before": timestamp(before), "without": list(without)}
        async with self._pool.connection() as connection:
            cursor = await connection.execute(f"{_RUN_COUNTS} UNION ALL {_NODE_COUNTS}", parameters)
            return {name: number for name, number in await cursor.fetchall() if number}


_OF_BATCH = "run.batch_id = %(batch)s AND run.parent IS NULL AND run.run_id <> ALL(%(without)s::text[])"
_RUN_COUNTS = f"""
    SELECT CASE WHEN run.status = 'COMPLETED' THEN 'done' ELSE 'failed' END, count(*)::integer
    FROM run_projection AS run WHERE {_OF_BATCH} AND run.ended_at < %(before)s::timestamptz GROUP BY 1
"""
# A step that failed counts so for its own node, and as done for those that it passed.
_NODE_COUNTS = f"""
    SELECT node.name || CASE
            WHEN event.type = 'node_failed' AND node.name = event.node_id THEN '|failed' ELSE '|done' END,
        count(*)::integer
    FROM run_projection AS run JOIN execution_events AS event USING (run_id)
        CROSS JOIN LATERAL (
            SELECT json_object_keys(coalesce(event.data -> 'outputs', '{{}}')) AS name
            UNION SELECT json_object_keys(coalesce(event.data -> 'stored', '{{}}'))
            UNION SELECT event.node_id WHERE event.type = 'node_failed'
        ) AS node
    WHERE {_OF_BATCH} AND event.at < %(before)s::timestamptz AND event.type IN ('node_completed', 'node_failed')
    GROUP BY 1
"""


def _folded(run: Recorded, before: RunState | None, events: Sequence[Any]) -> RunState | Untold:
    if run.broken:
        return Untold(run.run_id, "events of it are missing in Postgres")
    try:
        state = fold(events, before)
    except (BrokenHistory, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return Untold(run.run_id, f"{type(error).__name__}: {error}")
    if state.seq != run.seq:
        return Untold(run.run_id, f"its recorded events end at {state.seq}, and {run.seq} were recorded")
    return state
