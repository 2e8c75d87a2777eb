"""Retention: recorded events that are old enough go, a partition at a time; what runs came to stays.

A run is dropped whole: with the events of a partition go those that its runs have elsewhere, and its snapshots. A
partition in which a run has events that has not ended, or has ended too lately, is kept, and the runs are named.
Events are exported first where that is wanted. Artifacts that nothing names any more go last (`history/sweep.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import orjson
from psycopg import AsyncConnection, sql

from history.artifact_store import ArtifactStore
from history.export import Export
from history.sweep import sweep

log = logging.getLogger(__name__)

LOCK = 0x70617661_6E650003
"""Advisory lock of whoever drops: one at a time."""
HOLDERS_SHOWN = 10
LOCK_TIMEOUT = "5s"
"""How long a drop waits for readers of the events; whoever records waits behind it."""
EVERY = timedelta(days=1)

Connect = Callable[[], Awaitable[AsyncConnection[Any]]]


class RetentionBusy(Exception):
    """Somebody else drops events just now."""


@dataclass(frozen=True, slots=True)
class Source:
    """A table with events to drop: the whole of a month's partition, or the due runs of another table."""

    table: str
    since: datetime | None = None  # of a partition, whose every time is in since <= at < until
    until: datetime | None = None

    @property
    def whole(self) -> bool:
        return self.since is not None


@dataclass(frozen=True, slots=True)
class Lot:
    """What is dropped of a source, or what holds it. `held_by`: some of the `held` runs."""

    source: str
    events: int = 0
    runs: int = 0
    file: str | None = None
    sha256: str | None = None
    held: int = 0
    held_by: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a retention did, or in a dry run would do. `before` in ms; `artifacts` were deleted (0 in a dry run)."""

    before: int
    lots: Sequence[Lot]
    artifacts: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "dropped": [
                {name: value for name, value in asdict(lot).items() if name not in ("held", "held_by")}
                for lot in self.lots
                if not lot.held
            ],
            "held": [
                {"source": lot.source, "runs": lot.held, "held_by": list(lot.held_by)} for lot in self.lots if lot.held
            ],
            "artifacts": self.artifacts,
        }


class Retention:
    """`connect` opens a connection for this alone. With a folder, what is dropped is exported into it first."""

    def __init__(self, connect: Connect, folder: Path | None = None, store: ArtifactStore | None = None) -> None:
        self._connect = connect
        self._export = Export(folder) if folder else None
        self._store = store

    async def apply(self, before: datetime, by: str, *, dry_run: bool = False) -> Report:
        """Drop the events of runs that ended before `before`. Raises RetentionBusy; OSError where an export fails: then
        what it was to hold is still in the database."""
        async with await self._connect() as connection:
            await connection.set_autocommit(True)
            await self._lock(connection)
            return await self._apply(connection, before, by, dry_run)

    async def run_if_due(self, days: int, now: datetime) -> Report | None:
        """`apply` for what ended `days` ago, once a day whoever asks; None if it is not due, or somebody is at it."""
        async with await self._connect() as connection:
            await connection.set_autocommit(True)
            try:
                await self._lock(connection)
            except RetentionBusy:
                return None
            cursor = await connection.execute(
                "SELECT 1 FROM retentions WHERE by = 'recorder' AND at > %s LIMIT 1", (now - EVERY,)
            )
            if await cursor.fetchone():
                return None
            return await self._apply(connection, now - timedelta(days=days), "recorder", False)

    async def _lock(self, connection: AsyncConnection[Any]) -> None:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,))
        row = await cursor.fetchone()
        if not row or not row[0]:
            raise RetentionBusy("events are being dropped already: let that end first")

    async def _apply(self, connection: AsyncConnection[Any], before: datetime, by: str, dry_run: bool) -> Report:
        lots = []
        for source in await sources(connection, before):
            async with connection.transaction(force_rollback=dry_run):
                lot = await self._drop(connection, source, before, dry_run)
            if lot.held or lot.events or source.whole:
                lots.append(lot)
        swept = 0 if dry_run else await sweep(connection, self._store, self._export)
        report = Report(int(before.timestamp() * 1_000), lots, swept)
        if not dry_run:
            await connection.execute(
                "INSERT INTO retentions (before, by, report) VALUES (%s, %s, %s)",
                (before, by, orjson.dumps(report.as_dict()).decode()),
            )
        return report

    async def _drop(self, connection: AsyncConnection[Any], source: Source, before: datetime, dry_run: bool) -> Lot:
        """Drop what is due of a source, in the caller's transaction."""
        if not dry_run:  # nothing comes in between the export and the drop; nobody writes to an old month
            await _execute(connection, "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE", source.table)
        held, holders = await _holders(connection, source, before)
        if held and source.whole:
            return Lot(source.table, held=held, held_by=holders)
        await _choose(connection, source, before)
        events, runs, since, until = await _measure(connection, source)
        if dry_run or not (events or source.whole):
            return Lot(source.table, events, runs)
        file = sha256 = None
        if self._export and events:
            file, sha256 = await self._write(connection, self._export, source, before, events)
        await _execute(connection, _LOOSEN, source.table)
        if events:
            await connection.execute(
                "INSERT INTO dropped_events (source, since, until, events, runs, file, sha256) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                (source.table, source.since or since, source.until or until, events, runs, file, sha256),
            )
        await _delete(connection, source)
        return Lot(source.table, events, runs, file, sha256)

    async def _write(
        self, connection: AsyncConnection[Any], export: Export, source: Source, before: datetime, events: int
    ) -> tuple[str, str]:
        name = source.table if source.whole else f"{source.table}-{before:%Y-%m-%d}"
        async with connection.cursor("exported") as rows:
            await rows.execute(sql.SQL(_EXPORTED).format(table=sql.Identifier(source.table)))
            written = await export.write(name, rows)
        if written.lines != events:
            raise OSError(f"{written.file} has {written.lines} events where {events} were expected; nothing is dropped")
        return written.file.name, written.sha256


