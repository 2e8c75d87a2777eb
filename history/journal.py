"""Journal: what the recorder writes, all of it in one transaction with the stream position that it has reached.

Takes the connection of the recorder: the one that holds the shard's advisory lock, so that a recorder which lost its
lock has lost the connection to write with too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from history.artifact_store import ArtifactStore
from history.artifacts import write_artifacts
from history.entry import COLUMNS, Entry, timestamp
from history.projection import (
    CHANGES,
    change_statuses,
    known_runs,
    raise_revisions,
    raise_seqs,
    restate_runs,
    start_runs,
)
from history.sequence import Content, Known, Place, Sorted, sort, suspects
from history.snapshots import write_snapshots
from history.tails import Folded, Tail, Tails, parts
from history.workflows import write_ir
from schemas.events import STATUS_OF

log = logging.getLogger(__name__)

START = "0-0"
"""Position before the first entry of a stream."""
SNAPSHOT_EVERY = 500
"""Events of a run between two snapshots, by default."""
SLICE = 100
"""Events that are sent before others get their turn."""


@dataclass(slots=True)
class Page:
    """Consecutive entries of the stream, with what they name, and the id of the last one."""

    position: str
    entries: Sequence[Entry] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)  # name -> packed
    irs: Mapping[str, str] = field(default_factory=dict)  # digest -> text


class _Runs(NamedTuple):
    """What a page does to runs: the last event of each that changes its status; those that ended, begin, and were
    restated; those whose states are wanted; the tails to fold, and those to be read first, with their last numbers."""

    changes: dict[str, Entry]
    ended: Set[str]
    begun: Set[str]
    restated: Set[str]
    wanted: Set[str]
    tails: dict[str, Tail]
    missing: dict[str, int]


class Written(NamedTuple):
    """How many events of a page were recorded, were recorded before, and belong to runs that diverged; and the runs
    that have gaps and are diverged since this page."""

    recorded: int
    repeated: int
    diverged: int
    gaps: Set[str] = frozenset()
    diverged_runs: Set[str] = frozenset()


class Journal:
    """The journal of one shard (the prefix of its keys)."""

    def __init__(self, shard: str, store: ArtifactStore | None = None, snapshot_every: int = SNAPSHOT_EVERY) -> None:
        self.shard = shard
        self.tails = Tails(snapshot_every)
        self._store = store
        self._told: set[str] = set()  # runs with gaps that were told of

    async def lock(self, connection: AsyncConnection[Any]) -> bool:
        """Become the shard's only recorder, for as long as the connection lives."""
        self.tails.clear()  # another one may have recorded since
        self._told.clear()
        cursor = await connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"pavane recorder {self.shard}",)
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def position(self, connection: AsyncConnection[Any]) -> str:
        cursor = await connection.execute("SELECT position FROM recorder_positions WHERE shard = %s", (self.shard,))
        row = await cursor.fetchone()
        return row[0] if row else START

    async def wrong_runs(self, connection: AsyncConnection[Any]) -> tuple[set[str], set[str]]:
        """The runs that have gaps, and those that are diverged."""
        cursor = await connection.execute(
            "SELECT run_id, broken_at IS NOT NULL, diverged FROM run_projection WHERE diverged OR broken_at IS NOT NULL"
        )
        rows = await cursor.fetchall()
        return {run_id for run_id, broken, _ in rows if broken}, {run_id for run_id, _, diverged in rows if diverged}

    async def prepare(self, connection: AsyncConnection[Any], now_ms: int) -> None:
        """Partitions for events of this month and the next ones."""
        await connection.execute("SELECT create_event_partitions(%s::timestamptz, 2)", (timestamp(now_ms),))

    async def unknown_irs(self, connection: AsyncConnection[Any], digests: Iterable[str]) -> set[str]:
        """Those of the digests whose IR is not recorded."""
        asked = list(digests)
        cursor = await connection.execute("SELECT digest FROM irs WHERE digest = ANY(%s)", (asked,))
        return set(asked) - {digest for (digest,) in await cursor.fetchall()}

    async def write(self, connection: AsyncConnection[Any], page: Page) -> Written:
        """Record a page: everything, or (whatever happens) nothing. Raises psycopg.DataError on text that Postgres
        does not take."""
        try:
            async with connection.transaction():
                sorted_page = await self._write(connection, page)
        except BaseException:
            self.tails.clear()
            raise
        return self._written(sorted_page)

    async def _write(self, connection: AsyncConnection[Any], page: Page) -> Sorted:
        known = await known_runs(connection, {entry.run_id for entry in page.entries})
        recorded = await _recorded(connection, suspects(page.entries, known), known)
        found = sort(page.entries, known, recorded)
        runs = self._runs(found, known)
        # While Postgres takes the events, the runs that end are folded.
        folding = asyncio.create_task(self.tails.fold(runs.tails, runs.wanted))
        try:
            await _copy(connection, "execution_events", found.fresh)
            await _copy(connection, "diverged_events", found.diverged)
            await write_artifacts(connection, page.artifacts, self._store)
            for digest, text in page.irs.items():
                await write_ir(connection, digest, text)
            await start_runs(connection, found, known)
            await raise_revisions(connection, found.fresh)
            await raise_seqs(connection, found, runs.ended | runs.begun)
        finally:
            folded = await folding
        await self._change_runs(connection, found, runs, folded)
        await connection.execute(
            "INSERT INTO recorder_positions (shard, position) VALUES (%s, %s) "
            "ON CONFLICT (shard) DO UPDATE SET position = excluded.position, at = now()",
            (self.shard, page.position),
        )
        return found

    def _runs(self, found: Sorted, known: Mapping[str, Known]) -> _Runs:
        """Which runs the page changes, and what of them is to be folded."""
        by_run = _by_run(found.fresh)
        changes = {entry.run_id: entry for entries in by_run.values() for entry in entries if entry.type in CHANGES}
        restated = {run_id for run_id, entries in by_run.items() if entries[0].type == "run_restated"}
        ended = {run_id for run_id, entry in changes.items() if entry.type in STATUS_OF}
        broken = {run_id for run_id in by_run if found.is_broken(run_id, known)}
        for run_id in broken:
            self.tails.drop(run_id)
        whole = {run_id: entries for run_id, entries in by_run.items() if run_id not in broken}
        last = {run_id: run.snapshot_seq for run_id, run in known.items()}
        begun = {run_id for run_id in by_run if run_id not in known}  # their rows are as new as the page
        tails, missing = self.tails.add_all(whole, last, ended | restated)
        return _Runs(changes, ended, begun, restated, ended | restated, tails, missing)

    async def _change_runs(self, connection: AsyncConnection[Any], found: Sorted, runs: _Runs, folded: Folded) -> None:
        """What the runs came to, the whole states that were told, and the snapshots that are due."""
        states, snapshots = folded
        for seqs in parts(runs.missing):
            more = await self.tails.fold(await self.tails.read(connection, seqs), runs.wanted)
            states |= more.states
            snapshots += more.snapshots
        await restate_runs(connection, {run_id: states[run_id] for run_id in runs.restated if run_id in states})
        if snapshots:
            await write_snapshots(connection, snapshots)
        if runs.changes:
            await change_statuses(connection, runs.changes, states, found)

    def _written(self, found: Sorted) -> Written:
        """Counts; and the runs that went wrong, each told once."""
        for run_id, seq in found.diverged_runs.items():
            log.error(
                "event %d of %s is recorded with another content: Redis came back older than Postgres; "
                "what follows in this run goes to diverged_events until it is restored",
                seq, run_id, extra={"run_id": run_id},
            )  # fmt: skip
        self._told -= found.restated
        gaps = set(found.broken) - self._told
        for run_id in gaps:
            log.error(
                "events after %d of %s are missing: Postgres has lost them; its states can not be told until the run "
                "is restated", found.broken[run_id], run_id, extra={"run_id": run_id},
            )  # fmt: skip
        self._told |= gaps
        diverged = set(found.diverged_runs) - found.restored
        return Written(len(found.fresh), len(found.again), len(found.diverged), gaps, diverged)


def _by_run(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The events of each run, from its last restatement on: what was before has no more to say."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.run_id not in found or entry.type == "run_restated":
            found[entry.run_id] = [entry]
        else:
            found[entry.run_id].append(entry)
    return found


async def _recorded(
    connection: AsyncConnection[Any], asked: Sequence[Entry], known: Mapping[str, Known]
) -> dict[Place, Content]:
    """What is recorded under the (run, seq) of those that are asked for."""
    if not asked:
        return {}
    cursor = await connection.execute(
        "SELECT run_id, seq, type, token_id, data::text FROM execution_events "
        "JOIN unnest(%s::text[], %s::integer[]) AS asked(run_id, seq) USING (run_id, seq) "
        "WHERE at >= %s - interval '1 hour'",
        (
            [entry.run_id for entry in asked],
            [entry.seq for entry in asked],
            min(known[entry.run_id].created_at for entry in asked),
        ),
    )
    return {(run_id, seq): tuple(content) for run_id, seq, *content in await cursor.fetchall()}


async def _copy(connection: AsyncConnection[Any], table: str, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    async with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as copy:
        for first in range(0, len(entries), SLICE):
            await copy.write(b"".join([entry.line() for entry in entries[first : first + SLICE]]))
            await asyncio.sleep(0)
