"""A process that dies at a named point: another one goes on, and nobody can tell from the runs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from tests.faults.conftest import PATIENT_MS, Archive, Floor
from tests.faults.courses import RETENTION_MS, course_ids
from tests.faults.points import ADMISSION, COORDINATOR, RECORDER, RUNNER
from tests.faults.verdict import KEYS, judged

REPEATS = {"duplicate", "fenced"}
"""Counters that may rise when a process dies: what was signalled or executed twice changed nothing."""


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


@pytest.mark.parametrize("point", RUNNER)
async def test_a_runner_dies(floor: Floor, point: str) -> None:
    await _dies_and_another_goes_on(floor, floor.start("coordinator"), "runner", point)


async def _dies_and_another_goes_on(floor: Floor, healthy: Coroutine[Any, Any, Any], kind: str, point: str) -> None:
    _, (dying,) = await asyncio.gather(healthy, floor.start(kind, at=point, hits=2))
    await floor.begin()
    assert await dying.died() == -signal.SIGKILL
    await floor.start(kind)
    await floor.ended()
    await floor.is_right()
    assert set(await floor.verdict.counters()) <= REPEATS


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
