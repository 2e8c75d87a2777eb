"""Redis loses its runs, or Postgres its events: what is recorded goes on, and nothing recorded is done again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from coordinator.recovery import Recovery
from history.history import History
from pavane.embedded.valkey import EmbeddedValkey
from tests.faults.conftest import Archive, Floor
from tests.faults.courses import brief_ids, course_ids, mass_ids, tour_ids
from tests.faults.verdict import EXECUTIONS
from tests.servers import PrivateServers

KINDS = ("coordinator", "coordinator", "runner", "runner")
ITEMS = 500


@pytest.fixture
async def recovery(floor: Floor, database_url: str) -> AsyncIterator[Recovery]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        yield Recovery(floor.store, pool, "a test")


async def wipe(floor: Floor) -> int:
    """Empty Redis; the executions that tests are judged by are kept. How many there were."""
    async with floor.redis.pipeline(transaction=True) as pipe:
        pipe.lrange(EXECUTIONS, 0, -1)
        pipe.flushall()
        executions, _ = await pipe.execute()
    if executions:
        await floor.redis.lpush(EXECUTIONS, *reversed(executions))  # before those of the meantime
    return len(executions)


async def done_again(floor: Floor, archive: Archive, run_ids: Sequence[str], since: int) -> list[str]:
    """Tokens that were recorded as done when their run was rebuilt, and were executed once more."""
    recorded: set[str] = set()
    for events in (await archive.events(run_ids)).values():
        rebuilt = max((event.seq for event in events if event.type == "run_recovered"), default=0)
        moved = (event for event in events if event.seq < rebuilt)
        recorded |= {event.token_id for event in moved if event.type in ("node_completed", "node_failed")}
    later = [orjson.loads(text)["token"] for text in await floor.redis.lrange(EXECUTIONS, since, -1)]
    return sorted(recorded & set(later))


async def ended_after_all(floor: Floor, archive: Archive) -> None:
    """Every run has ended and is recorded; those that had when Redis was wiped are not there any more."""
    await all_recorded(floor, archive)
    await note_gone(floor, floor.run_ids)
    await floor.ended()


async def note_gone(floor: Floor, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        if not await floor.redis.exists(floor.store.keys.run(run_id)):
            floor.verdict.gone.add(run_id)


async def all_recorded(floor: Floor, archive: Archive) -> None:
    async def recorded() -> bool:
        try:
            return await archive.has_ended(floor.run_ids)
        except archive.unavailable:
            return False

    await floor.wait_until(recorded)


@pytest.mark.timeout(120)
async def test_redis_is_wiped_in_the_middle_of_a_batch(floor: Floor, archive: Archive, recovery: Recovery) -> None:
    """Every item once, whatever was admitted, recorded or neither; outputs over 16 KB among them."""
    floor.run_ids += brief_ids(ITEMS)
    await archive.create_batch(floor.run_ids)
    await floor.start(*KINDS, "recorder", per_gpu=100)
    await floor.wait_until(lambda: floor.reached(ITEMS))
    since = await wipe(floor)
    report = await recovery.recover("a test")
    assert report.recovered, "some were under way"
    assert not report.failed
    await ended_after_all(floor, archive)
    assert await done_again(floor, archive, floor.run_ids, since) == []
    await floor.is_right(await archive.events(floor.run_ids))


async def test_redis_is_wiped_in_the_middle_of_maps_waits_and_children(
    floor: Floor, archive: Archive, recovery: Recovery
) -> None:
    await floor.start(*KINDS, "recorder")
    await floor.begin(mass_ids(1) + tour_ids(3))
    for executions in (60, 250):
        await floor.wait_until(lambda n=executions: floor.reached(n))
        await floor.wait_until(lambda: _all_known(archive, floor.run_ids))
        since = await wipe(floor)
        report = await recovery.recover("a test")
        assert not report.failed
    await ended_after_all(floor, archive)
    assert await done_again(floor, archive, floor.run_ids, since) == []
    events = await _with_children(archive, floor.run_ids)
    await note_gone(floor, list(events))
    await floor.is_right(events)


async def _all_known(archive: Archive, run_ids: Sequence[str]) -> bool:
    return all((await archive.events(run_ids)).values())


async def _with_children(archive: Archive, run_ids: Sequence[str]) -> dict[str, Any]:
    children = [child.run_id for run_id in run_ids for child in await archive.history.families.children(run_id, 500)]
    return dict(await archive.events([*run_ids, *children]))


async def test_a_recovery_that_is_not_needed_changes_nothing(
    floor: Floor, archive: Archive, recovery: Recovery
) -> None:
    await floor.start(*KINDS, "recorder", pace_s=0.005)
    await floor.begin()
    await floor.wait_until(lambda: floor.reached(30))
    report = await recovery.recover("a test")
    assert (report.recovered, report.over, report.failed) == ([], [], {})
    await floor.ended()
    await all_recorded(floor, archive)
    await floor.is_right(await archive.events(floor.run_ids))


async def test_postgres_is_killed_during_a_recovery(
    floor: Floor, private_servers: PrivateServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is begun again, and ends right."""
    postgres = await asyncio.to_thread(private_servers.postgres)
    floor.processes.common["database"] = postgres.url
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=4, timeout=5, open=False) as pool:
        archive = Archive(History(pool))
        await archive.history.migrate()
        floor.run_ids += course_ids(30)
        await archive.create_batch(floor.run_ids)
        await floor.start(*KINDS, "recorder", pace_s=0.005)
        await floor.wait_until(lambda: floor.reached(60))
        since = await wipe(floor)
        recovery = Recovery(floor.store, pool, "a test")
        _kill_at(recovery, 2, postgres.kill, monkeypatch)
        with pytest.raises((psycopg.Error, *_groups())):
            await recovery.recover("a test")
        await asyncio.to_thread(postgres.start)
        again = Recovery(floor.store, pool, "a test")
        await floor.wait_until(lambda: _recovers(again))
        await ended_after_all(floor, archive)
        assert await done_again(floor, archive, floor.run_ids, since) == []
        await floor.is_right(await archive.events(floor.run_ids))


