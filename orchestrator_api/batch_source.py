"""The source of a batch: a query whose rows are its items, read as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson

from history.named_connections import NamedConnections, Row
from history.query_errors import QueryFailed
from orchestrator_api.batch_items import ItemReader
from orchestrator_api.problems import Refusal, invalid, too_large, unavailable
from orchestrator_api.requests import BatchSource
from schemas.errors import Problem
from schemas.limits import LIMITS


async def read_source(
    connections: NamedConnections, source: BatchSource, reader: ItemReader, retry_after_s: int
) -> None:
    """Have `reader` read the rows; the transaction is read only whatever the connection may. Raises Refusal: 503 where
    asking again may help, else 422; 413 for more or larger rows than a batch may have."""
    try:
        async with connections.reading(source.connection, source.query, source.params) as rows:
            await reader.read_lines(_lines(rows))
    except QueryFailed as failure:
        raise query_refusal(failure, "source", retry_after_s) from None


async def _lines(rows: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    size = 0
    async for row in rows:
        line = orjson.dumps(row)
        size += len(line)
        if size > LIMITS.batch_bytes:
            raise too_large("batch_bytes", LIMITS.batch_bytes)
        yield line


def query_refusal(failure: QueryFailed, field: str, retry_after_s: int) -> Refusal:
    """What a query that a field of a request named, {connection, query}, makes of the request when it fails."""
    if failure.klass in ("connection", "interrupted"):
        return unavailable(f"The {field} can not be read now: {failure.message}.", retry_after_s)
    path = f"/{field}/connection" if failure.klass == "not_found" else f"/{field}/query"
    return invalid([Problem(path, failure.klass.replace("_", "-"), failure.message)])
