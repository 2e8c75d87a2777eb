"""Audit states: the states after of batches that have ended, which their audit queries have yet to give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.audit_query import TIMEOUT_S, AuditQuery, State, difference

LEASE_S = 2 * TIMEOUT_S
"""Nobody else asks in this time. Who asks may die."""
LONGEST_WAIT_S = 300.0
GIVE_UP_S = 86_400.0
"""After a batch's end: a database that was away for a night is survived."""


@dataclass(frozen=True, slots=True)
class DueState:
    """A batch whose audit query is to be asked now, for the `tries`th time."""

    batch_id: str
    audit: AuditQuery
    before: State
    ended_at: datetime
    waited_s: float
    tries: int


def next_try_s(tries: int, waited_s: float) -> float | None:
    """Seconds until the query is asked again, after so many tries that failed; None: it is given up."""
    wait_s = min(2.0 ** min(tries, 10), LONGEST_WAIT_S)
    return wait_s if waited_s + wait_s < GIVE_UP_S else None


class AuditStates:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def take(self) -> DueState | None:
        """The next that is due; for LEASE_S nobody else is given it."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(_TAKE, (LEASE_S,))
            row = await cursor.fetchone()
        if row is None:
            return None
        audit, before = orjson.loads(row["audit"]), orjson.loads(row["state_before"])
        return DueState(
            row["batch_id"], AuditQuery(audit["connection"], audit["query"]), before.get("audit") or {},
            row["ended_at"], row["waited_s"], row["audit_tries"],
        )  # fmt: skip

    async def keep(self, due: DueState, after: State) -> bool:
        """The query gave this; False if the batch went on meanwhile, so that it is of no use."""
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute(
                f"SELECT state_after::text, delta::text FROM batches WHERE {_STILL} FOR UPDATE",
                (due.batch_id, due.ended_at),
            )
            row = await cursor.fetchone()
            if row is None:
                return False
            states = [
                orjson.dumps(orjson.loads(text) | {"audit": found}).decode()
                for text, found in zip(row, (after, difference(due.before, after)), strict=True)
            ]
            await connection.execute(
                "UPDATE batches SET state_after = %s, delta = %s, audit_due = NULL, audit_error = NULL "
                "WHERE batch_id = %s",
                (*states, due.batch_id),
            )
        return True

    async def fail(self, due: DueState, error: str, again_s: float | None) -> None:
        """It gave nothing; it is asked again after so many seconds, or never."""
        async with self._pool.connection() as connection:
            await connection.execute(
                "UPDATE batches SET audit_error = %s, "
                f"audit_due = clock_timestamp() + make_interval(secs => %s::float8) WHERE {_STILL}",
                (error, again_s, due.batch_id, due.ended_at),
            )


_STILL = "batch_id = %s AND ended_at = %s AND audit_due IS NOT NULL"
_TAKE = """
    UPDATE batches SET audit_tries = audit_tries + 1, audit_due = clock_timestamp() + make_interval(secs => %s)
    WHERE batch_id = (
        SELECT batch_id FROM batches WHERE audit_due <= clock_timestamp()
        ORDER BY audit_due LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING batch_id, audit::text, state_before::text, ended_at, audit_tries,
        extract(epoch FROM clock_timestamp() - ended_at)::float8 AS waited_s
"""
