"""Dropped: what an answer can not tell, as retention has dropped events that it is made of."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection

from history.questions.json_sql import ms
from history.questions.scope import Scope

# A drop's span is that of a month, or of the runs of many batches: which of them it took, the runs say.
_DROPPED = f"""
    SELECT sum(gone.events)::bigint, {ms("max(gone.until)")},
        array_remove(array_agg(DISTINCT gone.file), NULL)
    FROM dropped_events AS gone
    WHERE gone.source <> 'diverged_events'
        AND (%(since)s::bigint IS NULL OR gone.until > to_timestamp(%(since)s::bigint / 1000.0))
        AND (%(until)s::bigint IS NULL OR gone.since < to_timestamp(%(until)s::bigint / 1000.0))
"""
_OF_RUNS = """
        AND EXISTS (
            SELECT FROM run_projection AS run WHERE {runs}
                AND gone.since <= coalesce(run.ended_at, run.created_at) AND gone.until > run.created_at
                AND NOT EXISTS (SELECT FROM execution_events AS e WHERE e.run_id = run.run_id)
        )
"""
_KEPT = """
    SELECT asked.run_id FROM unnest(%(runs)s::text[]) AS asked(run_id)
    WHERE EXISTS (SELECT FROM execution_events AS e WHERE e.run_id = asked.run_id)
"""


async def dropped_of(connection: AsyncConnection[Any], scope: Scope) -> dict[str, Any] | None:
    """{events, until (ms), exports} of the drops that took events of what is asked about; None if there are none.

    `events` are all that they took, also of other runs of that time.
    """
    query, given = _DROPPED, scope.parameters()
    if scope.batch_id is not None or scope.workflow_id is not None:
        runs = [f"run.{name} = %({name})s" for name in ("batch_id", "workflow_id") if given[name] is not None]
        query += _OF_RUNS.format(runs=" AND ".join(runs))
    row = await (await connection.execute(query, given)).fetchone()
    assert row is not None
    events, until, files = row
    return None if events is None else {"events": events, "until": until, "exports": files}


async def kept(connection: AsyncConnection[Any], runs: list[str]) -> set[str]:
    """Those of the runs that have events."""
    return {run_id for (run_id,) in await (await connection.execute(_KEPT, {"runs": runs})).fetchall()}
