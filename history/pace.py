"""Pace: how fast a batch's runs end, and when anything last happened in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg_pool import AsyncConnectionPool


@dataclass(frozen=True, slots=True)
class Pace:
    """Of one batch. Times are ms."""

    ended: int  # runs that have ended
    ended_lately: int  # in the window asked for
    elapsed: int  # since the batch was made
    moved: bool  # it was made, or an event of one of its runs happened, within the stall time


class Paces:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def of(self, batch_id: str, *, window_s: int, stall_s: int) -> Pace | None:
        """None if there is no such batch."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(_PACE, {"batch": batch_id, "window": window_s, "stall": stall_s})
            row = await cursor.fetchone()
        return Pace(*row) if row else None


_PACE = """
    SELECT
        (SELECT count(*) FROM run_projection WHERE batch_id = %(batch)s AND ended_at IS NOT NULL),
        (SELECT count(*) FROM run_projection WHERE batch_id = %(batch)s
            AND ended_at > now() - make_interval(secs => %(window)s)),
        (extract(epoch FROM now() - created_at) * 1000)::bigint,
        created_at > now() - make_interval(secs => %(stall)s)
        OR EXISTS (SELECT FROM run_projection WHERE batch_id = %(batch)s
            AND greatest(created_at, ended_at) > now() - make_interval(secs => %(stall)s))
        OR EXISTS (SELECT FROM run_projection AS run JOIN execution_events AS event USING (run_id)
            WHERE run.batch_id = %(batch)s AND run.ended_at IS NULL
            AND event.at > now() - make_interval(secs => %(stall)s))
    FROM batches WHERE batch_id = %(batch)s
"""
