"""Any process dies at any moment, and is started again."""

from __future__ import annotations

import random
import signal

import pytest

from tests.faults.conftest import PATIENT_MS, Archive, Floor
from tests.faults.courses import case_ids, course_ids, mass_ids, tour_ids
from tests.faults.people import Meddler

KINDS = ("coordinator", "coordinator", "runner", "runner")


@pytest.mark.parametrize("seed", range(2))
async def test_random_processes_are_killed_at_random_moments(floor: Floor, archive: Archive, seed: int) -> None:
    rng = random.Random(seed)
    at_work = await floor.start(*KINDS, "recorder", pace_s=0.002)
    await archive.create_batch(course_ids(30))
    floor.run_ids += course_ids(30)
    await floor.begin(tour_ids(3))
    await floor.kill_at_random(at_work, rng, times=8, most=40)
    await floor.ended()
    await floor.wait_until(lambda: archive.has_ended(floor.run_ids))
    await floor.is_right(await archive.events(floor.run_ids))


@pytest.mark.parametrize("seed", range(2))
async def test_maps_go_on_whatever_dies_fails_or_is_paused(floor: Floor, seed: int) -> None:
    """Hundreds of items; runs fail and are retried at once, and are paused and resumed, while processes are killed."""
    rng = random.Random(seed)
    run_ids = mass_ids(4) + tour_ids(4)
    floor.people.append(Meddler(floor.store, run_ids, rng, pauses=15))
    at_work = await floor.start(*KINDS)
    await floor.begin(run_ids)
    await floor.kill_at_random(at_work, rng, times=8, most=250)
    await floor.ended()
    await floor.is_right()


@pytest.mark.parametrize("seed", range(2))
async def test_runs_of_a_batch_are_cancelled_at_any_moment(floor: Floor, seed: int) -> None:
    """What they had started is gone: items, tasks, children, counts; the other runs see nothing of it."""
    rng = random.Random(seed)
    run_ids = [*tour_ids(6), *mass_ids(3), *course_ids(10)]
    doomed = rng.sample(run_ids, 8)
    floor.people.append(Meddler(floor.store, run_ids, rng, pauses=8, doomed=doomed))
    at_work = await floor.start(*KINDS)
    await floor.begin(run_ids)
    await floor.kill_at_random(at_work, rng, times=3, most=250)
    await floor.ended()
    statuses = await floor.verdict.statuses()
    assert set(statuses) <= {"COMPLETED", "CANCELLED"} and 0 < statuses["CANCELLED"] <= len(doomed)
    await floor.is_right(statuses=statuses)


async def test_side_by_side_nothing_is_done_twice(floor: Floor) -> None:
    """Two coordinators (with timers and supervisors) and two runners, and nobody dies: no step is even tried twice."""
    await floor.start(*KINDS, idle_ms=PATIENT_MS)
    await floor.begin(course_ids(60))
    await floor.ended()
    await floor.is_right()
    assert await floor.verdict.counters() == {}
    assert await floor.processes.stop() == [0] * len(KINDS)


async def test_every_process_is_replaced_during_the_work(floor: Floor) -> None:
    """SIGTERM: each finishes what it holds, hands back the rest and exits with 0; nothing is done twice."""
    replaced = await floor.start(*KINDS, idle_ms=PATIENT_MS, pace_s=0.005)
    await floor.begin(course_ids(40))
    for number, process in enumerate(replaced, 1):
        await floor.wait_until(lambda number=number: floor.reached(number * 40))
        await floor.start(process.options.kind, idle_ms=PATIENT_MS, pace_s=0.005)
        process.send(signal.SIGTERM)
        assert await process.died() == 0
    await floor.ended()
    await floor.is_right()
    assert await floor.verdict.counters() == {}


async def test_random_workflows_in_real_processes(floor: Floor) -> None:
    """As the reference interpreter runs them: the same executions, outputs, passes and status."""
    await floor.start(*KINDS, idle_ms=PATIENT_MS)
    cases = case_ids(60)
    for at in range(0, len(cases), 20):
        await floor.begin(cases[at : at + 20])
        await floor.wait_until(floor.progress)
    await floor.ended()
    statuses = await floor.verdict.statuses()
    assert set(statuses) <= {"COMPLETED", "FAILED"} and statuses["COMPLETED"] > statuses["FAILED"] > 0
    await floor.is_right(statuses=statuses)


async def test_random_workflows_while_runners_die(floor: Floor) -> None:
    runners = await floor.start("coordinator", "runner", "runner")
    await floor.begin(case_ids(30))
    for _ in range(3):
        goal = await floor.progress() + 20
        await floor.wait_until(lambda goal=goal: floor.reached(goal))
        await runners[1].kill()
        await runners[1].start()
    await floor.ended()
    await floor.is_right(statuses=await floor.verdict.statuses())
