"""Batch control: a batch is paused, resumed, retried, cancelled. Who asked is kept, with the state before and after it
and what came of it. Its live runs are the caller's."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.batch_counts import STILL_PAUSED_MS, end_batches

Action = Literal["pause", "resume", "retry", "cancel"]

_CHANGES: dict[Action, str] = {
    "pause": "status = 'PAUSED', paused_at = coalesce(paused_at, clock_timestamp()) "
    "WHERE status IN ('RUNNING', 'PAUSED') AND ended_at IS NULL",
    "resume": f"status = 'RUNNING', paused_ms = paused_ms + {STILL_PAUSED_MS}, paused_at = NULL "
    "WHERE status IN ('RUNNING', 'PAUSED') AND ended_at IS NULL",
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

    async def act(self, batch_id: str, action: Action, by: str, reason: str | None = None) -> int | None:
        """Change the batch and keep who asked; the action's number, for `finish`. None if the batch is unknown, or not
        in a state for this.

        After `pause` no item is admitted any more, also not by a claim that was going on; `cancel` withdraws what is
        not admitted.
        """
        async with self._pool.connection() as connection, connection.transaction():
            before = await read_counts(connection, batch_id)
            withdrawn = await _withdraw(connection, batch_id) if action == "cancel" else 0
            cursor = await connection.execute(
                f"UPDATE batches SET {_CHANGES[action]} AND batch_id = %s RETURNING 1", (batch_id,)
            )
            if not await cursor.fetchone():
                return None
            number = await keep_action(connection, batch_id, action, by, reason, before)
            if withdrawn:
                await _count_action(connection, number, {"withdrawn": withdrawn}, withdrawn)
            await end_batches(connection, [batch_id])
        if action == "pause":
            await self.await_claims(batch_id)
        return number

    async def finish(self, number: int, counts: Mapping[str, int], touched: int) -> None:
        """The action is over. `counts`: its runs by what came of them, {outcome: how many}; `touched`: how many of them
        it changed, beside the items that it withdrew."""
        async with self._pool.connection() as connection, connection.transaction():
            await _count_action(connection, number, counts, touched)
            await finish_action(connection, number)

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
    connection: AsyncConnection[Any],
    batch_id: str,
    action: str,
    by: str,
    reason: str | None,
    before: Mapping[str, Any] | None = None,
) -> int:
    """Keep who asked, with the state before (as it is now, unless it is given); the action's number."""
    if before is None:
        before = await read_counts(connection, batch_id)
    cursor = await connection.execute(
        "INSERT INTO batch_actions (batch_id, action, by, reason, state_before) VALUES (%s, %s, %s, %s, %s) "
        "RETURNING number",
        (batch_id, action, by, reason, _text(before)),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def finish_patch_action(connection: AsyncConnection[Any], batch_id: str, patch: int) -> None:
    """The newest patch, promotion or reversal of the batch is over, if it was not before; `patch` is the number of the
    batch patch, whose runs are counted."""
    cursor = await connection.execute(
        "SELECT number FROM batch_actions WHERE batch_id = %s AND action IN ('patch', 'promote', 'revert') "
        "AND done_at IS NULL ORDER BY number DESC LIMIT 1",
        (batch_id,),
    )
    row = await cursor.fetchone()
    if row is None:
        return
    cursor = await connection.execute(
        "SELECT outcome, count(*) FROM batch_patch_runs WHERE batch_id = %s AND number = %s AND outcome IS NOT NULL "
        "GROUP BY outcome",
        (batch_id, patch),
    )
    counts = dict(await cursor.fetchall())
    await _count_action(connection, row[0], counts, counts.get("patched", 0) + counts.get("reverted", 0))
    await finish_action(connection, row[0])


async def finish_action(connection: AsyncConnection[Any], number: int) -> None:
    cursor = await connection.execute("SELECT batch_id FROM batch_actions WHERE number = %s", (number,))
    row = await cursor.fetchone()
    after = await read_counts(connection, row[0]) if row else None
    await connection.execute(
        "UPDATE batch_actions SET state_after = %s, touched = coalesce(touched, 0), done_at = clock_timestamp() "
        "WHERE number = %s",
        (_text(after), number),
    )


async def _count_action(connection: AsyncConnection[Any], number: int, counts: Mapping[str, int], touched: int) -> None:
    await connection.execute(
        "UPDATE batch_actions SET counts = coalesce(counts, '{}')::jsonb || %s::jsonb, "
        "touched = coalesce(touched, 0) + %s WHERE number = %s",
        (_text({name: count for name, count in counts.items() if count}), touched, number),
    )


async def read_counts(connection: AsyncConnection[Any], batch_id: str) -> dict[str, Any] | None:
    """{status, pending, running, done, failed, withdrawn} of a batch as it is recorded now; None if there is none."""
    cursor = await connection.cursor(row_factory=dict_row).execute(
        "SELECT status, pending, total - pending - done - failed - withdrawn AS running, done, failed, withdrawn "
        "FROM batches, LATERAL (SELECT count(*)::integer AS pending FROM batch_items AS item "
        "WHERE item.batch_id = batches.batch_id AND state = 'pending') AS waiting WHERE batch_id = %s",
        (batch_id,),
    )
    return await cursor.fetchone()


async def _withdraw(connection: AsyncConnection[Any], batch_id: str) -> int:
    """How many items do not start any more."""
    # Items before their batch, the order in which the recorder takes them too.
    cursor = await connection.execute(
        "WITH gone AS (UPDATE batch_items SET state = 'withdrawn' "
        "WHERE batch_id = %(batch)s AND state = 'pending' RETURNING 1), counted AS (SELECT count(*) AS n FROM gone), "
        "changed AS (UPDATE batches SET withdrawn = withdrawn + counted.n FROM counted WHERE batch_id = %(batch)s) "
        "SELECT n::integer FROM counted",
        {"batch": batch_id},
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def claims_lock(batch_id: str) -> int:
    """Advisory lock of a batch: shared by those who claim its items, taken alone by whoever pauses or patches it."""
    return _lock("claims of", batch_id)


def _lock(what: str, batch_id: str) -> int:
    digest = hashlib.blake2b(f"pavane {what} {batch_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
