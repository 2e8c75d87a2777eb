"""Runners that are killed, stopped, slow, or two on one engine: each step is done once, by who has the lease."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest

from orchestrator_api.model_rates import ModelRates
from orchestrator_api.models import models
from tests.faults import agents
from tests.faults.agents import begin, chain, is_right, leases, starts, states, stats
from tests.faults.conftest import PATIENT_MS, Floor
from tests.faults.processes import Process

MODELS = ("phi3", "gemma2:2b")
"""They do not fit together."""
OTHER = "qwen2.5:7b"
"""It fits beside neither."""
LARGE = "qwen2.5:14b"
SLOW = [{"model": "phi3", "work_s": 20.0}, {"model": OTHER, "work_s": 8.0}]
"""So that phi3 drains for longer than a lease lasts, and OTHER is at work for a while."""
LEASE_MS = 1_500
"""No shorter: on a busy machine a runner that is well comes too late now and then."""
ABOUT = {"memory": 7_400_000_000, "lease_ms": LEASE_MS, "idle_ms": 2_000}
LONG = {"lease_ms": 15_000, "idle_ms": PATIENT_MS}
"""Where nobody dies."""
FAST = {"speed": 20.0}
ENGINES: dict[str, dict[str, Any]] = {
    "loading": {"speed": 2.0, "script": [{"work_s": 0.3}]},
    "draining": {**FAST, "script": SLOW},
    "ready": {**FAST, "script": SLOW},
}
"""On which a model is seen in this state."""


async def engine(floor: Floor, **about: Any) -> Process:
    (started,) = await floor.start("engine", **{**FAST, **about})
    return started


async def runner(floor: Floor, url: str, **about: Any) -> Process:
    (started,) = await floor.start("runner", engine=url, **{**ABOUT, **about})
    return started


async def comes_to(floor: Floor, process: Process, moment: str) -> None:
    """Until a model on the runner's GPU is `loading`, `draining`, or `ready` and has tasks in hand."""

    async def is_there() -> bool:
        has_work = moment != "ready" or process.name in await starts(floor)
        return has_work and moment in (await states(floor, process)).values()

    await floor.wait_until(is_there)


async def one_at_work(floor: Floor, moment: str) -> tuple[Process, Process, list[str]]:
    """An engine, and the runner that has come to this moment there with these runs."""
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    driven = await engine(floor, **ENGINES[moment])
    driver = await runner(floor, driven.said)
    run_ids = await begin(floor, chain(*MODELS), 16)
    if moment == "draining":  # what is to come next waits already, so the last tasks of the first model are let end
        await comes_to(floor, driver, "ready")
        run_ids += await begin(floor, chain(MODELS[1]), 16, prefix="next")
    await comes_to(floor, driver, moment)
    return driven, driver, run_ids


async def says_that_it_waits(floor: Floor, process: Process, holder: Process) -> None:
    async def waits() -> bool:
        said = await agents.heartbeat(floor, process)
        return said.get("state") == "waiting" and said["reason"] == f"{holder.name} drives this engine"

    await floor.wait_until(waits)


async def holds_a_lease(floor: Floor, process: Process) -> bool:
    return process.name in await leases(floor)


def in_turn(names: Sequence[str]) -> list[str]:
    """Who worked, one after the other."""
    return [name for name, _ in groupby(names)]


