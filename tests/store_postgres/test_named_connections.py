"""Named connections on a real database: what comes back, what is refused, and that nothing can write or leak."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from history import named_connections
from history.connection_options import ConnectionOptions
from history.named_connections import NamedConnections, Row
from history.query_errors import QueryFailed
from schemas.limits import LIMITS
from tests.servers import PrivateServers
from tests.warehouse import PASSWORD, Warehouse, made_warehouse


@pytest.fixture
def warehouse(database_server: str) -> Iterator[Warehouse]:
    with made_warehouse(database_server) as made:
        yield made


async def fetch(options: ConnectionOptions, query: str, timeout_s: float = 20, **params: Any) -> list[Row]:
    async with NamedConnections({"w": options}) as connections:
        return await connections.fetch("w", query, params, timeout_s=timeout_s)


async def refused(options: ConnectionOptions, query: str, timeout_s: float = 20, **params: Any) -> QueryFailed:
    with pytest.raises(QueryFailed) as caught:
        await fetch(options, query, timeout_s, **params)
    return caught.value


# -- rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1::int2", 1),
        ("9007199254740993", 9007199254740993),
        ("1.50::numeric", 1.5),
        ("sum(10::bigint)", 10),
        ("'NaN'::numeric", None),
        ("'-Infinity'::float8", None),
        ("0.1::float8", 0.1),
        ("1e400::numeric", None),
        ("true", True),
        ("null::int", None),
        ("'é'::text", "é"),
        ("'ab'::char(3)", "ab "),
        ("date '2024-02-29'", "2024-02-29"),
        ("'infinity'::date", "infinity"),
        ("timestamp '2024-02-29 10:00:00.5'", "2024-02-29T10:00:00.5"),
        ("timestamptz '2024-02-29 10:00:00+02'", "2024-02-29T08:00:00Z"),
        ("time '10:00'", "10:00:00"),
        ("interval '1 day 2:03'", "P1DT2H3M"),
        ("'\\x00ff'::bytea", "AP8="),
        ("'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ("""'{"a": [1, null, {"b": 2.5}]}'::jsonb""", {"a": [1, None, {"b": 2.5}]}),
        ("'123456789012345678901234567890'::json", 1.2345678901234568e29),
        ("array[1.5::numeric, 2]", [1.5, 2]),
        ("array['a', null]", ["a", None]),
        ("array['\\x00'::bytea]", ["AA=="]),
        ("array[]::int[]", []),
        ("int4range(1, 3)", "[1,3)"),
        ("'10.0.0.1'::inet", "10.0.0.1"),
        ("'happy'::mood", "happy"),
    ],
)
async def test_a_value_as_json(warehouse: Warehouse, expression: str, value: Any) -> None:
    warehouse.admin.execute("CREATE TYPE mood AS ENUM ('happy')")
    (row,) = await fetch(warehouse.options(), f"SELECT {expression} AS v")
    assert row == {"v": value} and type(row["v"]) is type(value)


@pytest.mark.parametrize(
    "value", [1, 2.5, "it's; --", True, None, ["a", "b"], [1, 2.5], {"a": [1]}, [[1], {"b": 2}], ""]
)
async def test_a_parameter_comes_back_as_it_went(warehouse: Warehouse, value: Any) -> None:
    kinds: dict[type, str] = {str: "text", list: "text[]" if value == ["a", "b"] else "jsonb", dict: "jsonb"}
    kind = "float8[]" if value == [1, 2.5] else kinds.get(type(value), "jsonb" if value is None else "numeric")
    kind = "boolean" if value is True else kind
    (row,) = await fetch(warehouse.options(), f"SELECT %(v)s::{kind} AS v", v=value)
    assert row["v"] == value


async def test_parameters_are_bound_and_typed_by_the_server(warehouse: Warehouse) -> None:
    query = "SELECT id FROM article WHERE author = %(who)s AND id = ANY(%(ids)s) AND author LIKE '%%a' ORDER BY id"
    assert await fetch(warehouse.options(), query, who="ada", ids=[2, 3, 4]) == [{"id": 2}, {"id": 4}]
    assert await fetch(warehouse.options(), query, who="' OR true --", ids=[1, 2]) == []


async def test_rows_are_bounded(warehouse: Warehouse) -> None:
    series = "SELECT generate_series(1, %(n)s) AS n"
    assert len(await fetch(warehouse.options(max_rows=10), series, n=10)) == 10
    assert (await refused(warehouse.options(max_rows=10), series, n=11)).klass == "too_large"
    # A query without an end is left as soon as it is over the limit.
    assert (await refused(warehouse.options(), series, n=2_000_000_000)).message.endswith("10000")
    object.__setattr__(LIMITS, "output_bytes", 1_000)
    try:
        failure = await refused(warehouse.options(), "SELECT repeat('x', 1000) AS t")
    finally:
        object.__setattr__(LIMITS, "output_bytes", type(LIMITS)().output_bytes)
    assert failure.klass == "too_large" and "output_bytes" in failure.message


# -- what fails, and how -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "klass"),
    [
        ("SELEC 1", "invalid_input"),
        ("", "invalid_input"),
        ("SELECT * FROM nowhere", "invalid_input"),
        ("SELECT 1/0", "invalid_input"),
        ("SELECT 1 AS a, 2 AS a", "invalid_input"),
        ("SELECT 'a%'", "invalid_input"),
        ("SELECT %s", "invalid_input"),
        ("SELECT %(nobody)s", "invalid_input"),
        ("SELECT %(mixed)s::text", "invalid_input"),
        ("SELECT %(nul)s::text", "invalid_input"),
        ("SELECT %(half)s::text", "invalid_input"),
        ("SELECT 1; SELECT 2", "invalid_input"),
        ("SELECT 1 WHERE %(nul)s::int = 1; DROP TABLE article", "invalid_input"),
        ("COPY article TO STDOUT", "invalid_input"),
        ("SELECT * FROM secret", "permanent"),
        ("SELECT pg_sleep(30)", "timeout"),
    ],
)
async def test_the_class_of_a_failure(warehouse: Warehouse, query: str, klass: str) -> None:
    params = {"mixed": [1, "a"], "nul": "\0", "half": "\ud800"}
    failure = await refused(warehouse.options(timeout_ms=500 if klass == "timeout" else 20_000), query, **params)
    assert failure.klass == klass and failure.message
    assert failure.retryable == (klass == "timeout")


async def test_a_name_that_nobody_set_up(warehouse: Warehouse) -> None:
    async with NamedConnections({"w": warehouse.options()}) as connections:
        with pytest.raises(QueryFailed) as caught:
            await connections.fetch("other", "SELECT 1", {}, timeout_s=5)
    assert caught.value.klass == "not_found" and "other" in caught.value.message


async def test_a_deadlock_is_tried_again(warehouse: Warehouse) -> None:
    warehouse.admin.execute(
        "CREATE FUNCTION torn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '40P01'; END $$"
    )
    failure = await refused(warehouse.options(), "SELECT torn()")
    assert (failure.klass, failure.retryable) == ("interrupted", True)


async def lost(connections: NamedConnections) -> QueryFailed | None:
    try:
        await connections.fetch("w", "SELECT 1", {}, timeout_s=20)
    except QueryFailed as failure:
        return failure
    return None


async def test_a_server_that_is_away_and_comes_back(private_servers: PrivateServers, wait_until: Any) -> None:
    server = private_servers.postgres()
    async with NamedConnections({"w": ConnectionOptions(server.url)}) as connections:
        assert await connections.fetch("w", "SELECT 1 AS n", {}, timeout_s=20) == [{"n": 1}]
        server.kill()
        failure = await wait_until(lambda: lost(connections), 20)  # sessions outlive the server for a moment
        assert (failure.klass, failure.retryable) == ("connection", True)
        server.start()
        assert await connections.fetch("w", "SELECT 1 AS n", {}, timeout_s=20) == [{"n": 1}]
        server.kill()
        server.start()
        assert await connections.fetch("w", "SELECT 1 AS n", {}, timeout_s=20) == [{"n": 1}]


async def test_a_session_that_is_killed_is_a_lost_connection(warehouse: Warehouse) -> None:
    warehouse.admin.execute(
        "CREATE FUNCTION die() RETURNS bool LANGUAGE sql SECURITY DEFINER"
        " AS 'SELECT pg_terminate_backend(pg_backend_pid())'"
    )
    async with NamedConnections({"w": warehouse.options(pool_size=1)}) as connections:
        with pytest.raises(QueryFailed) as caught:
            await connections.fetch("w", "SELECT die()", {}, timeout_s=20)
        assert caught.value.klass == "connection"
        assert await connections.fetch("w", "SELECT 1 AS n", {}, timeout_s=20) == [{"n": 1}]


@pytest.mark.parametrize("write", [False, True])
async def test_who_is_cancelled_cancels_the_statement(warehouse: Warehouse, wait_until: Any, write: bool) -> None:
    async with NamedConnections({"w": warehouse.options(pool_size=1, write=write)}) as connections:
        asking = asyncio.create_task(connections.fetch("w", "SELECT pg_sleep(60)", {}, timeout_s=60))
        await wait_until(lambda: warehouse.active() == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await wait_until(lambda: warehouse.active() == 0, 5)
        assert await connections.fetch("w", "SELECT 1 AS n", {}, timeout_s=20) == [{"n": 1}]


async def test_waiting_for_others_is_no_failure(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a query, and of connecting, do not count the wait for the one connection."""
    monkeypatch.setattr(named_connections, "CONNECT_S", 1.5)
    async with NamedConnections({"w": warehouse.options(pool_size=1, timeout_ms=1_500)}) as connections:
        queries = [connections.fetch("w", "SELECT pg_sleep(0.5) IS NULL AS n", {}, timeout_s=20) for _ in range(5)]
        assert await asyncio.gather(*queries) == [[{"n": False}]] * 5


