"""A recorder on real servers, and runs whose events it records."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from coordinator.recorder import Connect, Recorder
from history.history import History
from schemas.keys import Keys


@pytest.fixture
def connect(database_url: str) -> Connect:
    return lambda: psycopg.AsyncConnection.connect(database_url, autocommit=True)


@pytest.fixture
async def history(database_url: str) -> AsyncIterator[History]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=2, open=False) as pool:
        history = History(pool)
        await history.migrate()
        yield history


@pytest.fixture
async def started(
    redis: Redis, connect: Connect, history: History
) -> AsyncIterator[Callable[..., tuple[Recorder, "asyncio.Task[None]"]]]:
    """`started()`: a recorder (of the given class) at work, and its task; all are stopped in the end."""
    stop = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    def start(kind: type[Recorder] = Recorder, client: Redis = redis, **more: Any) -> tuple[Recorder, Any]:
        recorder = kind(client, Keys(), more.get("connect", connect))
        tasks.append(asyncio.create_task(recorder.run(stop)))
        return recorder, tasks[-1]

    yield start
    stop.set()
    await asyncio.gather(*tasks, return_exceptions=True)
