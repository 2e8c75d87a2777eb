"""Batch histories: the runs of a batch with what is recorded of them, page by page, in the order of their items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg_pool import AsyncConnectionPool

from schemas.events import Event


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A run of a batch. `events` are those of the types that were asked for; `whole` is false where Redis told it
    otherwise than it is recorded, or some of its events are lost."""

    position: int
    run_id: str
    workflow_id: str
    status: str
    key: str
    error: Any
    whole: bool
    events: list[Event]


class BatchHistories:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def page(self, batch_id: str, types: Sequence[str], after: int, limit: int) -> list[RunHistory]:
        """Runs of the items behind position `after`; [] behind the last. Items that have no run yet are left out."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT item.position, run_id, run.workflow_id, run.status, coalesce(run.key, item.key, ''), "
                "run.error::text, NOT run.diverged AND run.broken_at IS NULL, run.created_at "
                "FROM batch_items AS item JOIN run_projection AS run USING (run_id) "
                "WHERE item.batch_id = %s AND item.position > %s ORDER BY item.position LIMIT %s",
                (batch_id, after, limit),
            )
            rows = await cursor.fetchall()
            events: dict[str, list[Event]] = {row[1]: [] for row in rows}
            if rows:
                # The margin is that of history/events.py.
                cursor = await connection.execute(
                    "SELECT run_id, seq, type, node_id, token_id, scope, data::text FROM execution_events "
                    "WHERE run_id = ANY(%s) AND type = ANY(%s) AND at >= %s::timestamptz - interval '1 hour' "
                    "ORDER BY run_id, seq",
                    (list(events), list(types), min(row[7] for row in rows)),
                )
                while found := await cursor.fetchmany(2_000):
                    for row in found:
                        events[row[0]].append(_event(row))
        return [
            RunHistory(position, run_id, workflow_id, status, key, _json(error), whole, events[run_id])
            for position, run_id, workflow_id, status, key, error, whole, _ in rows
        ]


def _event(row: tuple[Any, ...]) -> Event:
    """Without its time, which nobody asks for here."""
    run_id, seq, kind, node_id, token_id, scope, data = row
    return Event(run_id, seq, kind, 0, node_id, token_id, scope, orjson.loads(data))


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
