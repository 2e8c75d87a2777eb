"""Runs: the projection, read. Times are ms since the epoch, values are resolved to JSON values."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore
from history.artifacts import Values
from schemas.run_state import output_of

CHUNK = 100
"""Rows whose values are in memory together."""

_SUMMARY = """
    run_id, workflow_id, version, status, revision, digest, batch_id, key, labels::text, priority, seq,
    error::text, usage::text, diverged, broken_at, forked_from, forked_at,
    (extract(epoch FROM created_at) * 1000)::bigint AS created_at,
    (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at
"""
_VALUES = "input, outputs::text, stored::text, ends"


class InvalidCursor(ValueError):
    """A cursor that no page of runs has given."""


class Runs:
    def __init__(self, pool: AsyncConnectionPool[Any], store: ArtifactStore | None = None) -> None:
        self._pool = pool
        self._store = store

    async def get(self, run_id: str) -> dict[str, Any] | None:
        """A run with `input`, `outputs` {node: output} and `output` (both null before its end); None if not known."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                f"SELECT {_SUMMARY}, {_VALUES} FROM run_projection WHERE run_id = %s", (run_id,)
            )
            row = await cursor.fetchone()
            if row is None:
                return None
            values = Values(connection, self._store)
            await values.load([row["input"], *_stored(row).values()])
        outputs = _outputs(row, values)
        row["input"] = values.get(row["input"])
        output = output_of(row["ends"] or (), outputs) if row["status"] == "COMPLETED" else None
        shown = None if row["outputs"] is None else outputs
        for name in ("stored", "ends"):
            del row[name]
        return _summary(row) | {"outputs": shown, "output": output}

    async def list(
        self, *, status: str | None = None, workflow_id: str | None = None, batch_id: str | None = None,
        labels: Mapping[str, str] | None = None, parent: str | None = None, forked_from: str | None = None,
        limit: int = 100, cursor: str | None = None,
    ) -> tuple[list[dict[str, Any]], str | None]:  # fmt: skip
        """Runs without their values, the newest first, and the cursor of the next page. Raises InvalidCursor.

        Child runs are listed for their `parent` alone: a map calls thousands.
        """
        filters = {
            "status = %s": status, "workflow_id = %s": workflow_id, "batch_id = %s": batch_id, "parent = %s": parent,
            "forked_from = %s": forked_from,
        }  # fmt: skip
        where = [condition for condition, value in filters.items() if value is not None]
        if parent is None:
            where.append("parent IS NULL")
        parameters: list[Any] = [value for value in filters.values() if value is not None]
        if labels:
            where.append("labels <> '{}' AND labels @> %s::jsonb")
            parameters.append(orjson.dumps(dict(labels)).decode())
        if cursor:
            where.append("(created_at, run_id) < (to_timestamp(%s::bigint / 1000.0), %s)")
            parameters.extend(_read_cursor(cursor))
        async with self._pool.connection() as connection:
            found = await connection.cursor(row_factory=dict_row).execute(
                f"SELECT {_SUMMARY} FROM run_projection WHERE {' AND '.join(where) or 'true'} "
                # Of the table: the column of this name that is shown is an expression, which no index orders.
                "ORDER BY run_projection.created_at DESC, run_id DESC LIMIT %s",
                (*parameters, limit + 1),
            )
            rows = [_summary(row) for row in await found.fetchall()]
        return rows[:limit], _cursor(rows[limit - 1]) if len(rows) > limit else None

    async def facts(self, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """{status, workflow_id, version, batch_id, key, labels} of those of the runs that are recorded."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                "SELECT run_id, status, workflow_id, version, batch_id, key, labels::text FROM run_projection "
                "WHERE run_id = ANY(%s)",
                (list(run_ids),),
            )
            rows = await cursor.fetchall()
        return {row.pop("run_id"): row | {"labels": _json(row["labels"])} for row in rows}

    async def results(self, batch_id: str) -> AsyncIterator[dict[str, Any]]:
        """{key, run_id, status, output, error} of each item of a batch, in order, streamed from the server.

        `status` is the run's, or PENDING before it is admitted, CANCELLED if it was withdrawn.
        """
        async with self._pool.connection() as connection, connection.transaction():
            values = Values(connection, self._store)
            async with connection.cursor(f"results_{uuid4().hex}", row_factory=dict_row) as rows:
                await rows.execute(_RESULTS, (batch_id,))
                while chunk := await rows.fetchmany(CHUNK):
                    await values.load([text for row in chunk for text in _stored(row, row["ends"] or ()).values()])
                    for row in chunk:
                        yield _result(row, values)


_RESULTS = """
    SELECT position, item.key, item.run_id, item.state, status, outputs::text, stored::text, ends, error::text
    FROM batch_items AS item LEFT JOIN run_projection AS run USING (run_id)
    WHERE item.batch_id = %s ORDER BY position
"""
_STATUS_OF = {"pending": "PENDING", "withdrawn": "CANCELLED"}


def _result(row: Mapping[str, Any], values: Values) -> dict[str, Any]:
    output = None
    if row["status"] == "COMPLETED":
        output = output_of(row["ends"] or (), _outputs(row, values, row["ends"] or ()))
    return {
        "key": str(row["position"]) if row["key"] is None else row["key"],
        "run_id": row["run_id"],
        "status": row["status"] or _STATUS_OF.get(row["state"], "RUNNING"),
        "output": output,
        "error": _json(row["error"]),
    }


def _stored(row: Mapping[str, Any], nodes: Any = None) -> dict[str, str]:
    """{node: stored text} of the large outputs, of the given nodes or all."""
    texts: dict[str, str] = _json(row["stored"]) or {}
    return texts if nodes is None else {node: texts[node] for node in nodes if node in texts}


def _outputs(row: Mapping[str, Any], values: Values, nodes: Any = None) -> dict[str, Any]:
    inline: dict[str, Any] = _json(row["outputs"]) or {}
    return inline | {node: values.get(text) for node, text in _stored(row, nodes).items()}


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("labels", "error", "usage"):
        row[name] = _json(row[name])
    return row


def _json(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)


def _cursor(row: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"{row['created_at']} {row['run_id']}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, run_id = text.split(" ")
        moment = int(created_at)
        if not 0 <= moment < 1 << 47 or "\0" in run_id:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidCursor("cursor: not one that a page of runs has given") from None
    return moment, run_id