# -- read only ---------------------------------------------------------------------------------------

WRITES = [
    "INSERT INTO verdict VALUES ('a') RETURNING id",
    "WITH gone AS (DELETE FROM article RETURNING id) SELECT * FROM gone",
    "SET TRANSACTION READ WRITE",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "SET default_transaction_read_only = off",
    "BEGIN READ WRITE",
    "COMMIT",
    "ROLLBACK AND CHAIN",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT writing()",
    "DO $$ BEGIN PERFORM set_config('default_transaction_read_only', 'off', false); COMMIT;"
    " INSERT INTO verdict VALUES ('a'); END $$",
    "DO $$ BEGIN SET TRANSACTION READ WRITE; INSERT INTO verdict VALUES ('a'); END $$",
    "COMMIT; INSERT INTO verdict VALUES ('a')",
    "PREPARE later AS INSERT INTO verdict VALUES ('a')",
    "SELECT nextval('counter')",
    "CREATE TEMP TABLE t (id int)",
    "COPY verdict FROM STDIN",
]


async def test_nothing_writes_through_a_connection_that_may_not(warehouse: Warehouse) -> None:
    """Each attempt alone, and each after the others on one session."""
    warehouse.admin.execute("CREATE SEQUENCE counter; GRANT ALL ON SEQUENCE counter TO PUBLIC")
    warehouse.admin.execute(
        "CREATE FUNCTION writing() RETURNS void LANGUAGE plpgsql AS $$ BEGIN"
        " PERFORM set_config('transaction_read_only', 'off', true); INSERT INTO verdict VALUES ('a'); END $$"
    )
    async with NamedConnections({"w": warehouse.options(pool_size=1)}) as connections:
        for attempt in WRITES:
            for query in (attempt, "INSERT INTO verdict VALUES ('b') RETURNING id"):
                try:
                    await connections.fetch("w", query, {}, timeout_s=20)
                except QueryFailed as failure:
                    assert failure.klass in ("invalid_input", "permanent"), (query, failure)
                else:
                    assert "default_transaction_read_only" in query  # a setting that ends with the transaction
    assert warehouse.ask("SELECT count(*) FROM verdict") == 0 and warehouse.ask("SELECT count(*) FROM article") == 6


