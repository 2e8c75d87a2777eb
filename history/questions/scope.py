"""Scope: of which events or runs a question is asked, and the transaction that it is answered in."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.errors import QueryCanceled
from psycopg_pool import AsyncConnectionPool

from history.runs import InvalidCursor

TIMEOUT_MS = 30_000
"""What one question may take of Postgres."""
MAX_GROUPS = 10_000
"""Groups that one answer is made of; more are left out, and it says so."""
EXAMPLES = 3

Row = TypeVar("Row")


class TooMuch(Exception):
    """The question took longer than TIMEOUT_MS; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Times are ms since the epoch; None is no bound. `until` itself is not in it."""

    since: int | None = None
    until: int | None = None
    batch_id: str | None = None
    workflow_id: str | None = None

    def events(self) -> tuple[str, dict[str, Any]]:
        """The condition on `event` and `run`, and its parameters."""
        where, given = self._runs()
        if self.since is not None:
            where.append("event.at >= to_timestamp(%(since)s::bigint / 1000.0)")
        elif self.batch_id is not None:  # its events are not older than it: earlier partitions are left out
            where.append(
                "event.at >= (SELECT created_at FROM batches WHERE batch_id = %(batch_id)s) - interval '1 hour'"
            )
        if self.until is not None:
            where.append("event.at < to_timestamp(%(until)s::bigint / 1000.0)")
        return " AND ".join(where) or "true", given

    def runs(self) -> tuple[str, dict[str, Any]]:
        """The same of runs, by the time that they were started."""
        where, given = self._runs()
        if self.since is not None:
            where.append("run.created_at >= to_timestamp(%(since)s::bigint / 1000.0)")
        if self.until is not None:
            where.append("run.created_at < to_timestamp(%(until)s::bigint / 1000.0)")
        return " AND ".join(where) or "true", given

    def parameters(self) -> dict[str, Any]:
        return {
            "since": self.since, "until": self.until, "batch_id": self.batch_id, "workflow_id": self.workflow_id,
        }  # fmt: skip

    def _runs(self) -> tuple[list[str], dict[str, Any]]:
        given = self.parameters()
        where = [f"run.{name} = %({name})s" for name in ("batch_id", "workflow_id") if given[name] is not None]
        return where, given


@asynccontextmanager
async def asking(pool: AsyncConnectionPool[Any], timeout_ms: int = TIMEOUT_MS) -> AsyncIterator[AsyncConnection[Any]]:
    """A read-only transaction that is bounded in time. Raises TooMuch."""
    try:
        async with pool.connection() as connection, connection.transaction():
            # Compiling such statements takes longer than they gain by it.
            await connection.execute(f"SET LOCAL statement_timeout = {int(timeout_ms)}")
            await connection.execute("SET LOCAL jit = off")
            await connection.execute("SET TRANSACTION READ ONLY")
            yield connection
    except QueryCanceled:
        raise TooMuch(
            f"This took over {timeout_ms / 1_000:g} s: ask of a shorter time (since, until), one batch or one workflow."
        ) from None


def page_of(rows: Sequence[Row], limit: int, cursor: str | None) -> tuple[list[Row], str | None]:
    """A page of rows that are all at hand, and the cursor of the next one. Raises InvalidCursor."""
    first = read_place(cursor)
    end = first + limit
    return list(rows[first:end]), place(end) if len(rows) > end else None


def place(number: int) -> str:
    """A cursor: how many rows lie before the page."""
    return base64.urlsafe_b64encode(f"at {number}".encode()).decode().rstrip("=")


def read_place(cursor: str | None) -> int:
    """Raises InvalidCursor."""
    if cursor is None:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").partition(" ")
        if word != "at" or not number.isdigit() or len(number) > 9:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidCursor("cursor: not one that a page of this question has given") from None
    return int(number)
