"""Batch counts: how many items of a batch are done or have failed, and the end that follows. Called in the transaction
that records what became of their runs, so that counts never drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson
from psycopg import AsyncConnection

STILL_PAUSED_MS = "coalesce((extract(epoch FROM clock_timestamp() - paused_at) * 1000)::bigint, 0)"
"""SQL: for how long a batch has been paused until now; 0 of one that is not."""

ItemState = Literal["admitted", "done", "failed"]
"""What an item becomes by its run: admitted again when a run that had failed is retried."""


async def count_items(connection: AsyncConnection[Any], states: Mapping[str, ItemState]) -> None:
    """Items, by their run ids, are in these states now: count those that were in others; end the batches that are over
    with them, and open those again that are not over any more."""
    if not states:
        return
    cursor = await connection.execute(_COUNT, (list(states), list(states.values())))
    batch_ids = [batch_id for (batch_id,) in await cursor.fetchall()]
    await _reopen_batches(connection, batch_ids)
    await end_batches(connection, batch_ids)


# An item that waits is not admitted by this: the claim that started its run died, and comes again.
_COUNT = """
    WITH found AS (
        SELECT item.batch_id, item.position, item.state AS before, run.state AS after
        FROM batch_items AS item JOIN unnest(%s::text[], %s::text[]) AS run(run_id, state) USING (run_id)
        WHERE item.state <> run.state AND item.state <> 'withdrawn'
            AND NOT (item.state = 'pending' AND run.state = 'admitted')
        FOR UPDATE OF item
    ), changed AS (
        UPDATE batch_items AS item SET state = found.after FROM found
        WHERE item.batch_id = found.batch_id AND item.position = found.position
        RETURNING item.batch_id, found.before, found.after
    ), counts AS (
        SELECT batch_id,
            count(*) FILTER (WHERE after = 'done') - count(*) FILTER (WHERE before = 'done') AS done,
            count(*) FILTER (WHERE after = 'failed') - count(*) FILTER (WHERE before = 'failed') AS failed
        FROM changed GROUP BY batch_id
    )
    UPDATE batches AS batch SET done = batch.done + counts.done, failed = batch.failed + counts.failed
    FROM counts WHERE batch.batch_id = counts.batch_id RETURNING batch.batch_id
"""


async def end_batches(connection: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """End those of the batches of which every item is accounted for."""
    if not batch_ids:
        return
    cursor = await connection.execute(
        "UPDATE batches SET ended_at = now(), "
        f"paused_ms = paused_ms + {STILL_PAUSED_MS}, paused_at = NULL, "
        "audit_due = CASE WHEN audit IS NOT NULL THEN now() END, audit_tries = 0, audit_error = NULL, "
        "status = CASE WHEN status IN ('RUNNING', 'PAUSED') THEN 'COMPLETED' ELSE status END "
        "WHERE batch_id = ANY(%s) AND ended_at IS NULL AND done + failed + withdrawn >= total "
        "RETURNING batch_id, digest, state_before::text",
        (list(batch_ids),),
    )
    for batch_id, digest, text in await cursor.fetchall():
        before, after = orjson.loads(text), await totals(connection, digest)
        delta = {name: after[name] - before[name] for name in after}
        await connection.execute(
            "UPDATE batches SET state_after = %s, delta = %s WHERE batch_id = %s",
            (orjson.dumps(after).decode(), orjson.dumps(delta).decode(), batch_id),
        )


async def _reopen_batches(connection: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """A batch that had ended goes on with a run that was retried; a cancelled one stays so."""
    await connection.execute(
        "UPDATE batches SET ended_at = NULL, state_after = NULL, delta = NULL, "
        "audit_due = NULL, audit_error = NULL, "
        "status = CASE status WHEN 'COMPLETED' THEN 'RUNNING' ELSE status END "
        "WHERE batch_id = ANY(%s) AND ended_at IS NOT NULL AND done + failed + withdrawn < total",
        (list(batch_ids),),
    )


async def totals(connection: AsyncConnection[Any], digest: str) -> dict[str, int]:
    """{done, failed} of all batches of one workflow version."""
    cursor = await connection.execute(
        "SELECT coalesce(sum(done), 0)::bigint, coalesce(sum(failed), 0)::bigint FROM batches WHERE digest = %s",
        (digest,),
    )
    row = await cursor.fetchone()
    assert row is not None
    return {"done": row[0], "failed": row[1]}
