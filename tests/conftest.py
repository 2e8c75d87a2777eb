"""Fixtures for every test: real servers, empty databases, fakeredis, and waiting without sleeping."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import fakeredis
import hypothesis
import psycopg
import pytest
from psycopg import sql
from redis.asyncio import Redis

from pavane.embedded.valkey import EmbeddedValkey
from tests import servers

Condition = Callable[[], Any]
POLL_S = 0.005
SLOW = ("faults", "cli", "embedded")
"""Folders of tests that wait for processes."""

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("pavane", deadline=None)
hypothesis.settings.load_profile("pavane")

# REDIS_URL and DATABASE_URL name servers to test on. They go on under names of the tests' own, since what the code
# under test finds in its environment must not depend on the machine.
for variable, name in (("REDIS_URL", servers.REDIS_VARIABLE), ("DATABASE_URL", servers.DATABASE_VARIABLE)):
    if variable in os.environ:
        os.environ.setdefault(name, os.environ[variable])
for variable in (
    "REDIS_URL",
    "DATABASE_URL",
    "OLLAMA_HOST",
    *[v for v in os.environ if v.startswith("PAVANE_")],
):
    if not variable.startswith("PAVANE_TEST_"):
        os.environ.pop(variable, None)


def pytest_xdist_auto_num_workers() -> int:
    """More than there are cores: many tests wait for processes, and for what they promise to do in time."""
    return max(4, len(os.sched_getaffinity(0)) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones lie evenly among the others, and none at the end: there, one worker would be waited for by all."""
    slow = [item for item in items if item.path.parent.name in SLOW]
    fast = [item for item in items if item.path.parent.name not in SLOW]
    between = max(1, len(fast) * 9 // 10 // max(1, len(slow)))
    items[:] = []
    for number, item in enumerate(slow):
        items += [item, *fast[number * between : (number + 1) * between]]
    items += fast[len(slow) * between :]


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and servers.DATABASE_VARIABLE not in os.environ:
        shared = servers.SharedPostgres()
        shared.listen()
        config.add_cleanup(shared.close)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Valkey of this worker alone, or a database of the server at REDIS_URL, which the tests empty."""
    if given := os.environ.get(servers.REDIS_VARIABLE):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield f"{given}{'&' if '?' in given else '?'}db={worker}"
        return
    folder = servers.private_folder()
    server = EmbeddedValkey(folder / "valkey")
    server.start()
    yield server.url
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """An asyncio client (answers are bytes, as in production) on an empty database of the real server."""
    client: Redis = Redis.from_url(redis_url)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
async def fake_redis() -> AsyncIterator[Redis]:
    """The same client on fakeredis, which runs Lua scripts in memory."""
    client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(), version=(7,))
    yield client
    await client.aclose()


@pytest.fixture(params=["real", "fake"])
def any_redis(request: pytest.FixtureRequest) -> Redis:
    """Each test that asks for it runs twice: on the real server and on fakeredis."""
    client: Redis = request.getfixturevalue("redis" if request.param == "real" else "fake_redis")
    return client


@pytest.fixture
def keys_left(redis: Redis) -> Callable[..., Awaitable[list[str]]]:
    """`await keys_left(*kept)`: the names of all keys but those that begin with one of `kept`."""

    async def look(*kept: str) -> list[str]:
        names = sorted([key.decode() async for key in redis.scan_iter(count=1000)])
        return [name for name in names if not name.startswith(kept)]

    return look


@pytest.fixture(scope="session")
def database_server() -> str:
    """The DSN of the Postgres that all tests share. Use `database` for one of your own."""
    return os.environ.get(servers.DATABASE_VARIABLE) or servers.shared_postgres_url()


@pytest.fixture(scope="session")
def worker_database(database_server: str) -> Iterator[str]:
    """The DSN of a database of this worker: making one for each test would cost more than most tests."""
    name = sql.Identifier(f"test_{uuid4().hex}")
    with psycopg.connect(database_server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(name))
        yield psycopg.conninfo.make_conninfo(database_server, dbname=name.as_string().strip('"'))
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture
def database_url(worker_database: str) -> Iterator[str]:
    """The DSN of a database that is empty, or has our tables and nothing in them; what the test makes there is gone
    after it, and who is connected, too."""
    yield worker_database
    with psycopg.connect(worker_database, autocommit=True) as admin:
        admin.execute(servers.DISCONNECT_OTHERS)
        servers.empty_database(admin)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """An asyncio connection (autocommit) to the empty database of `database_url`."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def private_servers() -> Iterator[servers.PrivateServers]:
    """Servers of this test alone, for faults: `.valkey()` or `.postgres()`, then `.kill()` and `.start()`."""
    made = servers.PrivateServers()
    yield made
    made.close()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[Any]]:
    """`await wait_until(condition, timeout_s=10)`: the (sync or async) condition's value, once it is truthy.

    The one place where tests poll. Raises AssertionError after the timeout.
    """

    async def wait(condition: Condition, timeout_s: float = 10) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition()
            if isawaitable(value):
                value = await value
            if value:
                return value
            assert time.monotonic() < deadline, f"not so within {timeout_s:g} s"
            await asyncio.sleep(POLL_S)

    return wait