@pytest.mark.parametrize("moment", ["loading", "draining", "ready"])
async def test_a_runner_is_killed(floor: Floor, moment: str) -> None:
    """Another GPU does its work, and a new runner drives the engine that it left with its models pinned."""
    left, dead, run_ids = await one_at_work(floor, moment)
    await dead.kill()
    assert await holds_a_lease(floor, dead)
    other = await runner(floor, (await engine(floor)).said)
    heir = await runner(floor, left.said)
    await floor.wait_until(lambda: holds_a_lease(floor, heir))
    assert not await holds_a_lease(floor, dead)
    before = (await stats(left))["loads"]
    run_ids += await begin(floor, chain(*MODELS, OTHER), 60, prefix="later")
    await is_right(floor, run_ids)
    worked = await starts(floor)
    assert set(worked) - {dead.name} == {other.name, heir.name}
    assert (await stats(left))["loads"] > before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_two_runners_on_one_engine(floor: Floor, number: signal.Signals) -> None:
    """The second says who has it, and takes it when that one has ended: at a stop, when its last task has."""
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    shared = await engine(floor, script=SLOW)
    run_ids = await begin(floor, chain(*MODELS), 16)
    first = await runner(floor, shared.said)
    await comes_to(floor, first, "ready")
    second = await runner(floor, shared.said.replace("127.0.0.1", "localhost"))
    await says_that_it_waits(floor, second, first)
    first.send(number)
    await floor.wait_until(lambda: holds_a_lease(floor, second))
    assert not await holds_a_lease(floor, first)
    if number == signal.SIGTERM:  # it has said goodbye, its last tasks being done
        assert not await agents.heartbeat(floor, first)
    await is_right(floor, run_ids)
    assert in_turn(await starts(floor)) == [first.name, second.name]


async def test_a_load_takes_longer_than_a_lease(floor: Floor) -> None:
    """The lease goes on: who waits for the engine waits."""
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    slow = await engine(floor, speed=0.5, script=[{"work_s": 0.01}])
    run_ids = await begin(floor, chain("phi3"), 4)
    first = await runner(floor, slow.said)
    await comes_to(floor, first, "loading")
    second = await runner(floor, slow.said)
    await says_that_it_waits(floor, second, first)
    await is_right(floor, run_ids)
    assert set(await starts(floor)) == {first.name}
    assert (await stats(slow))["loads"] == 1
    await says_that_it_waits(floor, second, first)


@pytest.mark.parametrize("moment", ["loading", "draining", "ready"])
async def test_a_runner_stands_still_and_its_engine_is_taken(floor: Floor, moment: str) -> None:
    """When it wakes, it begins nothing more there, and what the other has loaded stays."""
    shared, zombie, run_ids = await one_at_work(floor, moment)
    if moment != "loading":  # no request is just being written: nothing can call that one back
        await floor.wait_until(lambda: is_asked(shared, 8))
    zombie.send(signal.SIGSTOP)
    heir = await runner(floor, shared.said)
    await floor.wait_until(lambda: holds_a_lease(floor, heir))
    await floor.wait_until(lambda: agents.ended(floor, run_ids))
    run_ids += await begin(floor, chain(OTHER), 24, prefix="later")
    await comes_to(floor, heir, "ready")
    await floor.wait_until(lambda: has_loaded(floor, heir, OTHER))
    begun_before = (await starts(floor)).count(zombie.name)
    zombie.send(signal.SIGCONT)
    await says_that_it_waits(floor, zombie, heir)
    await is_right(floor, run_ids)
    assert (await starts(floor)).count(zombie.name) == begun_before
    assert (await stats(shared))["loads_by_model"][OTHER] == 1
    assert "not in the engine's memory" not in heir.log.read_text()


async def is_asked(engine: Process, requests: int) -> bool:
    return (await stats(engine))["running"] == requests


async def has_loaded(floor: Floor, process: Process, model: str) -> bool:
    return (await states(floor, process)).get(model) == "ready"