async def test_a_session_goes_back_as_it_was_opened(warehouse: Warehouse) -> None:
    async with NamedConnections({"w": warehouse.options(pool_size=1)}) as connections:

        async def one(query: str) -> Any:
            ((value,),) = [row.values() for row in await connections.fetch("w", query, {}, timeout_s=20)]
            return value

        session = await one("SELECT pg_backend_pid()")
        await one("SELECT pg_advisory_lock(7) IS NULL")
        await one("SELECT set_config('search_path', 'elsewhere', false)")
        assert await one("SELECT current_setting('search_path')") != "elsewhere"
        assert await one("SELECT current_setting('default_transaction_read_only')") == "on"
        assert await one("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()") == 0
        assert await one("SELECT pg_backend_pid()") == session


async def test_a_connection_that_may_write_writes_whole_statements(warehouse: Warehouse) -> None:
    options = warehouse.options(write=True, max_rows=2)
    assert await fetch(options, "INSERT INTO verdict VALUES (%(id)s, 'x') RETURNING id", id="a") == [{"id": "a"}]
    assert await fetch(options, "UPDATE verdict SET note = 'y'") == []  # no rows is no failure
    assert warehouse.ask("SELECT note FROM verdict") == "y"
    async with NamedConnections({"w": warehouse.options(write=True, pool_size=1)}) as connections:
        for _ in range(8):  # again and again on one session
            assert await connections.fetch("w", "UPDATE verdict SET note = 'z' RETURNING id", {}, timeout_s=20)
    failure = await refused(options, "INSERT INTO verdict SELECT n::text FROM generate_series(1, 3) n RETURNING id")
    assert failure.klass == "too_large"  # and was not committed
    assert (await refused(options, "DELETE FROM verdict; DELETE FROM article")).klass == "invalid_input"
    assert (await refused(options, "INSERT INTO verdict VALUES ('a')")).klass == "invalid_input"
    assert warehouse.ask("SELECT count(*) FROM verdict") == 1


async def test_a_reading_is_read_only_where_writing_is_allowed(warehouse: Warehouse) -> None:
    async with NamedConnections({"w": warehouse.options(write=True)}) as connections:
        with pytest.raises(QueryFailed, match="25006"):
            async with connections.reading("w", "DELETE FROM article RETURNING id", {}) as rows:
                [row async for row in rows]
    assert warehouse.ask("SELECT count(*) FROM article") == 6


# -- what is never shown -----------------------------------------------------------------------------


async def test_no_credential_is_shown(warehouse: Warehouse, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = make_conninfo(warehouse.url, password="kingfisher-too")
    nowhere = f"postgresql://someone:{PASSWORD}@127.0.0.1:1/d?connect_timeout=1"
    texts = [repr(warehouse.options()), str(warehouse.options())]
    for url in (wrong, nowhere):
        failure = await refused(ConnectionOptions(url), "SELECT 1")
        assert failure.klass == "connection"
        texts += [failure.message, repr(failure), repr(failure.__cause__)]
        for shown in ("127.0.0.1", "someone", warehouse.role):
            assert shown not in failure.message
    shown = "\n".join([*texts, caplog.text])
    assert PASSWORD not in shown
