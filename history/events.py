"""Events: what is recorded of runs, and their state at any event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from schemas.events import Event
from schemas.fold import RunState, fold

# Two processes' clocks differ by little; the margin lets Postgres leave out the partitions of earlier months.
_SELECT = """
    SELECT run_id, seq, type, (extract(epoch FROM at) * 1000)::bigint, node_id, token_id, scope, data::text
    FROM execution_events
"""
_SINCE = "at >= (SELECT created_at FROM run_projection WHERE run_id = %s) - interval '1 hour'"
REVISING = ("run_started", "run_patched")
"""Types of the events that make a revision."""


class Events:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def after(self, run_id: str, seq: int = 0, limit: int = 1_000) -> list[Event]:
        """Recorded events of a run with a number above `seq`, in order; [] for a run that is not known."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                f"{_SELECT} WHERE run_id = %s AND seq > %s AND {_SINCE} ORDER BY seq LIMIT %s",
                (run_id, seq, run_id, limit),
            )
            return [_event(row) for row in await cursor.fetchall()]

    async def revisions(self, run_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        """The run's recorded events that made a revision above `after`, in order."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                f"{_SELECT} WHERE run_id = %s AND type IN ('run_started', 'run_patched') AND {_SINCE} "
                "AND (data->>'revision')::integer > %s ORDER BY seq LIMIT %s",
                (run_id, run_id, after, limit),
            )
            return [_event(row) for row in await cursor.fetchall()]

    async def state(self, run_id: str, at_seq: int | None = None) -> RunState | None:
        """The run's recorded state after event `at_seq`, by default the last; None if it is not known."""
        state: RunState | None = None
        while True:
            reached = state.seq if state else 0
            events = await self.after(run_id, reached)
            wanted = [event for event in events if at_seq is None or event.seq <= at_seq]
            if not wanted:
                return state
            state = fold(wanted, state)


async def read_runs(connection: AsyncConnection[Any], run_ids: Sequence[str]) -> dict[str, list[Event]]:
    """All recorded events of the runs, in order."""
    cursor = await connection.execute(
        f"{_SELECT} WHERE run_id = ANY(%s) AND at >= "
        "(SELECT min(created_at) FROM run_projection WHERE run_id = ANY(%s)) - interval '1 hour' "
        "ORDER BY run_id, seq",
        (list(run_ids), list(run_ids)),
    )
    histories: dict[str, list[Event]] = {}
    for row in await cursor.fetchall():
        histories.setdefault(row[0], []).append(_event(row))
    return histories


def _event(row: tuple[Any, ...]) -> Event:
    run_id, seq, kind, at, node_id, token_id, scope, data = row
    return Event(run_id, seq, kind, at, node_id, token_id, scope, orjson.loads(data))
