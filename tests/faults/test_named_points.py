"""A process that dies at a named point: another one goes on, and nobody can tell from the runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from tests.faults.conftest import PATIENT_MS, Archive, Floor
from tests.faults.courses import RETENTION_MS, course_ids, mass_ids, tour_ids
from tests.faults.people import BY
from tests.faults.points import ADMISSION, COORDINATOR, OPENINGS, RECORDER, RUNNER
from tests.faults.verdict import KEYS, judged

REPEATS = {"duplicate", "fenced"}
"""Counters that may rise when a process dies: what was signalled or executed twice changed nothing."""
UNPARKED_AT_ONCE = 200
SLICES_HIT = [("sweeping", 2), ("swept", 6), ("unparking", 2), ("unparked", 1)]
"""Four or five slices are held, then as many restored."""


async def test_the_course_goes_through_everything(floor: Floor) -> None:
    """Without a fault nothing is repeated, and the runs take all of the ways there are."""
    await floor.start("coordinator", "runner", idle_ms=PATIENT_MS)
    await floor.begin()
    await floor.ended()
    await floor.is_right()
    assert await floor.verdict.counters() == {}
    events = [event for of_run in (await floor.verdict.events()).values() for event in of_run]
    assert {event.type for event in events} >= {"task_retried", "task_queued", "node_failed"}
    assert {max(event.data.get("passes", {}).values(), default=0) for event in events} >= {1, 2, 3}


@pytest.mark.parametrize("point", COORDINATOR)
async def test_a_coordinator_dies(floor: Floor, point: str) -> None:
    """The runner is patient: only the next coordinator's supervisor and timers find what was in its hands."""
    await _dies_and_another_goes_on(floor, floor.start("runner", idle_ms=PATIENT_MS), "coordinator", point)


async def test_the_tour_goes_through_everything(floor: Floor) -> None:
    await floor.start("coordinator", "runner", idle_ms=PATIENT_MS)
    await floor.begin(tour_ids(4))
    await floor.ended()
    await floor.is_right()
    # What came for items whose map had failed meanwhile, and for a child that ended as its parent began to wait for it.
    assert set(await floor.verdict.counters()) <= {"over", "duplicate"}
    by_run = await floor.verdict.events()
    types = {event.type for events in by_run.values() for event in events}
    assert types >= {"map_started", "items_started", "item_completed", "node_opened", "node_answered", "task_retried"}
    assert len(by_run) > 4 + 4  # children have events of their own


@pytest.mark.parametrize("point", OPENINGS)
async def test_a_coordinator_dies_on_tour(floor: Floor, point: str) -> None:
    healthy = floor.start("runner", idle_ms=PATIENT_MS)
    await _dies_and_another_goes_on(floor, healthy, "coordinator", point, tour_ids(3))


@pytest.mark.parametrize(("point", "hits"), SLICES_HIT)
async def test_a_coordinator_dies_between_two_slices(floor: Floor, point: str, hits: int) -> None:
    """A run with hundreds of items is paused, resumed, fails, is held, is retried and restored."""
    floor.repairer.patient = True
    _, (dying,) = await asyncio.gather(
        floor.start("runner", pace_s=0.01), floor.start("coordinator", at=point, hits=hits)
    )
    await floor.begin(mass_ids(2))
    await floor.wait_until(lambda: floor.reached(20))
    for run_id in floor.run_ids:
        await floor.store.pause_run(run_id, BY)
    await floor.wait_until(lambda: _much_is_parked(floor))
    for run_id in floor.run_ids:
        await floor.store.resume_run(run_id, BY)
    await floor.dies(dying)
    await floor.start("coordinator")
    await floor.ended()
    await floor.is_right()


async def _much_is_parked(floor: Floor) -> bool:
    """More than a slice of the run that does not fail."""
    return bool(await floor.redis.llen(KEYS.parked("mass-0")) > UNPARKED_AT_ONCE)


@pytest.mark.parametrize("point", RUNNER)
async def test_a_runner_dies(floor: Floor, point: str) -> None:
    await _dies_and_another_goes_on(floor, floor.start("coordinator"), "runner", point)


async def _dies_and_another_goes_on(
    floor: Floor, healthy: Coroutine[Any, Any, Any], kind: str, point: str, tours: Sequence[str] = ()
) -> None:
    _, (dying,) = await asyncio.gather(healthy, floor.start(kind, at=point, hits=2))
    await floor.begin(tours)
    await floor.dies(dying)
    await floor.start(kind)
    await floor.ended()
    await floor.is_right()
    assert set(await floor.verdict.counters()) <= (REPEATS | {"over"} if tours else REPEATS)


@pytest.mark.parametrize("point", ADMISSION)
async def test_an_admission_dies(floor: Floor, archive: Archive, point: str) -> None:
    """Runs that were started and not marked in Postgres are not started twice."""
    floor.run_ids += course_ids(20)
    await archive.create_batch(floor.run_ids)
    _, dying = await floor.start("runner", "coordinator", at=point, hits=2)
    assert await dying.died() == -signal.SIGKILL
    await floor.start("coordinator")
    await floor.ended()
    await floor.is_right()


@pytest.mark.parametrize("point", RECORDER)
async def test_a_recorder_dies(floor: Floor, archive: Archive, point: str) -> None:
    """Every event is recorded once, in order; the batch that Postgres counts is over."""
    floor.run_ids += course_ids(20)
    await archive.create_batch(floor.run_ids)
    _, _, dying = await floor.start("runner", "coordinator", "recorder", at=point, hits=2)
    assert await dying.died() == -signal.SIGKILL
    await floor.start("recorder")
    await floor.ended()
    await floor.wait_until(lambda: archive.has_ended(floor.run_ids))
    await floor.is_right(await archive.events(floor.run_ids))
    assert await archive.outputs(floor.run_ids) == {run_id: judged(run_id).output for run_id in floor.run_ids}
    batch = await archive.history.batches.get("batch-1")
    assert batch and (batch["status"], batch["done"]) == ("COMPLETED", 20)


async def test_a_recorder_dies_before_it_has_let_the_runs_go(floor: Floor, archive: Archive) -> None:
    """The next one finds them, although nothing is left to record: their keys go after their retention."""
    await floor.start("runner", "coordinator")
    await floor.begin()
    await floor.ended()
    (dying,) = await floor.start("recorder", at="recorded")
    assert await dying.died() == -signal.SIGKILL
    assert not await _retired(floor)
    await floor.start("recorder")
    await floor.wait_until(lambda: _retired(floor))
    await floor.is_right(await archive.events(floor.run_ids))


async def _retired(floor: Floor) -> bool:
    return all([await floor.redis.pttl(KEYS.run(run_id)) <= RETENTION_MS for run_id in floor.run_ids])
