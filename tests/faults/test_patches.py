"""Runs are patched all the time, and whatever dies, nobody can tell it from the runs: what they give is what it was."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest

from pavane.embedded.valkey import EmbeddedValkey
from tests.faults.conftest import Floor
from tests.faults.courses import MASS_ITEMS, course_ids, mass_ids, tour_ids
from tests.faults.editor import Editor
from tests.faults.points import ADOPTION, PATCHER

KINDS = ("coordinator", "coordinator", "runner", "runner")


async def _patches(floor: Floor) -> int:
    """How many were made."""
    return sum([e.type == "run_patched" for events in (await floor.verdict.events()).values() for e in events])


async def _is_adopting(floor: Floor) -> bool:
    return bool(await floor.redis.keys("adopting:*"))


async def _have_followed(floor: Floor) -> bool:
    return not await _is_adopting(floor)


async def _have_begun(floor: Floor, items: int) -> bool:
    return sum([await floor.redis.scard(key) for key in await floor.redis.keys("items:*")]) == items


async def test_patches_side_by_side_change_no_outcome(floor: Floor) -> None:
    floor.people.append(Editor(floor.store, random.Random(1), at_once=4))
    await floor.start(*KINDS)
    await floor.begin(course_ids(10) + tour_ids(4) + mass_ids(2))
    await floor.ended()
    await floor.is_right()
    assert await _patches(floor) > 10


@pytest.mark.parametrize("seed", range(2))
async def test_patches_at_random_while_processes_are_killed(floor: Floor, seed: int) -> None:
    rng = random.Random(seed)
    floor.people.append(Editor(floor.store, rng))
    at_work = await floor.start(*KINDS, pace_s=0.002)
    await floor.begin(course_ids(10) + tour_ids(3) + mass_ids(2))
    await floor.kill_at_random(at_work, rng, times=6, most=100)
    await floor.ended()
    await floor.is_right()
    assert await _patches(floor) > 5


@pytest.mark.parametrize("point", PATCHER)
async def test_who_patches_dies(floor: Floor, point: str) -> None:
    await floor.start("coordinator", "runner", pace_s=0.002)
    dying, _ = await asyncio.gather(floor.processes.start("patcher", at=point, hits=3), floor.begin(mass_ids(2)))
    await floor.dies(dying)
    await floor.ended()
    await floor.is_right()
    assert await _patches(floor) >= (3 if point == "patched" else 2)


@pytest.mark.parametrize("point", ADOPTION)
async def test_a_runner_dies_as_items_follow(floor: Floor, point: str) -> None:
    """It was the only one: until the next one comes only slices follow."""
    await floor.start("coordinator", pace_s=0.002)
    dying, _ = await asyncio.gather(floor.processes.start("runner", at=point, hits=2), floor.begin(mass_ids(2)))
    await floor.wait_until(lambda: floor.reached(10))
    floor.people.append(Editor(floor.store, random.Random(point)))
    await floor.dies(dying)
    await floor.start("runner")
    await floor.ended()
    await floor.is_right()


@pytest.mark.parametrize("point", ADOPTION)
async def test_a_coordinator_dies_as_items_follow(floor: Floor, point: str) -> None:
    """Nobody executes them meanwhile: only the slices that the next coordinator takes let them follow."""
    dying, _ = await asyncio.gather(floor.processes.start("coordinator", at=point), floor.begin(mass_ids(2)))
    await floor.wait_until(lambda: _have_begun(floor, 2 * MASS_ITEMS))
    await Editor(floor.store, random.Random(point)).attend()
    await floor.dies(dying)
    assert await _is_adopting(floor)
    await floor.start("coordinator")
    await floor.wait_until(lambda: _have_followed(floor))
    await floor.start("runner")
    await floor.ended()
    await floor.is_right()


async def test_a_runner_stands_still_across_a_patch(floor: Floor) -> None:
    """What it holds is taken over under the new revision; what it says when it wakes up is fenced, or a duplicate."""
    _, sleeper = await floor.start("coordinator", "runner", pace_s=0.005)
    await floor.begin(course_ids(8) + mass_ids(1))
    await floor.wait_until(lambda: floor.reached(10))
    sleeper.send(signal.SIGSTOP)
    editor = Editor(floor.store, random.Random(3), at_once=100)
    await editor.attend()
    assert editor.made > 0
    done = await floor.progress()
    await floor.start("runner")
    await floor.wait_until(lambda: floor.reached(done + 20))
    sleeper.send(signal.SIGCONT)
    await floor.ended()
    await floor.is_right()


async def test_redis_dies_while_items_follow(fragile_floor: Floor, valkey: EmbeddedValkey) -> None:
    floor = fragile_floor
    await floor.start(*KINDS, pace_s=0.002)
    await floor.begin(mass_ids(2))
    await floor.wait_until(lambda: floor.reached(30))
    editor = Editor(floor.store, random.Random(5))
    while not await _is_adopting(floor):
        await editor.attend()
    valkey.kill()
    valkey.start()
    await floor.redis.connection_pool.disconnect()
    await floor.ended()
    await floor.is_right()
