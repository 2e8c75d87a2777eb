"""run_projection: the current state of each run, kept by the transaction that records its events.

A run that is going on changes in `seq` alone, and in its status while it is paused; what it came to is written when it
has ended, by folding its events, and taken back when it is retried. Events of a diverged run change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

import orjson
from psycopg import AsyncConnection

from history.batch_counts import ItemState, count_items
from history.entry import Entry, timestamp
from history.sequence import Known, Sorted
from schemas.events import STARTS, STATUS_OF
from schemas.run_state import Reference, RunState

log = logging.getLogger(__name__)

GOES_ON = {"run_paused": "PAUSED", "run_resumed": "RUNNING", "run_retried": "RUNNING"}
"""Run status by the event that changes it while the run goes on."""
CHANGES = STATUS_OF | GOES_ON

_STARTED = (
    "run_id", "workflow_id", "version", "status", "revision", "digest", "batch_id", "key", "labels", "priority", "seq",
    "input", "created_at", "parent", "parent_token", "forked_from", "forked_at",
)  # fmt: skip
_CAME_TO = {
    "status": "text", "ended_at": "timestamptz", "outputs": "json", "stored": "json", "ends": "text[]",
    "error": "json", "usage": "json",
}  # fmt: skip
"""Columns that are written at a run's end, with the types that their texts are cast to."""


async def known_runs(connection: AsyncConnection[Any], run_ids: Iterable[str]) -> dict[str, Known]:
    """Those of the runs that have a row."""
    cursor = await connection.execute(
        "SELECT run_id, seq, created_at, diverged, broken_at, snapshot_seq FROM run_projection WHERE run_id = ANY(%s)",
        (list(run_ids),),
    )
    return {run_id: Known(*rest) for run_id, *rest in await cursor.fetchall()}


async def start_runs(connection: AsyncConnection[Any], page: Sorted, known: Mapping[str, Known]) -> None:
    """A row for each run that begins and is not known."""
    started = [entry for entry in page.fresh if entry.type in STARTS and entry.run_id not in known]
    if not started:
        return
    rows = [_started(entry, page.seqs[entry.run_id]) for entry in started]
    text = "".join(["\t".join(map(_field, row)) + "\n" for row in rows])
    statement = f"COPY run_projection ({', '.join(_STARTED)}) FROM STDIN"
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write(text.encode())


def _started(entry: Entry, seq: int) -> tuple[Any, ...]:
    data = orjson.loads(entry.data)
    stored = data.get("stored_input")
    given = stored if stored else orjson.dumps(data.get("input")).decode()
    return _row(entry.run_id, data, "RUNNING", seq, given, entry.at)


def _row(run_id: str, data: Mapping[str, Any], status: str, seq: int, given: str, at: int) -> tuple[Any, ...]:
    """A value for each column of _STARTED; `data` is the body of the event that began the run."""
    labels = {_plain(name): _plain(value) for name, value in (data.get("labels") or {}).items()}
    forked = data.get("forked_from") or {}
    return (
        run_id,
        _plain(data["workflow_id"]),
        data.get("version"),
        status,
        data["revision"],
        _plain(data["digest"]),
        _plain(data.get("batch_id")),
        _plain(data.get("key")),
        orjson.dumps(labels).decode(),
        _plain(data.get("priority") or "normal"),
        seq,
        _plain(given),
        timestamp(at),
        _plain(data.get("parent")),
        _plain(data.get("parent_token")),
        _plain(forked.get("run_id")),
        forked.get("seq"),
    )


def _plain(value: Any) -> str | None:
    """Text that Postgres takes: U+0000 may stand in JSON, not in text and jsonb."""
    return None if value is None else str(value).replace("\0", "�")


def _field(value: Any) -> str:
    """A value in COPY's text format."""
    if value is None:
        return "\\N"
    text = str(value).replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


async def restate_runs(connection: AsyncConnection[Any], states: Mapping[str, RunState]) -> None:
    """The rows of runs whose whole states were told: new, or made anew."""
    if not states:
        return
    rows = [(*_restated(state), *_came_to(state)) for state in states.values()]
    names = [*_STARTED, *(name for name in _CAME_TO if name != "status")]
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "run_id")
    async with connection.cursor() as cursor:
        await cursor.executemany(
            f"INSERT INTO run_projection ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "
            f"ON CONFLICT (run_id) DO UPDATE SET {changes}",
            rows,
        )
    await count_items(connection, {run_id: _item_state(state.status) for run_id, state in states.items()})


def _restated(state: RunState) -> tuple[Any, ...]:
    given = state.input.text if isinstance(state.input, Reference) else orjson.dumps(state.input).decode()
    names = ("workflow_id", "version", "revision", "digest", "batch_id", "key", "labels", "priority")
    data = {**state.started, **{name: getattr(state, name) for name in names}}
    return _row(state.run_id, data, state.status, state.seq, given, state.created_at)


