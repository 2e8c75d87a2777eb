"""Redis and Postgres go away while runs are at work: nothing acknowledged is lost, and everything ends."""

from __future__ import annotations

import asyncio

from psycopg_pool import AsyncConnectionPool

from history.history import History
from pavane.embedded.valkey import EmbeddedValkey
from tests.faults.conftest import Archive, Floor
from tests.faults.courses import course_ids, mass_ids, tour_ids
from tests.servers import PrivateServers

KINDS = ("coordinator", "coordinator", "runner", "runner")


async def test_redis_is_killed_and_comes_back(fragile_floor: Floor, valkey: EmbeddedValkey) -> None:
    """What a killed Redis has answered lies in its AOF: no run is lost, no step is undone."""
    floor = fragile_floor
    await floor.start(*KINDS, pace_s=0.005)
    for executions, fresh in [(30, course_ids(40)[:20]), (150, course_ids(40)[20:])]:
        await floor.begin(fresh)
        await floor.wait_until(lambda n=executions: floor.reached(n))
        before = await floor.verdict.events()
        valkey.kill()
        await asyncio.to_thread(valkey.start)
        after = await floor.verdict.events()
        assert all(after[run_id][: len(events)] == events for run_id, events in before.items())
    await floor.ended()
    await floor.is_right()


async def test_redis_is_killed_in_the_middle_of_maps(fragile_floor: Floor, valkey: EmbeddedValkey) -> None:
    floor = fragile_floor
    await floor.start(*KINDS)
    await floor.begin(mass_ids(2) + tour_ids(4))
    for executions in (60, 300, 600):
        await floor.wait_until(lambda n=executions: floor.reached(n))
        valkey.kill()
        await asyncio.to_thread(valkey.start)
    await floor.ended()
    await floor.is_right()


async def test_redis_is_killed_while_a_batch_is_admitted_and_recorded(
    fragile_floor: Floor, archive: Archive, valkey: EmbeddedValkey
) -> None:
    floor = fragile_floor
    floor.run_ids += course_ids(40)
    await archive.create_batch(floor.run_ids)
    await floor.start(*KINDS, "recorder", pace_s=0.005)
    for executions in (40, 120, 200):
        await floor.wait_until(lambda n=executions: floor.reached(n))
        valkey.kill()
        await asyncio.to_thread(valkey.start)
    await floor.ended()
    await floor.wait_until(lambda: archive.has_ended(floor.run_ids))
    await floor.is_right(await archive.events(floor.run_ids))


async def test_connections_are_cut(floor: Floor) -> None:
    """Answers are lost on the way: of claims, of outcomes, of pops, of advances."""
    await floor.start(*KINDS, pace_s=0.002)
    await floor.begin(course_ids(40))
    for cut in range(1, 15):
        await floor.wait_until(lambda cut=cut: floor.reached(cut * 20))
        await floor.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await floor.ended()
    await floor.is_right()


async def test_postgres_is_away_for_a_while(floor: Floor, private_servers: PrivateServers) -> None:
    """Runs go on to their end without it; then everything is recorded, once and in order."""
    postgres = await asyncio.to_thread(private_servers.postgres)
    floor.processes.common["database"] = postgres.url
    async with AsyncConnectionPool(postgres.url, min_size=1, max_size=2, open=False) as pool:
        archive = Archive(History(pool))
        await archive.history.migrate()
        await floor.start(*KINDS, "recorder", pace_s=0.005)
        await floor.begin()
        await floor.wait_until(lambda: _recorded(archive, floor))
        postgres.kill()
        await floor.ended()
        assert await floor.redis.xlen("events") > 0
        await asyncio.to_thread(postgres.start)
        await floor.wait_until(lambda: _all_recorded(archive, floor))
        await floor.is_right(await archive.events(floor.run_ids))


async def _recorded(archive: Archive, floor: Floor) -> bool:
    return any((await archive.events(floor.run_ids)).values())


async def _all_recorded(archive: Archive, floor: Floor) -> bool:
    try:
        return await archive.has_ended(floor.run_ids)
    except archive.unavailable:  # the pool still holds connections to the server that was killed
        return False
