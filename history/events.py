"""Events: what is recorded of runs, and their state at any event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from history.entry import Entry
from history.questions.json_sql import readable
from history.snapshots import read_snapshots
from schemas.events import Event
from schemas.fold import fold
from schemas.run_state import RunState

_COLUMNS = "run_id, seq, type, (extract(epoch FROM at) * 1000)::bigint, node_id, token_id, scope, data::text"
# Two processes' clocks differ by little; the margin lets Postgres leave out the partitions of earlier months.
_SELECT = f"SELECT {_COLUMNS} FROM execution_events"
_SINCE = "at >= (SELECT created_at FROM run_projection WHERE run_id = %s) - interval '1 hour'"
REVISING = ("run_started", "run_forked", "run_patched")
"""Types of the events that make a revision."""
LAST = (1 << 31) - 1
"""Over the number of any event."""


class NotRecorded(LookupError):
    """A state that is asked for can not be told: events before it are missing in Postgres. `first` and `last` of them;
    `last` is None where it is not known."""

    def __init__(self, run_id: str, first: int, last: int | None) -> None:
        one, last_text = first == last, last or "its next restatement"
        span = f"event {first} of {run_id} is" if one else f"events {first} to {last_text} of {run_id} are"
        super().__init__(
            f"{span} not recorded: Postgres has lost {'it' if one else 'them'} (it was restored from a backup, or its "
            f"events were dropped); the run's states before {first} and from its next restatement on can be read"
        )
        self.run_id, self.first, self.last = run_id, first, last


class Events:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def after(self, run_id: str, seq: int = 0, limit: int = 1_000) -> list[Event]:
        """Recorded events of a run with a number above `seq`, in order; [] for a run that is not known."""
        async with self._pool.connection() as connection:
            return await _between(connection, run_id, seq, LAST, limit)

    async def revisions(self, run_id: str, after: int = 0, limit: int = 1_000) -> list[Event]:
        """The run's recorded events that made a revision above `after`, in order."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                f"{_SELECT} WHERE run_id = %s AND type IN ('run_started', 'run_forked', 'run_patched') AND {_SINCE} "
                f"AND ({readable('data')}->>'revision')::integer > %s ORDER BY seq LIMIT %s",
                (run_id, run_id, after, limit),
            )
            return [_entry(row).event() for row in await cursor.fetchall()]

    async def state(self, run_id: str, at_seq: int | None = None) -> RunState | None:
        """The run's recorded state after event `at_seq`, by default (and after its last event) the last; None if the
        run is not known, and for an `at_seq` before its first event.

        Raises NotRecorded where events before it are missing.
        """
        last = LAST if at_seq is None else min(at_seq, LAST)
        async with self._pool.connection() as connection:
            snapshots = await read_snapshots(connection, {run_id: last})
            state = snapshots[run_id].state if run_id in snapshots else None
            while True:
                reached = state.seq if state else 0
                events = await _between(connection, run_id, reached, last)
                if not events:
                    later = await _between(connection, run_id, reached, LAST, 1) if reached < last < LAST else ()
                    if not later:
                        return state
                    if later[0].seq > reached + 1:
                        raise NotRecorded(run_id, reached + 1, later[0].seq - 1)
                    continue  # it was recorded just now, with those that are wanted
                if events[0].seq > reached + 1 and events[0].type != "run_restated":
                    raise NotRecorded(run_id, reached + 1, events[0].seq - 1)
                state = fold(_unbroken(events), state)


def _unbroken(events: list[Event]) -> list[Event]:
    """Those up to the first gap."""
    for number, event in enumerate(events[1:], 1):
        if event.seq != events[number - 1].seq + 1 and event.type != "run_restated":
            return events[:number]
    return events


async def _between(
    connection: AsyncConnection[Any], run_id: str, after: int, last: int, limit: int = 1_000
) -> list[Event]:
    cursor = await connection.execute(
        f"{_SELECT} WHERE run_id = %s AND seq > %s AND seq <= %s AND {_SINCE} ORDER BY seq LIMIT %s",
        (run_id, after, last, run_id, limit),
    )
    return [_entry(row).event() for row in await cursor.fetchall()]


async def read_entries(connection: AsyncConnection[Any], after: Mapping[str, int]) -> dict[str, list[Entry]]:
    """All recorded events of the runs with numbers above those given, in order."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM execution_events JOIN unnest(%s::text[], %s::integer[]) AS run(run_id, after) "
        "USING (run_id) WHERE seq > run.after AND at >= "
        "(SELECT min(created_at) FROM run_projection WHERE run_id = ANY(%s)) - interval '1 hour' "
        "ORDER BY run_id, seq",
        (list(after), list(after.values()), list(after)),
    )
    found: dict[str, list[Entry]] = {}
    for row in await cursor.fetchall():
        found.setdefault(row[0], []).append(_entry(row))
    return found


def _entry(row: tuple[Any, ...]) -> Entry:
    run_id, seq, kind, at, node_id, token_id, scope, data = row
    return Entry(run_id, seq, kind, at, node_id, token_id, scope, data.encode())
