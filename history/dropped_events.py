"""Dropped events: of which runs there are none any more, since when, and what those runs came to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from schemas.run_state import Reference, RunState, Usage, stored_value


class Dropped(NamedTuple):
    """A run's events up to `seq` were dropped."""

    seq: int
    at: int  # ms
    file: str | None  # the name of their export


class EventsDropped(Exception):
    """What is asked of a run stands in events that were dropped."""

    def __init__(self, run_id: str, dropped: Dropped) -> None:
        day = datetime.fromtimestamp(dropped.at / 1_000, UTC).date()
        where = f"exported to {dropped.file} first" if dropped.file else "and not exported"
        super().__init__(
            f"The events of {run_id} up to {dropped.seq} were dropped on {day} by the retention, {where}; "
            "what the run came to is kept."
        )
        self.dropped = dropped


class DroppedEvents:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def of(self, run_id: str) -> Dropped | None:
        """What was dropped of a run; None if its first event is recorded, or if it is not known."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_DROPPED, (run_id,))
            row = await cursor.fetchone()
        return Dropped(*row) if row else None

    async def state(self, run_id: str) -> RunState | None:
        """The last state of a run, as far as its projection holds it: without tokens, passes and the items of maps.
        None if there is none."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(_STATE, (run_id,))
            row = await cursor.fetchone()
        return _state(row) if row else None


# A run is dropped whole, so the first drop whose span its life overlaps took its events.
_DROPPED = """
    SELECT coalesce((SELECT min(e.seq) - 1 FROM execution_events AS e WHERE e.run_id = run.run_id), run.seq),
        (extract(epoch FROM gone.dropped_at) * 1000)::bigint, gone.file
    FROM run_projection AS run JOIN dropped_events AS gone
        ON gone.since <= coalesce(run.ended_at, run.created_at) AND gone.until > run.created_at
    WHERE run.run_id = %s AND gone.source <> 'diverged_events'
        AND NOT EXISTS (SELECT FROM execution_events AS e WHERE e.run_id = run.run_id AND e.seq = 1)
    ORDER BY gone.dropped_at LIMIT 1
"""
_STATE = """
    SELECT run_id, workflow_id, version, status, revision, digest, batch_id, key, labels::text, priority, seq, input,
        outputs::text, stored::text, ends, error::text, usage::text,
        (extract(epoch FROM created_at) * 1000)::bigint AS created_at,
        (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at
    FROM run_projection WHERE run_id = %s
"""


def _state(row: dict[str, Any]) -> RunState:
    outputs, stored, error, usage, labels = (
        None if row.pop(name) is None else orjson.loads(text)
        for name, text in [(name, row[name]) for name in ("outputs", "stored", "error", "usage", "labels")]
    )
    values = (outputs or {}) | {node: Reference(text) for node, text in (stored or {}).items()}
    text, ends = row.pop("input"), row.pop("ends")
    return RunState(
        **row,
        input=stored_value(text),
        outputs={"": values} if values else {},
        ends={"": set(ends)} if ends is not None else {},
        error=error,
        usage=Usage(**usage) if usage else Usage(),
        labels=labels or {},
    )
