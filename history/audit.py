"""Audit: every operation on a batch, its start and whatever was done to it since: who, when, why, what there was before
and after, how many runs it touched, how long it took. Times are ms since the epoch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.audit_query import difference
from history.runs import InvalidCursor

Action = Literal["run", "pause", "resume", "retry", "cancel", "patch", "promote", "revert"]
"""`run` is the batch's start."""
ACTIONS: tuple[str, ...] = get_args(Action)
Outcome = Literal["skipped", "failed", "withdrawn"]
"""What became of an item that a batch has not done."""
OPERATIONS = 1_000
"""Of one batch, at most shown."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which operations, or runs; what is None is not asked. `status`: of the batch, or run, as it is now."""

    workflow_id: str | None = None
    by: str | None = None
    action: str | None = None
    since: int | None = None  # ms, included
    until: int | None = None  # ms, not included
    status: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Audit:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def operations(
        self, asked: Filter, limit: int, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Operations on all batches, the newest first, and the cursor of the next page. Raises InvalidCursor."""
        where, parameters = _conditions(asked)
        if cursor is not None:
            where.append(f"({_AT_US}, batch_id, number) < (%s, %s, %s)")
            parameters += _read_cursor(cursor)
        rows = await self._rows(
            f"{_OPERATIONS} WHERE {' AND '.join(where)} ORDER BY at_us DESC, batch_id DESC, number DESC LIMIT %s",
            [*parameters, limit + 1],
        )
        following = _cursor(rows[limit - 1]) if len(rows) > limit else None
        return [_operation(row) for row in rows[:limit]], following

    async def of_batch(self, batch_id: str) -> list[dict[str, Any]]:
        """All operations on one batch, the oldest first."""
        query = f"{_OPERATIONS} WHERE batch_id = %s ORDER BY number LIMIT {OPERATIONS}"
        return [_operation(row) for row in await self._rows(query, [batch_id])]

    async def skips(self, batch_id: str) -> dict[str, int]:
        """{reason: items} of what the batch was handed and did not take."""
        query = "SELECT reason, count(*) AS items FROM batch_skips WHERE batch_id = %s GROUP BY reason ORDER BY reason"
        return {row["reason"]: row["items"] for row in await self._rows(query, [batch_id])}

    async def items(self, batch_id: str, outcome: Outcome, limit: int, after: int = -1) -> list[dict[str, Any]]:
        """Items that the batch has not done, in order, from behind the position `after` on.

        Skipped: {position, key, reason, run_id, batch_id, status, ended_at}, the run being the earlier one that has the
        key. Failed or withdrawn: {position, key, run_id, status, error}.
        """
        if outcome == "skipped":
            return await self._rows(_SKIPPED, [batch_id, after, limit])
        rows = await self._rows(_NOT_DONE, [batch_id, outcome, after, limit])
        return [row | {"error": row["error"] and orjson.loads(row["error"])} for row in rows]

    async def runs(self, asked: Filter, limit: int) -> list[dict[str, Any]]:
        """Single runs, the newest first: {run_id, workflow_id, version, status, by, labels, created_at, ended_at}."""
        where, parameters = ["batch_id IS NULL", "parent IS NULL"], list[Any]()
        given = {"workflow_id = %s": asked.workflow_id, "status = %s": asked.status, **_span(asked, "created_at")}
        if asked.by is not None:  # a first sieve: an input may hold the same text
            given["first.data LIKE %s"] = f'%"by":{_escaped(orjson.dumps(asked.by).decode())}%'
        for condition, value in given.items():
            if value is not None:
                where.append(condition)
                parameters.append(value)
        if asked.labels:
            where.append("labels @> %s::jsonb")
            parameters.append(orjson.dumps(dict(asked.labels)).decode())
        rows = await self._rows(f"{_RUNS} WHERE {' AND '.join(where)} {_NEWEST_RUNS}", [*parameters, limit])
        found = [_run(row) for row in rows]
        return [run for run in found if asked.by is None or run["by"] == asked.by]

    async def _rows(self, query: str, parameters: Sequence[Any]) -> list[dict[str, Any]]:
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(query, parameters)
            return list(await cursor.fetchall())


# -- pure ------------------------------------------------------------------------------------------------------------
def warnings_of(batch: Mapping[str, Any]) -> list[str]:
    """Where what was expected of a batch (as Batches.get gives it) and what came of it differ, in words."""
    found = []
    expected, over = batch["total"], batch["ended_at"] is not None
    if batch["skipped"] and not expected:
        found.append(f"nothing ran: all {batch['skipped']} items were skipped, their keys were done or running before")
    elif batch["skipped"]:
        found.append(f"{batch['skipped']} of {expected + batch['skipped']} items were skipped")
    missed = [f"{batch[name]} {name}" for name in ("failed", "withdrawn") if batch[name]]
    if missed:
        so_far = "" if over else " so far"
        found.append(f"{batch['done']} of {expected} expected runs are done{so_far}: {', '.join(missed)}")
    return found + _audit_warnings(batch, over)


def _audit_warnings(batch: Mapping[str, Any], over: bool) -> list[str]:
    audit = batch["audit"]
    if not audit or not over:
        return []
    if audit["error"]:
        again = "; it is asked again" if audit["waits"] else ""
        return [f"the audit query gave no state after: {audit['error']}{again}"]
    changes = (batch["delta"] or {}).get("audit")
    if batch["done"] and changes is not None and not any(changes.values()):
        runs = "1 run is" if batch["done"] == 1 else f"{batch['done']} runs are"
        return [f"{runs} done, and nothing changed in what the audit query gives"]
    return []


def durations_of(batch: Mapping[str, Any]) -> dict[str, int | None]:
    """{waited_ms, took_ms, paused_ms} of a batch: from its submission to its first item, and to its end."""
    began = batch["created_at"]
    return {
        "waited_ms": None if batch["started_at"] is None else max(0, batch["started_at"] - began),
        "took_ms": None if batch["ended_at"] is None else max(0, batch["ended_at"] - began),
        "paused_ms": batch["paused_ms"],
    }


# -- SQL -------------------------------------------------------------------------------------------------------------
_AT_US = "(extract(epoch FROM operation.at) * 1000000)::bigint"
_MS = "(extract(epoch FROM {0}) * 1000)::bigint"

_OPERATIONS = f"""
    SELECT operation.*, {_AT_US} AS at_us, {_MS.format("operation.at")} AS at_ms, {_MS.format("done_at")} AS done_at_ms,
        batch.workflow_id, batch.version, batch.status, batch.labels::text, batch.expected_work::text,
        batch.total, batch.skipped, batch.done, batch.failed, batch.withdrawn,
        batch.audit::text, batch.audit_due IS NOT NULL AS waits, batch.audit_error, batch.delta::text AS batch_delta
    FROM (
        SELECT batch_id, 0::bigint AS number, 'run' AS action, coalesce(requested_by, by) AS asked_by, by AS key_by,
            NULL AS reason, created_at AS at, ended_at AS done_at, total AS touched, NULL AS counts,
            state_before::text, state_after::text
        FROM batches
        UNION ALL
        SELECT batch_id, number, action, by, by, reason, at, done_at, touched, counts::text,
            state_before::text, state_after::text
        FROM batch_actions
    ) AS operation JOIN batches AS batch USING (batch_id)
"""
_SKIPPED = f"""
    SELECT position, skip.key, reason, earlier_run_id AS run_id, earlier_batch_id AS batch_id, run.status,
        {_MS.format("run.ended_at")} AS ended_at
    FROM batch_skips AS skip LEFT JOIN run_projection AS run ON run.run_id = skip.earlier_run_id
    WHERE skip.batch_id = %s AND position > %s ORDER BY position LIMIT %s
"""
_NOT_DONE = """
    SELECT position, coalesce(item.key, position::text) AS key, item.run_id,
        CASE item.state WHEN 'withdrawn' THEN 'CANCELLED' ELSE run.status END AS status, run.error::text AS error
    FROM batch_items AS item LEFT JOIN run_projection AS run USING (run_id)
    WHERE item.batch_id = %s AND item.state = %s AND position > %s ORDER BY position LIMIT %s
"""
# The data of events is no jsonb: Postgres would refuse U+0000 in it, so it is read here.
_RUNS = f"""
    SELECT run.run_id, workflow_id, version, status, labels::text, {_MS.format("run.created_at")} AS created_at,
        {_MS.format("run.ended_at")} AS ended_at, first.data
    FROM run_projection AS run LEFT JOIN LATERAL (
        SELECT data::text AS data FROM execution_events AS event WHERE event.run_id = run.run_id ORDER BY seq LIMIT 1
    ) AS first ON true
"""
_NEWEST_RUNS = "ORDER BY run.created_at DESC, run.run_id DESC LIMIT %s"


def _conditions(asked: Filter) -> tuple[list[str], list[Any]]:
    where, parameters = ["true"], list[Any]()
    given = {
        "batch.workflow_id = %s": asked.workflow_id,
        "action = %s": asked.action,
        "batch.status = %s": asked.status,
        **_span(asked, "operation.at"),
    }
    for condition, value in given.items():
        if value is not None:
            where.append(condition)
            parameters.append(value)
    if asked.by is not None:
        where.append("%s IN (asked_by, key_by)")
        parameters.append(asked.by)
    if asked.labels:
        where.append("batch.labels::jsonb @> %s::jsonb")
        parameters.append(orjson.dumps(dict(asked.labels)).decode())
    return where, parameters


def _span(asked: Filter, column: str) -> dict[str, int | None]:
    moment = "to_timestamp(%s::bigint / 1000.0)"
    return {f"{column} >= {moment}": asked.since, f"{column} < {moment}": asked.until}


def _escaped(text: str) -> str:
    """A text in a pattern of LIKE."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _operation(row: dict[str, Any]) -> dict[str, Any]:
    """An operation as it is shown."""
    before, after, counts, batch_delta, labels, expected, audit = (
        _json(row[name])
        for name in ("state_before", "state_after", "counts", "batch_delta", "labels", "expected_work", "audit")
    )
    run = row["action"] == "run"
    delta = batch_delta if run else difference(before, after) if before and after else None
    shown = {
        "batch_id": row["batch_id"], "number": row["number"], "action": row["action"], "by": row["asked_by"],
        "key": row["key_by"], "reason": row["reason"], "at": row["at_ms"], "done_at": row["done_at_ms"],
        "took_ms": None if row["done_at_ms"] is None else max(0, row["done_at_ms"] - row["at_ms"]),
        "touched": row["touched"], "counts": counts,
        "state_before": before, "state_after": after, "delta": delta,
        "workflow_id": row["workflow_id"], "version": row["version"], "status": row["status"], "labels": labels,
    }  # fmt: skip
    if run:
        counted = {name: row[name] for name in ("done", "failed", "withdrawn", "skipped")}
        facts = {**counted, "total": row["total"], "ended_at": row["done_at_ms"], "delta": delta}
        facts["audit"] = audit and {"waits": row["waits"], "error": row["audit_error"]}
        shown |= {"expected_work": expected, "counts": counted, "warnings": warnings_of(facts)}
    return shown


def _run(row: dict[str, Any]) -> dict[str, Any]:
    started = _json(row.pop("data")) or {}
    return row | {"labels": _json(row["labels"]), "by": started.get("by") or None}


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _cursor(row: Mapping[str, Any]) -> str:
    text = f"{row['at_us']} {row['number']} {row['batch_id']}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str, int]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        at_us, number, batch_id = text.split(" ")
        moment, place = int(at_us), int(number)
        if not (0 <= moment < 1 << 62 and 0 <= place < 1 << 62) or "\0" in batch_id:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidCursor("cursor: not one that a page of operations has given") from None
    return moment, batch_id, place