async def sources(connection: AsyncConnection[Any], before: datetime) -> list[Source]:
    """Partitions of months that were over before `before`, the oldest first; then what is dropped by its runs."""
    cursor = await connection.execute(
        "SELECT c.relname FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid "
        "WHERE inhparent = 'execution_events'::regclass ORDER BY c.relname"
    )
    found = []
    for (table,) in await cursor.fetchall():
        if month := re.fullmatch(r"execution_events_(\d{4})_(\d{2})", table):
            since = datetime(int(month[1]), int(month[2]), 1, tzinfo=UTC)
            until = (since + timedelta(days=32)).replace(day=1)
            if until <= before:
                found.append(Source(table, since, until))
    return [*found, Source("execution_events_default"), Source("diverged_events")]


async def _holders(connection: AsyncConnection[Any], source: Source, before: datetime) -> tuple[int, list[str]]:
    """How many runs hold a partition, and the oldest of them."""
    if not source.whole:
        return 0, []
    cursor = await _execute(connection, _HOLDERS, source.table, {"before": before, "until": source.until})
    found = [run_id for (run_id,) in await cursor.fetchall()]
    return len(found), found[:HOLDERS_SHOWN]


async def _choose(connection: AsyncConnection[Any], source: Source, before: datetime) -> None:
    """`expiring`: the runs that go; `elsewhere`: the events that they have in other tables."""
    await connection.execute("DROP TABLE IF EXISTS pg_temp.expiring, pg_temp.elsewhere")
    chosen = _ALL_RUNS if source.whole else _DUE_RUNS
    await _execute(
        connection, "CREATE TEMP TABLE expiring ON COMMIT DROP AS " + chosen, source.table, {"before": before}
    )
    await connection.execute("ANALYZE expiring")
    await _execute(
        connection,
        _ELSEWHERE,
        source.table,
        {
            "from": source.since or datetime.max.replace(tzinfo=UTC),
            "to": source.until or datetime.max.replace(tzinfo=UTC),
            "apart": source.table == "diverged_events",
        },
    )


async def _measure(connection: AsyncConnection[Any], source: Source) -> tuple[int, int, Any, Any]:
    """Events, runs, and the span of their times."""
    cursor = await _execute(connection, _MEASURE, source.table)
    row = await cursor.fetchone()
    assert row is not None
    return row[0], row[1], row[2], row[3]


async def _delete(connection: AsyncConnection[Any], source: Source) -> None:
    await connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
    if source.table != "diverged_events":
        await connection.execute(
            "DELETE FROM execution_events WHERE run_id = ANY(SELECT DISTINCT run_id FROM elsewhere)"
        )
        await connection.execute("DELETE FROM run_snapshots AS s USING expiring WHERE s.run_id = expiring.run_id")
    if source.whole:
        await _execute(connection, "DROP TABLE {table}", source.table)
    else:
        await _execute(
            connection, "DELETE FROM {table} AS e USING expiring WHERE e.run_id = expiring.run_id", source.table
        )


async def _execute(connection: AsyncConnection[Any], query: LiteralString, table: str, parameters: Any = None) -> Any:
    return await connection.execute(sql.SQL(query).format(table=sql.Identifier(table)), parameters)


# Whoever ended later than `before`, or goes on, and has an event here. A clock may be off by a day.
_HOLDERS = """
    SELECT run_id FROM run_projection AS run
    WHERE created_at < %(until)s + interval '1 day' AND (ended_at IS NULL OR ended_at >= %(before)s)
        AND EXISTS (SELECT FROM {table} AS e WHERE e.run_id = run.run_id)
    ORDER BY created_at, run_id
"""
_ALL_RUNS = "SELECT DISTINCT run_id FROM {table}"
_DUE_RUNS = """
    SELECT e.run_id FROM (SELECT run_id, max(at) AS at FROM {table} GROUP BY run_id) AS e
    LEFT JOIN run_projection AS run USING (run_id)
    WHERE CASE WHEN run.run_id IS NULL THEN e.at ELSE run.ended_at END < %(before)s
"""
# Of a month's runs, those whose life reaches out of it; of other tables, all.
_ELSEWHERE = """
    CREATE TEMP TABLE elsewhere ON COMMIT DROP AS SELECT e.*
    FROM expiring JOIN run_projection AS run USING (run_id) JOIN execution_events AS e USING (run_id)
    WHERE NOT %(apart)s AND e.tableoid <> '{table}'::regclass AND
        (run.created_at < %(from)s::timestamptz + interval '1 hour'
        OR run.ended_at >= %(to)s::timestamptz - interval '1 hour')
"""
_GOING = """
    (SELECT e.* FROM {table} AS e JOIN expiring USING (run_id) UNION ALL SELECT * FROM elsewhere) AS e
"""
_MEASURE = "SELECT count(*), count(DISTINCT run_id), min(at), max(at) + interval '1 millisecond' FROM " + _GOING
_EXPORTED = (
    "SELECT run_id, seq, type, (extract(epoch FROM at) * 1000)::bigint, node_id, token_id, scope, data::text FROM "
    + _GOING
    + " ORDER BY run_id, seq"
)
# IRs' digests have the same form; they name no artifact, and harm nothing here.
_LOOSEN = (
    "INSERT INTO loose_artifacts SELECT DISTINCT name[1] FROM "
    + _GOING
    + ", regexp_matches(e.data::text, 'sha256-[0-9a-f]{{64}}', 'g') AS name WHERE e.data::text LIKE '%%sha256-%%' "
    "ON CONFLICT DO NOTHING"
)
