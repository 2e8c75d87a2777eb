"""A process that only stood still comes back: what it did meanwhile was given up, and changes nothing."""

from __future__ import annotations

import signal

import orjson

from tests.faults.conftest import PATIENT_MS, Floor
from tests.faults.courses import course_ids, mass_ids, tour_ids
from tests.faults.verdict import KEYS


async def running(floor: Floor, runner: str, attempt: int = 1) -> set[str]:
    """Tokens that a runner executes, in this attempt at least."""
    found = set()
    for run_id in floor.run_ids:
        for token, text in (await floor.redis.hgetall(KEYS.tokens(run_id))).items():
            record = orjson.loads(text)
            if record.get("runner") == runner and record["state"] == "running" and record["attempt"] >= attempt:
                found.add(token.decode())
    return found


async def test_a_runner_that_stood_still_is_fenced(floor: Floor) -> None:
    await floor.begin(course_ids(4))
    zombie, _ = await floor.start("runner", "coordinator", pace_s=0.2)
    await floor.wait_until(lambda: running(floor, zombie.name))
    zombie.send(signal.SIGSTOP)
    held = await running(floor, zombie.name)
    (other,) = await floor.start("runner", pace_s=0.2)
    await floor.wait_until(lambda: running(floor, other.name, attempt=2))
    zombie.send(signal.SIGCONT)
    await floor.ended()
    await floor.is_right()
    counters = await floor.verdict.counters()
    assert held and counters["fenced"] == len(held), (held, counters)


async def test_a_coordinator_that_stood_still_changes_nothing(floor: Floor) -> None:
    """What it had popped is signalled again and routed by another; it goes on with what it holds, too late."""
    await floor.begin(course_ids(10) + mass_ids(1) + tour_ids(2))
    await floor.start("runner", pace_s=0.003, idle_ms=PATIENT_MS)
    zombie, other = await floor.start("coordinator", "coordinator")
    await floor.wait_until(lambda: floor.reached(20))
    zombie.send(signal.SIGSTOP)
    await floor.wait_until(lambda: floor.reached(200))
    zombie.send(signal.SIGCONT)
    other.send(signal.SIGSTOP)
    await floor.ended()
    other.send(signal.SIGCONT)
    await floor.is_right()
    assert set(await floor.verdict.counters()) <= {"duplicate", "over"}
