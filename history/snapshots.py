"""Snapshots: the whole state of a run after some of its events, so that no read folds a long history.

One is due when a run has `every` events since the last one, and those are as long together as a quarter of it: what
snapshots take is bounded by what events take, for a map of 100,000 items too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import zstandard
from psycopg import AsyncConnection

from history.entry import Entry, timestamp
from schemas.fold import fold
from schemas.run_state import RunState
from schemas.snapshot import dump_state, load_state

SHARE = 4
"""A snapshot is due when the events since the last one have this part of its bytes."""
LEVEL = 1
MAX_SIZE = 1 << 30


class Snapshot(NamedTuple):
    """A state, and the bytes of its JSON: 0 for the state before the first event."""

    state: RunState
    size: int


class Row(NamedTuple):
    """A row of run_snapshots."""

    run_id: str
    seq: int
    at: int
    size: int
    packed: bytes


NOTHING = Snapshot(RunState(), 0)


def take(entries: Sequence[Entry], last: Snapshot, every: int) -> tuple[list[Row], Snapshot, list[Entry]]:
    """The snapshots that are due in `entries`, which follow on `last`; the newest one, and the entries after it.

    Raises BrokenHistory and what a malformed event makes `fold` raise.
    """
    rows: list[Row] = []
    begin = length = 0
    for end, entry in enumerate(entries, 1):
        length += len(entry.data)
        enough = end - begin >= every and length * SHARE >= last.size
        if enough or entry.type == "run_restated":
            state = fold([one.event() for one in entries[begin:end]], last.state)
            text = dump_state(state)
            rows.append(Row(entry.run_id, entry.seq, entry.at, len(text), zstandard.compress(text, LEVEL)))
            last, begin, length = Snapshot(state, len(text)), end, 0
    return rows, last, list(entries[begin:])


async def write_snapshots(connection: AsyncConnection[Any], rows: Sequence[Row]) -> None:
    """Add the rows, and tell the runs which is their newest."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO run_snapshots (run_id, seq, at, size, state) VALUES (%s, %s, %s, %s, %b) "
            "ON CONFLICT (run_id, seq) DO UPDATE SET at = excluded.at, size = excluded.size, state = excluded.state",
            [(row.run_id, row.seq, timestamp(row.at), row.size, row.packed) for row in rows],
        )
    newest = {row.run_id: row.seq for row in rows}
    await connection.execute(
        "UPDATE run_projection AS run SET snapshot_seq = new.seq "
        "FROM unnest(%s::text[], %s::integer[]) AS new(run_id, seq) WHERE run.run_id = new.run_id",
        (list(newest), list(newest.values())),
    )


async def read_snapshots(connection: AsyncConnection[Any], seqs: Mapping[str, int]) -> dict[str, Snapshot]:
    """Of each of the runs that has one, the newest snapshot that is not after its `seqs`."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        "SELECT asked.run_id, size, state FROM unnest(%s::text[], %s::integer[]) AS asked(run_id, seq) "
        "CROSS JOIN LATERAL (SELECT size, state FROM run_snapshots AS one WHERE one.run_id = asked.run_id "
        "AND one.seq <= asked.seq ORDER BY one.seq DESC LIMIT 1) AS newest",
        (list(seqs), list(seqs.values())),
    )
    return {run_id: Snapshot(_unpack(packed), size) for run_id, size, packed in await cursor.fetchall()}


def _unpack(packed: bytes) -> RunState:
    return load_state(zstandard.decompress(packed, MAX_SIZE))
