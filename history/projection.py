"""run_projection: the current state of each run, kept by the transaction that records its events.

A run that is going on changes in `seq` alone, and in its status while it is paused; what it came to is written when it
has ended, by folding its events, and taken back when it is retried.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from psycopg import AsyncConnection

from history.batch_counts import ItemState, count_items
from history.entry import Entry, timestamp
from history.events import read_runs
from schemas.events import STATUS_OF, Event
from schemas.fold import BrokenHistory, Reference, RunState, fold

log = logging.getLogger(__name__)

GOES_ON = {"run_paused": "PAUSED", "run_resumed": "RUNNING", "run_retried": "RUNNING"}
"""Run status by the event that changes it while the run goes on."""

FOLDED_AT_ONCE = 100
"""Runs whose events are in memory together."""


async def start_runs(connection: AsyncConnection[Any], started: Sequence[Entry], seqs: Mapping[str, int]) -> None:
    """A row for each run_started; `seqs` are the runs' last events."""
    if not started:
        return
    rows = [_started(entry, seqs[entry.run_id]) for entry in started]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO run_projection (run_id, workflow_id, version, status, revision, digest, batch_id, key, "
            "labels, priority, seq, input, created_at, parent, parent_token) "
            "VALUES (%s, %s, %s, 'RUNNING', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            rows,
        )


def _started(entry: Entry, seq: int) -> tuple[Any, ...]:
    data = orjson.loads(entry.data)
    labels = {_plain(name): _plain(value) for name, value in (data.get("labels") or {}).items()}
    stored = data.get("stored_input")
    return (
        entry.run_id,
        _plain(data["workflow_id"]),
        data.get("version"),
        data["revision"],
        _plain(data["digest"]),
        _plain(data.get("batch_id")),
        _plain(data.get("key")),
        orjson.dumps(labels).decode(),
        _plain(data.get("priority") or "normal"),
        seq,
        _plain(stored) if stored else orjson.dumps(data.get("input")).decode(),
        timestamp(entry.at),
        _plain(data.get("parent")),
        _plain(data.get("parent_token")),
    )


def _plain(value: Any) -> str | None:
    """Text that Postgres takes: U+0000 may stand in JSON, not in text and jsonb."""
    return None if value is None else str(value).replace("\0", "�")


async def raise_seqs(connection: AsyncConnection[Any], seqs: Mapping[str, int]) -> None:
    await connection.execute(
        "UPDATE run_projection AS run SET seq = new.seq "
        "FROM unnest(%s::text[], %s::integer[]) AS new(run_id, seq) "
        "WHERE run.run_id = new.run_id AND run.seq < new.seq",
        (list(seqs), list(seqs.values())),
    )


async def raise_revisions(connection: AsyncConnection[Any], entries: Iterable[Entry]) -> None:
    """The revision and the IR's digest of runs that were patched."""
    last = {entry.run_id: orjson.loads(entry.data) for entry in entries if entry.type == "run_patched"}
    if not last:
        return
    await connection.execute(
        "UPDATE run_projection AS run SET revision = new.revision, digest = new.digest "
        "FROM unnest(%s::text[], %s::integer[], %s::text[]) AS new(run_id, revision, digest) "
        "WHERE run.run_id = new.run_id",
        (list(last), [data["revision"] for data in last.values()], [_plain(data["digest"]) for data in last.values()]),
    )


async def change_statuses(connection: AsyncConnection[Any], entries: Iterable[Entry]) -> None:
    """The runs' statuses as the last of the entries that change them says, and the counts of their batches."""
    last = {entry.run_id: entry for entry in entries if entry.type in STATUS_OF or entry.type in GOES_ON}
    ended = [entry for entry in last.values() if entry.type in STATUS_OF]
    await _go_on(connection, [entry for entry in last.values() if entry.type in GOES_ON])
    await _end(connection, ended)
    items: dict[str, ItemState] = {
        entry.run_id: "done" if STATUS_OF[entry.type] == "COMPLETED" else "failed" for entry in ended
    }
    items |= {entry.run_id: "admitted" for entry in last.values() if entry.type in GOES_ON}
    await count_items(connection, items)


async def _go_on(connection: AsyncConnection[Any], entries: Sequence[Entry]) -> None:
    if not entries:
        return
    await connection.execute(
        "UPDATE run_projection AS run SET status = new.status, ended_at = NULL, outputs = NULL, stored = NULL, "
        "ends = NULL, error = NULL, usage = NULL "
        "FROM unnest(%s::text[], %s::text[]) AS new(run_id, status) WHERE run.run_id = new.run_id",
        ([entry.run_id for entry in entries], [GOES_ON[entry.type] for entry in entries]),
    )


async def _end(connection: AsyncConnection[Any], ended: Sequence[Entry]) -> None:
    """What the runs came to, by folding all their events."""
    for first in range(0, len(ended), FOLDED_AT_ONCE):
        part = {entry.run_id: entry for entry in ended[first : first + FOLDED_AT_ONCE]}
        histories = await read_runs(connection, list(part))
        rows = [_ended(entry, histories.get(run_id, [])) for run_id, entry in part.items()]
        async with connection.cursor() as cursor:
            await cursor.executemany(
                "UPDATE run_projection SET status = %s, ended_at = %s, outputs = %s, stored = %s, ends = %s, "
                "error = %s, usage = %s WHERE run_id = %s",
                rows,
            )


def _ended(entry: Entry, history: Sequence[Event]) -> tuple[Any, ...]:
    state = _fold(entry, history)
    outputs = state.outputs.get("", {})
    inline = {node: value for node, value in outputs.items() if not isinstance(value, Reference)}
    stored = {node: value.text for node, value in outputs.items() if isinstance(value, Reference)}
    return (
        STATUS_OF[entry.type],
        timestamp(entry.at),
        orjson.dumps(inline).decode(),
        orjson.dumps(stored).decode() if stored else None,
        sorted(state.ends.get("", ())),
        None if state.error is None else orjson.dumps(state.error).decode(),
        orjson.dumps(asdict(state.usage)).decode(),
        entry.run_id,
    )


def _fold(entry: Entry, history: Sequence[Event]) -> RunState:
    """The run's last state: the items of its maps may have been held since it failed. Of a run whose recorded events
    are not whole, what its last event says."""
    try:
        state = fold(history)
        if state.seq >= entry.seq and state.status == STATUS_OF[entry.type]:
            return state
        reason = f"its events end at {state.seq}"
    except (BrokenHistory, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    log.error("%s ended, and its outputs are unknown: %s", entry.run_id, reason, extra={"run_id": entry.run_id})
    return RunState(status=STATUS_OF[entry.type], error=orjson.loads(entry.data).get("error"))
