"""Search: runs by label, status, input, output and error."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.criteria import Criterion, criterion_sql
from history.questions.json_sql import ms, readable
from history.questions.scope import Scope, asking
from history.runs import InvalidCursor

LOOKED_AT = 20_000
"""Runs that one search looks into, the newest first; its cursor goes on behind them."""


@dataclass(frozen=True, slots=True)
class Search:
    """What a run must have, all of it. `outputs`: the node with its criterion."""

    status: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    inputs: Sequence[Criterion] = ()
    outputs: Sequence[tuple[str, Criterion]] = ()
    error: str | None = None


async def search(
    pool: AsyncConnectionPool[Any], scope: Scope, wanted: Search, *, limit: int = 50, cursor: str | None = None,
    looked_at: int = LOOKED_AT,
) -> dict[str, Any]:  # fmt: skip
    """{runs, looked_at, not_searched: {inputs, outputs, unfinished}, whole, next_cursor}, the newest first.

    `not_searched`: of the runs looked at, those whose input or asked output is an artifact (over 16 KB), and those
    that have not ended, whose outputs are not known yet. `whole`: no older run was left out. A page may be empty and
    not the last. Raises InvalidCursor, TooMuch.
    """
    query, given = _statement(scope, wanted, cursor)
    async with asking(pool) as connection:
        rows = await (
            await connection.cursor(row_factory=dict_row).execute(
                query, {**given, "limit": limit + 1, "looked": looked_at}
            )
        ).fetchall()
    facts = rows[0] if rows else {}
    found = [row for row in rows if row["run_id"] is not None]
    whole = facts.get("looked_at", 0) < looked_at
    after = None
    if len(found) > limit:
        after = _cursor(found[limit - 1]["created_at"], found[limit - 1]["run_id"])
    elif not whole:
        after = _cursor(facts["last_at"], facts["last_run"])
    return {
        "runs": [_shown(row) for row in found[:limit]],
        "looked_at": facts.get("looked_at", 0),
        "not_searched": {name: facts.get(f"large_{name}", 0) for name in ("inputs", "outputs")}
        | {"unfinished": facts.get("unfinished", 0)},
        "whole": whole,
        "next_cursor": after,
    }


def _statement(scope: Scope, wanted: Search, cursor: str | None) -> tuple[str, dict[str, Any]]:
    where, given = scope.runs()
    if wanted.status:
        where += " AND run.status = %(status)s"
        given["status"] = wanted.status
    if wanted.labels:
        where += " AND run.labels <> '{}' AND run.labels @> %(labels)s::jsonb"
        given["labels"] = orjson.dumps(dict(wanted.labels)).decode()
    if cursor:
        where += " AND (run.created_at, run.run_id) < (to_timestamp(%(before)s::bigint / 1000.0), %(before_run)s)"
        given["before"], given["before_run"] = _read_cursor(cursor)
    matched = ["true"]
    for number, criterion in enumerate(wanted.inputs):
        condition, parameters = criterion_sql(criterion, "input", f"input_{number}")
        matched.append(f"({condition})")
        given |= parameters
    for number, (node, criterion) in enumerate(wanted.outputs):
        condition, parameters = criterion_sql(criterion, f"(outputs -> %(node_{number})s::text)", f"output_{number}")
        matched.append(f"({condition})")
        given |= parameters | {f"node_{number}": node}
    if wanted.error is not None:
        matched.append("strpos(lower(concat_ws(': ', error ->> 'class', error ->> 'message', error ->> 'reason')), "
                       "lower(%(error)s::text)) > 0")  # fmt: skip
        given["error"] = wanted.error
    given["nodes"] = list({node for node, _ in wanted.outputs})
    return _SEARCH.replace("<where>", where).replace("<matched>", " AND ".join(matched)).replace(
        "<input>", readable("input") if wanted.inputs else "NULL::json"
    ).replace("<outputs>", readable("outputs") if wanted.outputs else "NULL::json"), given  # fmt: skip


# Only what has passed the indexed conditions is looked into, and no more of it than %(looked)s; of that, only JSON.
_SEARCH = f"""
    WITH looked AS MATERIALIZED (
        SELECT * FROM run_projection AS run WHERE <where>
        ORDER BY run.created_at DESC, run.run_id DESC LIMIT %(looked)s
    ), values AS (
        SELECT run_id, workflow_id, version, status, batch_id, key, labels, created_at, ended_at,
            CASE WHEN starts_with(input, 'artifact://') THEN NULL ELSE <input> END AS input, <outputs> AS outputs,
            {readable("error")} AS error
        FROM looked OFFSET 0
    ), found AS (
        SELECT * FROM values WHERE <matched> ORDER BY created_at DESC, run_id DESC LIMIT %(limit)s
    ), counted AS (
        SELECT count(*)::integer AS looked_at, {ms("min(created_at)")} AS last_at,
            (array_agg(run_id ORDER BY created_at, run_id))[1] AS last_run,
            (count(*) FILTER (WHERE starts_with(input, 'artifact://')))::integer AS large_inputs,
            (count(*) FILTER (
                WHERE ARRAY(SELECT json_object_keys(coalesce(stored, '{{}}'))) && %(nodes)s::text[]
            ))::integer AS large_outputs,
            (count(*) FILTER (WHERE outputs IS NULL AND %(nodes)s::text[] <> '{{}}'))::integer AS unfinished
        FROM looked
    )
    SELECT counted.*, found.run_id, workflow_id, version, status, batch_id, key, labels::text, error::text,
        {ms("created_at")} AS created_at, {ms("ended_at")} AS ended_at
    FROM counted LEFT JOIN found ON true ORDER BY found.created_at DESC, found.run_id DESC
"""


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("run_id", "workflow_id", "version", "status", "batch_id", "key", "created_at", "ended_at")
    values = {name: orjson.loads(row[name]) if row[name] else None for name in ("labels", "error")}
    return {name: row[name] for name in names} | values


def _cursor(at: int, run_id: str) -> str:
    return base64.urlsafe_b64encode(f"{at} {run_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str]:
    """Raises InvalidCursor."""
    try:
        at, run_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split(" ")
        if not at.isdigit() or int(at) >= 1 << 47 or "\0" in run_id:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidCursor("cursor: not one that a page of this search has given") from None
    return int(at), run_id