async def test_a_runner_stands_still_and_its_models_are_taken(floor: Floor) -> None:
    """Another GPU does its work meanwhile. When it wakes, its engine is still its own, and it goes on."""
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    zombie = await runner(floor, (await engine(floor, script=SLOW)).said)
    run_ids = await begin(floor, chain(*MODELS), 16)
    await comes_to(floor, zombie, "ready")
    zombie.send(signal.SIGSTOP)
    other = await runner(floor, (await engine(floor, script=SLOW)).said)
    await floor.wait_until(lambda: agents.ended(floor, run_ids))
    assert not await holds_a_lease(floor, zombie)
    zombie.send(signal.SIGCONT)
    await floor.wait_until(lambda: holds_a_lease(floor, zombie))
    begun = len(await starts(floor))
    run_ids += await begin(floor, chain("phi3"), 24, prefix="later")
    await is_right(floor, run_ids)
    assert set((await starts(floor))[begun:]) == {zombie.name, other.name}
    assert await floor.verdict.counters() == {"over": 8}, "what it had in hand was done by the other"


async def test_clocks_that_differ_by_hours(floor: Floor) -> None:
    await floor.start("coordinator", idle_ms=PATIENT_MS, clock_s=86_400.0)
    engines = [await engine(floor), await engine(floor)]
    early = await runner(floor, engines[0].said, **LONG, clock_s=-7_200.0)
    late = await runner(floor, engines[1].said, **LONG, clock_s=10_800.0)
    await floor.wait_until(lambda: holds_a_lease(floor, early))
    await floor.wait_until(lambda: holds_a_lease(floor, late))
    waiting = await runner(floor, engines[0].said, **LONG, clock_s=40_000.0)
    also = await runner(floor, engines[1].said, **LONG, clock_s=-40_000.0)
    run_ids = await begin(floor, chain(*MODELS), 60)
    await is_right(floor, run_ids)
    assert set(await starts(floor)) == {early.name, late.name}
    await says_that_it_waits(floor, waiting, early)
    await says_that_it_waits(floor, also, late)
    loads = [(await stats(one))["loads"] for one in engines]
    assert sum(loads) <= 8, loads


async def test_a_backlog_that_is_lost_is_found_on_the_streams(floor: Floor) -> None:
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    run_ids = await begin(floor, chain(*MODELS), 24)
    lost = (floor.store.keys.backlog, floor.store.keys.backlog_since)
    assert await floor.redis.delete(*lost) == 2
    await runner(floor, (await engine(floor)).said)
    await floor.wait_until(lambda: agents.completed(floor, 24 + 8))
    await floor.redis.delete(*lost)
    await is_right(floor, run_ids)


async def test_a_model_larger_than_any_gpu(floor: Floor) -> None:
    """Nobody switches to it; everybody says why, with the numbers; who would not wait for ever said so."""
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    sizes = (7_400_000_000, 8_000_000_000)
    engines = [await engine(floor) for _ in sizes]
    runners = [
        await runner(floor, one.said, **LONG | {"memory": size}) for one, size in zip(engines, sizes, strict=True)
    ]
    waiting = await begin(floor, chain(LARGE), 8, prefix="waiting")
    hasty = await begin(floor, chain(LARGE, queue_timeout_ms=1_000), 8, prefix="hasty")
    others = await begin(floor, chain(*MODELS), 24)
    await floor.wait_until(lambda: agents.ended(floor, [*others, *hasty]))
    by_run = await floor.verdict.events()
    assert {by_run[run_id][-1].type for run_id in others} == {"run_completed"}
    failures = [event for run_id in hasty for event in by_run[run_id] if event.type == "node_failed"]
    assert [failure.data["error"]["class"] for failure in failures] == ["queue_timeout"] * len(hasty)
    assert not any(event.type in ("task_started", "node_failed") for run_id in waiting for event in by_run[run_id])
    shown = next(one for one in await models(floor.store, ModelRates()) if one["model"] == LARGE)
    assert (shown["queued"], shown["holders"]) == (len(waiting), [])
    assert {held["runner"]: held["reason"] for held in shown["breakers"]} == {
        one.name: f"too large: it needs 9.8 GB with one slot, this GPU has {size / 1e9:.1f} GB"
        for one, size in zip(runners, sizes, strict=True)
    }
    for one in engines:
        assert LARGE not in (await stats(one))["loads_by_model"]
