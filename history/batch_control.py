"""Batch control: a batch is paused, resumed, retried, cancelled; who asked is kept. Its live runs are the caller's."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.batch_counts import end_batches

Action = Literal["pause", "resume", "retry", "cancel"]

_CHANGES: dict[Action, str] = {
    "pause": "status = 'PAUSED' WHERE status IN ('RUNNING', 'PAUSED') AND ended_at IS NULL",
    "resume": "status = 'RUNNING' WHERE status IN ('RUNNING', 'PAUSED') AND ended_at IS NULL",
    "retry": "status = status WHERE status IN ('RUNNING', 'COMPLETED')",
    "cancel": "status = 'CANCELLED' WHERE ended_at IS NULL",
}


class BatchBusy(Exception):
    """Another action on the batch is under way."""


class BatchControl:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def alone(self, batch_id: str) -> AsyncIterator[None]:
        """No other action on the batch happens while the block lasts. Raises BatchBusy if one does already."""
        async with self._pool.connection() as connection, connection.transaction():
            cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_lock("action on", batch_id),))
            row = await cursor.fetchone()
            if not row or not row[0]:
                raise BatchBusy(batch_id)
            yield

    async def act(self, batch_id: str, action: Action, by: str, reason: str | None = None) -> bool:
        """Change the batch and keep who asked; False if it is unknown, or not in a state for this.

        After `pause` no item is admitted any more, also not by a claim that was going on; `cancel` withdraws what is
        not admitted.
        """
        async with self._pool.connection() as connection, connection.transaction():
            if action == "cancel":
                await _withdraw(connection, batch_id)
            cursor = await connection.execute(
                f"UPDATE batches SET {_CHANGES[action]} AND batch_id = %s RETURNING 1", (batch_id,)
            )
            if not await cursor.fetchone():
                return False
            await keep_action(connection, batch_id, action, by, reason)
            await end_batches(connection, [batch_id])
        if action == "pause":
            await self.await_claims(batch_id)
        return True

    async def await_claims(self, batch_id: str) -> None:
        """Let the claims that are going on come to their end: later ones see what is committed now."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (claims_lock(batch_id),))

    async def live_runs(self, batch_id: str) -> list[str]:
        """Runs of the batch that have not ended, as far as is recorded: those that were admitted, and those of a claim
        that died, whose items wait to be admitted again."""
        return await self._run_ids(
            "SELECT run_id FROM batch_items WHERE batch_id = %(batch)s AND state = 'admitted' UNION "
            "SELECT run_id FROM run_projection WHERE batch_id = %(batch)s AND ended_at IS NULL ORDER BY run_id",
            batch_id,
        )

    async def failed_runs(self, batch_id: str) -> list[str]:
        return await self._run_ids(
            "SELECT run_id FROM run_projection WHERE batch_id = %(batch)s AND status = 'FAILED' AND parent IS NULL "
            "ORDER BY created_at, run_id",
            batch_id,
        )

    async def _run_ids(self, query: str, batch_id: str) -> list[str]:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(query, {"batch": batch_id})
            return [run_id for (run_id,) in await cursor.fetchall()]

    async def actions(self, batch_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """{action, by, reason, at} of what was asked, the newest first. Times are ms."""
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT action, by, reason, (extract(epoch FROM at) * 1000)::bigint AS at FROM batch_actions "
                "WHERE batch_id = %s ORDER BY batch_actions.at DESC LIMIT %s",
                (batch_id, limit),
            )
            return list(await cursor.fetchall())


async def keep_action(
    connection: AsyncConnection[Any], batch_id: str, action: str, by: str, reason: str | None
) -> None:
    await connection.execute(
        "INSERT INTO batch_actions (batch_id, action, by, reason) VALUES (%s, %s, %s, %s)",
        (batch_id, action, by, reason),
    )


async def _withdraw(connection: AsyncConnection[Any], batch_id: str) -> None:
    # Items before their batch, the order in which the recorder takes them too.
    await connection.execute(
        "WITH gone AS (UPDATE batch_items SET state = 'withdrawn' "
        "WHERE batch_id = %(batch)s AND state = 'pending' RETURNING 1) "
        "UPDATE batches SET withdrawn = withdrawn + (SELECT count(*) FROM gone) WHERE batch_id = %(batch)s",
        {"batch": batch_id},
    )


def claims_lock(batch_id: str) -> int:
    """Advisory lock of a batch: shared by those who claim its items, taken alone by whoever pauses or patches it."""
    return _lock("claims of", batch_id)


def _lock(what: str, batch_id: str) -> int:
    digest = hashlib.blake2b(f"pavane {what} {batch_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)
