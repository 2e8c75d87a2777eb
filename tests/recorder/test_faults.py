"""Exactly once, whatever dies: the recorder at any point, the connection, Postgres, Redis."""

import asyncio
import logging
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from coordinator.recorder import Recorder
from history.history import History
from history.journal import Journal, Page, Written
from tests.recorder.stream import KEYS, Stream


class Killed(BaseException):
    """What kill -9 is to a process: nothing of ours runs after it."""


class DiesBeforeTrim(Recorder):
    async def _trim(self, position: str) -> None:
        if self.recorded:
            raise Killed
        await super()._trim(position)


class DiesBeforeCommit(Recorder):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.journal = JournalThatDies("")


class JournalThatDies(Journal):
    async def write(self, connection: psycopg.AsyncConnection, page: Page) -> Written:
        async with connection.transaction():
            await super().write(connection, page)
            raise Killed


async def recorded(history: History) -> list[tuple[str, int, int]]:
    """(run, seq, how often) of every event."""
    async with history.pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT run_id, seq, count(*) FROM execution_events GROUP BY 1, 2 ORDER BY 1, 2"
        )
        return await cursor.fetchall()


def whole(run_id: str) -> list[tuple[str, int, int]]:
    return [(run_id, seq, 1) for seq in range(1, 6)]


@pytest.mark.parametrize("kind", [DiesBeforeTrim, DiesBeforeCommit])
async def test_killed_around_the_commit(redis: Redis, history: History, started, wait_until, kind) -> None:
    stream = Stream(redis)
    await stream.whole("run_1")
    _, dying = started(kind)
    with pytest.raises(Killed):
        await dying
    assert await redis.xlen(KEYS.events) == 5
    assert await recorded(history) == (whole("run_1") if kind is DiesBeforeTrim else [])
    await stream.whole("run_2")
    started()
    await wait_until(lambda: _is_empty(redis))
    assert await recorded(history) == whole("run_1") + whole("run_2")
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["output"]) == ("COMPLETED", {"step": 3})


async def test_a_standby_takes_over(redis: Redis, history: History, started, wait_until, monkeypatch) -> None:
    monkeypatch.setattr("coordinator.recorder.STANDBY_S", 0.02)
    stream = Stream(redis)
    first, task = started()
    await wait_until(lambda: first.state == "recording")
    second, _ = started()
    await wait_until(lambda: second.state == "standby")
    await stream.whole("run_1")
    await wait_until(lambda: first.recorded == 5)
    assert second.recorded == 0
    # asyncio.wait_for of Python 3.11 can swallow a cancellation that meets its timeout.
    await wait_until(lambda: task.done() or not task.cancel())
    await wait_until(lambda: second.state == "recording")
    await stream.whole("run_2")
    await wait_until(lambda: second.recorded == 5)
    assert await recorded(history) == whole("run_1") + whole("run_2")


async def test_a_recorder_that_lost_its_connection_has_lost_its_lock(
    redis: Redis, history: History, started, wait_until, database: psycopg.AsyncConnection
) -> None:
    recorder, _ = started()
    await wait_until(lambda: recorder.state == "recording")
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND "
        "database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    await Stream(redis).whole("run_1")
    await wait_until(lambda: recorder.recorded == 5)
    assert await recorded(history) == whole("run_1")


async def test_postgres_away_stops_nothing_and_loses_nothing(
    redis: Redis, private_servers, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    postgres = private_servers.postgres()
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=2, open=False) as pool:
        await History(pool).migrate()
    stop, stream = asyncio.Event(), Stream(redis)
    recorder = Recorder(redis, KEYS, lambda: psycopg.AsyncConnection.connect(postgres.url, autocommit=True))
    with caplog.at_level(logging.INFO, "coordinator.recorder"):
        task = asyncio.create_task(recorder.run(stop))
        await stream.whole("run_1")
        await wait_until(lambda: recorder.recorded == 5)
        await asyncio.to_thread(postgres.kill)
        await stream.whole("run_2")
        await wait_until(lambda: recorder.state == "away")
        assert await redis.xlen(KEYS.events) == 5
        await asyncio.to_thread(postgres.start)
        await wait_until(lambda: recorder.recorded == 10, timeout_s=20)
    stop.set()
    await task
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=2, open=False) as pool:
        assert await recorded(History(pool)) == whole("run_1") + whole("run_2")
    levels = [line.levelname for line in caplog.records if line.message.startswith(("Postgres is away", "recording"))]
    assert levels == ["INFO", "WARNING", "INFO"]  # once per change


async def test_redis_away(history: History, private_servers, connect, wait_until) -> None:
    valkey = private_servers.valkey()
    stop = asyncio.Event()
    async with Redis.from_url(valkey.url) as redis:
        recorder = Recorder(redis, KEYS, connect)
        task = asyncio.create_task(recorder.run(stop))
        stream = Stream(redis)
        await stream.whole("run_1")
        await wait_until(lambda: recorder.recorded == 5)
        await asyncio.to_thread(valkey.kill)
        await wait_until(lambda: recorder.state == "away")
        await asyncio.to_thread(valkey.start)
        await stream.whole("run_2")
        await wait_until(lambda: recorder.recorded == 10)
        stop.set()
        await task
    assert await recorded(history) == whole("run_1") + whole("run_2")


async def test_a_stream_that_begins_again_is_read_from_its_beginning(
    redis: Redis, history: History, started, wait_until, database: psycopg.AsyncConnection
) -> None:
    """An older clock, or an emptied Redis: its entries are before the position."""
    await database.execute("INSERT INTO recorder_positions (shard, position) VALUES ('', '9999999999999-0')")
    await Stream(redis).whole("run_1")
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 5)
    assert await recorded(history) == whole("run_1")


async def _is_empty(redis: Redis) -> bool:
    return bool(await redis.xlen(KEYS.events) == 0)
