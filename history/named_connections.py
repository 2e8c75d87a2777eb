"""Databases that an operator named for workflows to ask: one statement at a time, read only unless it may write.

    BEGIN READ ONLY; a first query, after which a transaction's mode can not be changed; the statement; ROLLBACK

The statement goes by the extended protocol, which takes exactly one. A session goes back to its pool as it was opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import Any, Self, cast

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from history.connection_options import ConnectionOptions
from history.json_types import JSON_TYPES, SESSION, as_parameter
from history.query_errors import QueryFailed, query_failure
from schemas.limits import LIMITS

Row = dict[str, Any]
"""A row as JSON: column -> value (history/json_types.py)."""

CONNECT_S = 10
CHUNK = 200  # rows in memory at once
IDLE_S = 60.0  # after which a connection that nobody needs is closed


class NamedConnections:
    """The connections of one process by name. Open from `async with` on; each connects when it is first used."""

    def __init__(self, options: Mapping[str, ConnectionOptions]) -> None:
        self._options = dict(options)
        self._databases: dict[str, _Database] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._databases.clear()
        await self._stack.aclose()

    async def fetch(self, name: str, query: str, params: Mapping[str, Any], *, timeout_s: float) -> list[Row]:
        """All rows of a statement, within the connection's `max_rows` and the limit output_bytes. On a connection that
        may write, the statement is committed when they are there. Raises QueryFailed."""
        options = self._named(name)
        found: list[Row] = []
        size = 0
        async with self.reading(name, query, params, timeout_s=timeout_s, write=options.write) as rows:
            async for row in rows:
                size += len(orjson.dumps(row))
                if len(found) >= options.max_rows:
                    raise QueryFailed(
                        "too_large", f"more rows than max_rows of the connection, {options.max_rows}", of_data=True
                    )
                if size > LIMITS.output_bytes:
                    limit = f"the limit output_bytes, {LIMITS.output_bytes}"
                    raise QueryFailed("too_large", f"the rows are over {limit}", of_data=True)
                found.append(row)
        return found

    @asynccontextmanager
    async def reading(
        self, name: str, query: str, params: Mapping[str, Any], *, timeout_s: float | None = None, write: bool = False
    ) -> AsyncIterator[AsyncIterator[Row]]:
        """The rows of a statement, as they come. The transaction ends with the block; `write`: it is committed then.

        `timeout_s` bounds the block once there is a free connection, and goes no further than its `timeout_ms`.
        Raises QueryFailed.
        """
        limit_s = self._named(name).timeout_ms / 1000
        limit_s = limit_s if timeout_s is None else min(limit_s, timeout_s)
        try:
            async with (
                self._database(name).connection(write) as connection,
                asyncio.timeout(limit_s),
                connection.transaction(force_rollback=not write),
            ):
                bound = {"ms": str(max(int(limit_s * 1000), 1))}
                await connection.execute("SELECT set_config('statement_timeout', %(ms)s, true)", bound)
                cursor = connection.cursor(row_factory=_json_rows)
                given = {key: as_parameter(value) for key, value in params.items()}
                async with aclosing(_rows(cursor, query, given, write)) as rows:
                    yield rows
        except TimeoutError:
            raise QueryFailed("timeout", f"the query was not over within {limit_s:g} s") from None
        except (psycopg.Error, UnicodeError) as error:
            raise query_failure(name, error) from None

    def _named(self, name: str) -> ConnectionOptions:
        if name not in self._options:
            raise QueryFailed("not_found", f"no connection is named {name!r} here")
        return self._options[name]

    def _database(self, name: str) -> _Database:
        if name not in self._databases:
            self._databases[name] = _Database(name, self._options[name])
            self._stack.push_async_callback(self._databases[name].close)
        return self._databases[name]


class _Database:
    """The pool of one name. Who waits because others are at work is not told that the database does not answer."""

    def __init__(self, name: str, options: ConnectionOptions) -> None:
        self._free = asyncio.Semaphore(options.pool_size)
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            _conninfo(options),
            name=name,
            min_size=0,
            max_size=options.pool_size,
            timeout=CONNECT_S,
            reconnect_timeout=CONNECT_S,
            max_idle=IDLE_S,
            check=AsyncConnectionPool.check_connection,
            reset=_reset,
            # Prepared statements would not survive a reset.
            kwargs={"autocommit": True, "context": JSON_TYPES, "prepare_threshold": None},
            open=False,
        )

    @asynccontextmanager
    async def connection(self, write: bool) -> AsyncIterator[AsyncConnection[Any]]:
        async with self._free:
            await self._pool.open()
            async with self._pool.connection() as connection:
                await connection.set_read_only(not write)
                yield connection

    async def close(self) -> None:
        await self._pool.close()


def check_url(url: str) -> None:
    """Raises ValueError, which does not show it, for what is no connection string of Postgres.

    Of a password whose `@` or `/` is not encoded, a part would be read as host, port or database, and be shown by
    whoever complains of it.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        raise ValueError("it is no URL of a Postgres database") from None
    place = f"{given.get('host') or ''}{given.get('dbname') or ''}"
    if "@" in place or not str(given.get("port") or "0").replace(",", "").isdecimal():
        raise ValueError("its host, port or database can not be: encode `@`, `:` and `/` in the password")


def _conninfo(options: ConnectionOptions) -> str:
    given = conninfo_to_dict(options.url)
    session = SESSION if options.write else f"{SESSION} -c default_transaction_read_only=on"
    return make_conninfo(
        options.url,
        options=f"{given.get('options') or ''} {session}",
        client_encoding="utf8",
        application_name=given.get("application_name") or "pavane",
        connect_timeout=given.get("connect_timeout") or CONNECT_S,
    )


async def _reset(connection: AsyncConnection[Any]) -> None:
    # Settings, session locks, temporary tables, LISTEN: the next query may be another workflow's.
    await connection.execute("DISCARD ALL")


async def _rows(
    cursor: AsyncCursor[Row], query: str, params: Mapping[str, Any], write: bool
) -> AsyncGenerator[Row, None]:
    try:
        if not write:
            streaming = cast(AsyncGenerator[Row, None], cursor.stream(query, params, size=CHUNK))
            async with aclosing(streaming) as found:
                async for row in found:
                    yield row
            return
        # What gives no rows is welcome here, and can not be streamed. In a pipeline it is one statement too.
        async with cursor.connection.pipeline():
            await cursor.execute(query, params)
        if cursor.description is not None:
            async for row in cursor:
                yield row
    except TypeError as error:  # psycopg's, of a placeholder without a name
        raise psycopg.ProgrammingError(str(error)) from None


def _json_rows(cursor: AsyncCursor[Any]) -> Callable[[Sequence[Any]], Row]:
    names = [column.name for column in cursor.description or ()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise psycopg.ProgrammingError(f"two columns are named {twice!r}: rename one with AS")
    return lambda values: dict(zip(names, values, strict=True))
