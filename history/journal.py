"""Journal: what the recorder writes, all of it in one transaction with the stream position that it has reached.

Takes the connection of the recorder: the one that holds the shard's advisory lock, so that a recorder which lost its
lock has lost the connection to write with too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from history.artifacts import write_artifacts
from history.entry import COLUMNS, Entry, timestamp
from history.projection import change_statuses, raise_revisions, raise_seqs, start_runs
from history.workflows import write_ir

log = logging.getLogger(__name__)

START = "0-0"
"""Position before the first entry of a stream."""


@dataclass(slots=True)
class Page:
    """Consecutive entries of the stream, with what they name, and the id of the last one."""

    position: str
    entries: Sequence[Entry] = ()
    artifacts: Mapping[str, bytes] = field(default_factory=dict)  # name -> packed
    irs: Mapping[str, str] = field(default_factory=dict)  # digest -> text


class Written(NamedTuple):
    """How many events of a page were recorded, were recorded before, and belong to a run that diverged."""

    recorded: int
    repeated: int
    diverged: int


class Known(NamedTuple):
    """A run as the projection has it."""

    seq: int
    created_at: datetime
    diverged: bool


class Journal:
    """The journal of one shard (the prefix of its keys)."""

    def __init__(self, shard: str) -> None:
        self.shard = shard

    async def lock(self, connection: AsyncConnection[Any]) -> bool:
        """Become the shard's only recorder, for as long as the connection lives."""
        cursor = await connection.execute(
            "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (f"pavane recorder {self.shard}",)
        )
        row = await cursor.fetchone()
        return bool(row and row[0])

    async def position(self, connection: AsyncConnection[Any]) -> str:
        cursor = await connection.execute("SELECT position FROM recorder_positions WHERE shard = %s", (self.shard,))
        row = await cursor.fetchone()
        return row[0] if row else START

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
        async with connection.transaction():
            fresh, again, diverged = await self._sort(connection, page.entries)
            await _copy(connection, "execution_events", fresh)
            await _copy(connection, "diverged_events", diverged)
            await write_artifacts(connection, page.artifacts)
            for digest, text in page.irs.items():
                await write_ir(connection, digest, text)
            seqs = {entry.run_id: entry.seq for entry in fresh}
            await start_runs(connection, [entry for entry in fresh if entry.type == "run_started"], seqs)
            await raise_seqs(connection, seqs)
            await raise_revisions(connection, fresh)
            await change_statuses(connection, (*fresh, *diverged))
            await connection.execute(
                "INSERT INTO recorder_positions (shard, position) VALUES (%s, %s) "
                "ON CONFLICT (shard) DO UPDATE SET position = excluded.position, at = now()",
                (self.shard, page.position),
            )
        return Written(len(fresh), len(again), len(diverged))

    async def _sort(
        self, connection: AsyncConnection[Any], entries: Sequence[Entry]
    ) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Events that are new; that are known already; and those of runs that Redis tells differently by now."""
        known = await _known(connection, {entry.run_id for entry in entries})
        seqs = {run_id: run.seq for run_id, run in known.items()}
        apart = {run_id for run_id, run in known.items() if run.diverged}
        fresh: list[Entry] = []
        again: list[Entry] = []
        diverged: list[Entry] = []
        suspects = [e for e in entries if e.run_id in seqs and e.seq <= seqs[e.run_id] and e.run_id not in apart]
        recorded = await _recorded(connection, suspects, known) if suspects else set()
        for entry in entries:
            run_id = entry.run_id
            if run_id not in apart and entry.seq > seqs.get(run_id, 0):
                seqs[run_id] = entry.seq
                fresh.append(entry)
            elif run_id not in apart and _content(entry) in recorded:
                again.append(entry)
            else:
                if run_id not in apart:
                    apart.add(run_id)
                    await _mark_diverged(connection, entry)
                diverged.append(entry)
        return fresh, again, diverged


async def _known(connection: AsyncConnection[Any], run_ids: set[str]) -> dict[str, Known]:
    cursor = await connection.execute(
        "SELECT run_id, seq, created_at, diverged FROM run_projection WHERE run_id = ANY(%s)", (list(run_ids),)
    )
    return {run_id: Known(*rest) for run_id, *rest in await cursor.fetchall()}


async def _recorded(
    connection: AsyncConnection[Any], suspects: Sequence[Entry], known: Mapping[str, Known]
) -> set[tuple[Any, ...]]:
    """Contents of what is recorded under the suspects' (run, seq)."""
    cursor = await connection.execute(
        "SELECT run_id, seq, type, token_id, data::text FROM execution_events "
        "JOIN unnest(%s::text[], %s::integer[]) AS suspect(run_id, seq) USING (run_id, seq) "
        "WHERE at >= %s - interval '1 hour'",
        (
            [entry.run_id for entry in suspects],
            [entry.seq for entry in suspects],
            min(known[entry.run_id].created_at for entry in suspects),
        ),
    )
    return {tuple(row) for row in await cursor.fetchall()}


def _content(entry: Entry) -> tuple[Any, ...]:
    return entry.run_id, entry.seq, entry.type, entry.token_id, entry.data.decode(errors="replace")


async def _mark_diverged(connection: AsyncConnection[Any], entry: Entry) -> None:
    log.error(
        "event %d of %s is recorded with another content: Redis came back older than Postgres; "
        "what follows in this run goes to diverged_events", entry.seq, entry.run_id, extra={"run_id": entry.run_id},
    )  # fmt: skip
    await connection.execute("UPDATE run_projection SET diverged = true WHERE run_id = %s", (entry.run_id,))


async def _copy(connection: AsyncConnection[Any], table: str, entries: Sequence[Entry]) -> None:
    if not entries:
        return
    text = b"".join([entry.line() for entry in entries])
    async with connection.cursor() as cursor, cursor.copy(f"COPY {table} ({COLUMNS}) FROM STDIN") as copy:
        await copy.write(text)
