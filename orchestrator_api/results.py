"""Results of a batch as a file: one line an item, streamed while it runs."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from orchestrator_api.bodies import QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import invalid, not_found
from orchestrator_api.requests import BatchId
from orchestrator_api.services import Backend
from schemas.errors import Problem

router = APIRouter(tags=["batches"])

COLUMNS = ("key", "run_id", "status", "output", "error")
MEDIA = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
MAX_FIELDS = 100
BLOCK_BYTES = 64_000


class ResultsFilter(QueryShape):
    """GET /batches/{batch_id}/results"""

    format: Literal["ndjson", "csv"] = "ndjson"
    fields: str | None = Field(None, max_length=4_096, description="of the output, by comma; a.b for inner ones")


@router.get(
    "/batches/{batch_id}/results",
    summary="What each item came to, as NDJSON or CSV",
    responses=answers(
        {"key": "0", "run_id": "run_0193f2a4", "status": "COMPLETED", "output": {"text": "Hello"}, "error": None},
        404,
        422,
        media=MEDIA["ndjson"],
    ),
)
async def get_results(batch_id: BatchId, backend: Backend, query: Annotated[ResultsFilter, Query()]) -> Response:
    """In the order of the items, also while the batch runs. `fields=score,summary.title` puts these fields of the
    output in its place. In CSV objects are JSON."""
    fields = _fields(query.fields)
    if await backend.history.batches.get(batch_id) is None:
        raise not_found("batch", batch_id)
    rows = backend.history.runs.results(batch_id)
    lines = _csv(rows, fields) if query.format == "csv" else _ndjson(rows, fields)
    name = f"{batch_id}.{query.format}".replace(":", "_")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(_blocks(lines), headers=headers, media_type=MEDIA[query.format])


def _fields(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(names) > MAX_FIELDS:
        message = f"Name 1 to {MAX_FIELDS} fields of the output, by comma."
        raise invalid([Problem("/query/fields", "bad-value", message)])
    return list(dict.fromkeys(names))


def pick(output: Any, path: str) -> Any:
    """A field of an output, `summary.title` an inner one; None where there is none."""
    for name in path.split("."):
        if isinstance(output, Mapping) and name in output:
            output = output[name]
        elif isinstance(output, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(output):
            output = output[int(name[:9])]
        else:
            return None
    return output


async def _ndjson(rows: AsyncIterator[dict[str, Any]], fields: Sequence[str] | None) -> AsyncIterator[bytes]:
    async for row in rows:
        if fields is not None:
            row["output"] = {name: pick(row["output"], name) for name in fields}
        yield orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


async def _csv(rows: AsyncIterator[dict[str, Any]], fields: Sequence[str] | None) -> AsyncIterator[bytes]:
    """RFC 4180, as spreadsheets read it."""
    text = io.StringIO()
    writer = csv.writer(text)
    columns = COLUMNS if fields is None else ("key", "run_id", "status", *fields, "error")
    writer.writerow(columns)
    async for row in rows:
        picked = [row["output"]] if fields is None else [pick(row["output"], name) for name in fields]
        cells = [row["key"], row["run_id"], row["status"], *picked, row["error"]]
        writer.writerow([cell(value) for value in cells])
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()
    yield text.getvalue().encode()


def cell(value: Any) -> str:
    """A value as a cell: text as it is, others as JSON, nothing for null. What a spreadsheet would run as a formula
    gets an apostrophe before it (OWASP, CSV injection)."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return orjson.dumps(value).decode()
    return "'" + value if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


async def _blocks(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each piece is a write to the socket."""
    kept = bytearray()
    async for line in lines:
        kept += line
        if len(kept) >= BLOCK_BYTES:
            yield bytes(kept)
            kept.clear()
    if kept:
        yield bytes(kept)