def _came_to(state: RunState) -> tuple[Any, ...]:
    """The columns of _CAME_TO but the status; nothing for a run that goes on."""
    if state.ended_at is None:
        return (None,) * (len(_CAME_TO) - 1)
    outputs = state.outputs.get("", {})
    inline = {node: value for node, value in outputs.items() if not isinstance(value, Reference)}
    stored = {node: value.text for node, value in outputs.items() if isinstance(value, Reference)}
    return (
        timestamp(state.ended_at),
        orjson.dumps(inline).decode(),
        orjson.dumps(stored).decode() if stored else None,
        _array(sorted(state.ends.get("", ()))),
        None if state.error is None else orjson.dumps(state.error).decode(),
        orjson.dumps(asdict(state.usage)).decode(),
    )


def _array(texts: Iterable[str]) -> str:
    """An array as Postgres reads it."""
    quoted = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"


async def raise_seqs(connection: AsyncConnection[Any], page: Sorted, done: Set[str]) -> None:
    """The runs' last events, but of those that are `done` otherwise; which runs are diverged by now, or broken, and
    which are not any more."""
    seqs = {run_id: seq for run_id, seq in page.seqs.items() if run_id not in done}
    await connection.execute(
        "UPDATE run_projection AS run SET seq = new.seq "
        "FROM unnest(%s::text[], %s::integer[]) AS new(run_id, seq) "
        "WHERE run.run_id = new.run_id AND run.seq < new.seq",
        (list(seqs), list(seqs.values())),
    )
    if diverged := {run_id: run_id not in page.restored for run_id in {*page.diverged_runs, *page.restored}}:
        await connection.execute(
            "UPDATE run_projection AS run SET diverged = new.diverged "
            "FROM unnest(%s::text[], %s::boolean[]) AS new(run_id, diverged) WHERE run.run_id = new.run_id",
            (list(diverged), list(diverged.values())),
        )
    if broken := {run_id: page.broken.get(run_id) for run_id in {*page.broken, *page.restated}}:
        await connection.execute(
            "UPDATE run_projection AS run SET broken_at = new.broken_at "
            "FROM unnest(%s::text[], %s::integer[]) AS new(run_id, broken_at) WHERE run.run_id = new.run_id",
            (list(broken), list(broken.values())),
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


async def change_statuses(
    connection: AsyncConnection[Any], last: Mapping[str, Entry], states: Mapping[str, RunState], page: Sorted
) -> None:
    """The runs' statuses as the `last` event of each that changes them says, and the counts of their batches; of those
    that ended their last events too. `states` are those of the runs that ended, where they are known."""
    ended = {run_id: entry for run_id, entry in last.items() if entry.type in STATUS_OF}
    await _go_on(connection, [entry for entry in last.values() if entry.type in GOES_ON])
    rows = [_ended(entry, states.get(run_id), page.seqs.get(run_id, 0)) for run_id, entry in ended.items()]
    await _end(connection, rows)
    await count_items(connection, {run_id: _item_state(CHANGES[entry.type]) for run_id, entry in last.items()})


def _item_state(status: str) -> ItemState:
    return "done" if status == "COMPLETED" else "failed" if status in STATUS_OF.values() else "admitted"


async def _go_on(connection: AsyncConnection[Any], entries: Sequence[Entry]) -> None:
    if not entries:
        return
    await connection.execute(
        "UPDATE run_projection AS run SET status = new.status, ended_at = NULL, outputs = NULL, stored = NULL, "
        "ends = NULL, error = NULL, usage = NULL "
        "FROM unnest(%s::text[], %s::text[]) AS new(run_id, status) WHERE run.run_id = new.run_id",
        ([entry.run_id for entry in entries], [GOES_ON[entry.type] for entry in entries]),
    )


async def _end(connection: AsyncConnection[Any], rows: Sequence[tuple[Any, ...]]) -> None:
    """Each row: a run's id, its last event, its status, and what `_came_to` gives. The arrays are sent in binary: in
    text psycopg would escape each quote by itself."""
    if not rows:
        return
    columns = [list(column) for column in zip(*rows, strict=True)]
    sets = ", ".join(f"{name} = new.{name}::{kind}" for name, kind in _CAME_TO.items())
    await connection.execute(
        f"UPDATE run_projection AS run SET seq = greatest(run.seq, new.seq::integer), {sets} "
        f"FROM unnest({', '.join(['%b::text[]'] * len(columns))}) AS new(run_id, seq, {', '.join(_CAME_TO)}) "
        "WHERE run.run_id = new.run_id",
        columns,
    )


def _ended(entry: Entry, state: RunState | None, seq: int) -> tuple[Any, ...]:
    """Of a run whose recorded events are not whole, what its last event says."""
    if state is None or state.status != STATUS_OF[entry.type]:
        log.error("%s ended, and its outputs are unknown", entry.run_id, extra={"run_id": entry.run_id})
        data = orjson.loads(entry.data)
        error = data.get("error") if isinstance(data, dict) else None
        state = RunState(status=STATUS_OF[entry.type], error=error, ended_at=entry.at)
    return entry.run_id, str(seq), STATUS_OF[entry.type], *_came_to(state)