def _groups() -> tuple[type[BaseException], ...]:
    return (ExceptionGroup,)


def _kill_at(recovery: Recovery, runs: int, kill: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the server when so many runs have been rebuilt."""
    restore, done = recovery.rebuild.restore, 0

    async def restoring(*args: Any) -> bool:
        nonlocal done
        restored = await restore(*args)
        done += 1
        if done == runs:
            kill()
        return restored

    monkeypatch.setattr(recovery.rebuild, "restore", restoring)


async def _recovers(recovery: Recovery) -> bool:
    with contextlib.suppress(psycopg.Error, ExceptionGroup):
        await recovery.recover("a test")
        return True
    return False


async def test_redis_comes_back_older_than_postgres(
    fragile_floor: Floor, archive: Archive, valkey: EmbeddedValkey
) -> None:
    """Its AOF was cut short: the recorder sees it, and the runs are restored from Postgres."""
    floor = fragile_floor
    await floor.start(*KINDS, "recorder", pace_s=0.005)
    await floor.begin(course_ids(20))
    await floor.wait_until(lambda: floor.reached(60))
    await floor.wait_until(lambda: _all_known(archive, floor.run_ids))
    valkey.kill()
    _cut_short(valkey.data_dir, 0.5)
    await asyncio.to_thread(valkey.start)
    await floor.ended()
    await all_recorded(floor, archive)
    events = await archive.events(floor.run_ids)
    assert any(event.type == "run_recovered" for of_run in events.values() for event in of_run)
    for run_id, of_run in events.items():
        assert [event.seq for event in of_run] == list(range(1, len(of_run) + 1)), run_id
        assert await floor.verdict.fold_differs(run_id, of_run) == []


def _cut_short(folder: Path, share: float) -> None:
    """Take the last part of what Redis has written."""
    (log,) = folder.rglob("*.incr.aof")
    with log.open("r+b") as file:
        file.truncate(int(log.stat().st_size * (1 - share)))


async def test_postgres_is_restored_from_a_backup(
    floor: Floor, private_servers: PrivateServers, tmp_path: Path
) -> None:
    """It has lost its last events: the runs are restated by Redis, and their histories go on from there."""
    postgres = await asyncio.to_thread(private_servers.postgres)
    floor.processes.common["database"] = postgres.url
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=4, timeout=5, open=False) as pool:
        archive = Archive(History(pool))
        await archive.history.migrate()
        recorder, *_ = await floor.start("recorder", *KINDS, pace_s=0.01)
        await floor.begin(course_ids(12))
        await floor.wait_until(lambda: floor.reached(20))
        await floor.wait_until(lambda: _all_known(archive, floor.run_ids))
        await floor.wait_until(lambda: _has_something_to_lose(pool))
        await recorder.kill()
        async with pool.connection() as connection:  # as a backup of some moments ago would have it
            await connection.execute(
                "WITH cut AS (DELETE FROM execution_events WHERE seq > 3) "
                "UPDATE run_projection SET seq = least(seq, 3), ended_at = NULL, status = 'RUNNING'"
            )
        await recorder.start()
        await floor.ended()
        await Recovery(floor.store, pool, "a test").recover("of those that have ended no event tells")
        await floor.wait_until(lambda: _is_whole(pool))
        events = await archive.events(floor.run_ids)
        assert any(event.type == "run_restated" for of_run in events.values() for event in of_run)
        for run_id in floor.run_ids:
            state = await archive.history.events.state(run_id)
            assert state is not None
            assert (state.status, state.seq) == ("COMPLETED", events[run_id][-1].seq)


async def _has_something_to_lose(pool: AsyncConnectionPool[Any]) -> bool:
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT count(*) > 20 FROM execution_events WHERE seq > 3")
        row = await cursor.fetchone()
        return row == (True,)


async def _is_whole(pool: AsyncConnectionPool[Any]) -> bool:
    """Every run has ended as far as is recorded, and of none are events missing."""
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM run_projection WHERE ended_at IS NULL OR broken_at IS NOT NULL"
        )
        row = await cursor.fetchone()
        return row == (0,)
