"""Engines that fail during a batch: streams are held, nothing fails, and all is completed once, when they are back."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from tests.faults.agents import begin, chain, completed, ended, stats
from tests.faults.conftest import PATIENT_MS, Floor
from tests.faults.processes import Process
from tests.faults.verdict import KEYS

MODELS = ("phi3", "gemma2:2b")
RUNS = 40


async def at_work(floor: Floor, **engine_options: Any) -> tuple[Process, Process]:
    """An engine that keeps its port, and a runner that drives it; a coordinator too."""
    (engine,) = await floor.start("engine", **engine_options)
    engine.options = replace(engine.options, port=int(engine.said.rpartition(":")[2]))
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    (runner,) = await floor.start("runner", engine=engine.said, idle_ms=PATIENT_MS, memory=7_400_000_000)
    return engine, runner


async def restart(engine: Process, **changed: Any) -> None:
    await engine.kill()
    engine.options = replace(engine.options, **changed)
    await engine.start()


async def is_right(floor: Floor, run_ids: Sequence[str]) -> None:
    """All completed, every step of them once and at its first attempt, and nothing is held any more."""
    await floor.wait_until(lambda: ended(floor, run_ids))
    events = await floor.verdict.events()
    assert {run_id: events[run_id][-1].type for run_id in run_ids} == dict.fromkeys(run_ids, "run_completed")
    counts = Counter((event.run_id, event.type, event.node_id) for run_id in run_ids for event in events[run_id])
    assert set(counts.values()) == {1}
    assert not {kind for _, kind, _ in counts} & {"task_retried", "node_failed"}
    assert await floor.verdict.letters() == []
    assert await floor.wait_until(lambda: _is_not_held(floor))


async def test_an_engine_is_killed_while_it_answers_and_comes_back(floor: Floor) -> None:
    """What the engine did not answer is asked again, and costs nothing."""
    engine, _ = await at_work(floor)
    run_ids = await begin(floor, chain(*MODELS), RUNS)
    for done in (RUNS // 4, RUNS + RUNS // 4):
        await floor.wait_until(lambda done=done: completed(floor, done))
        await engine.kill()
        (held,) = {shown["reason"] for shown in (await floor.wait_until(lambda: _held(floor))).values()}
        assert held
        await engine.start()
    await is_right(floor, run_ids)
    assert await floor.verdict.left_over() == []


async def test_an_engine_that_hangs_is_noticed_and_asked_again(floor: Floor) -> None:
    """Its tasks have ten minutes each: nobody waits for that."""
    engine, _ = await at_work(floor)
    run_ids = await begin(floor, chain(*MODELS), RUNS)
    await floor.wait_until(lambda: completed(floor, RUNS // 4))
    engine.send(signal.SIGSTOP)
    held = await floor.wait_until(lambda: _held(floor))
    assert {shown["reason"] for shown in held.values()} == {f"{engine.said} does not answer"}
    engine.send(signal.SIGCONT)
    await is_right(floor, run_ids)


async def test_503s_cost_no_attempt(floor: Floor) -> None:
    busy = [{"error": {"status": 503, "message": "server busy"}}] * 20
    engine, _ = await at_work(floor, script=[{"model": "phi3", "sequence": [*busy, {}]}])
    await is_right(floor, await begin(floor, chain(*MODELS), RUNS))
    assert (await stats(engine))["refused"] == 20


async def test_a_missing_model_is_reported_once_and_waited_for(floor: Floor) -> None:
    """Others go on. Who would not wait said so: queue_timeout_ms."""
    engine, runner = await at_work(floor, models=("gemma2:2b",))
    waiting = await begin(floor, chain("phi3"), 5, prefix="waiting")
    hasty = await begin(floor, chain("phi3", queue_timeout_ms=1_000), 5, prefix="hasty")
    others = await begin(floor, chain("gemma2:2b"), RUNS)
    held = await floor.wait_until(lambda: _held(floor))
    assert held["phi3"]["reason"] == f"model 'phi3' is not on the engine at {engine.said}"
    await floor.wait_until(lambda: ended(floor, [*others, *hasty]))
    events = await floor.verdict.events()
    assert {events[run_id][-1].type for run_id in others} == {"run_completed"}
    failures = [next(event for event in events[run_id] if event.type == "node_failed") for run_id in hasty]
    assert {failure.data["error"]["class"] for failure in failures} == {"queue_timeout"}
    assert not any(event.type == "node_failed" for run_id in waiting for event in events[run_id])
    assert runner.log.read_text().count("model 'phi3' is not on the engine") == 1
    await restart(engine, models=MODELS)
    await floor.wait_until(lambda: ended(floor, waiting))
    events = await floor.verdict.events()
    assert {events[run_id][-1].type for run_id in waiting} == {"run_completed"}
    assert await floor.wait_until(lambda: _is_not_held(floor))


async def test_an_engine_comes_back_with_other_models(floor: Floor) -> None:
    engine, _ = await at_work(floor)
    run_ids = await begin(floor, chain(*MODELS), RUNS)
    await floor.wait_until(lambda: completed(floor, RUNS // 4))
    await restart(engine, models=("gemma2:2b",))
    await floor.wait_until(lambda: _is_held_alone(floor, "phi3"))
    await restart(engine, models=MODELS)
    await is_right(floor, run_ids)


async def test_a_model_larger_than_the_gpu_is_refused_with_the_numbers(floor: Floor) -> None:
    engine, runner = await at_work(floor)
    await begin(floor, chain("qwen2.5:14b"), 5, prefix="large")
    held = await floor.wait_until(lambda: _held(floor))
    assert held["qwen2.5:14b"]["reason"] == "too large: it needs 9.8 GB with one slot, this GPU has 7.4 GB"
    for number in range(5):  # it is looked at again meanwhile
        others = await begin(floor, chain(*MODELS), 3, prefix=f"other-{number}")
        await floor.wait_until(lambda others=others: ended(floor, others))
    assert (await _held(floor))["qwen2.5:14b"] == held["qwen2.5:14b"]
    assert runner.log.read_text().count("too large") == 1
    assert set((await stats(engine))["loads_by_model"]) <= set(MODELS)


async def _held(floor: Floor) -> dict[str, Any]:
    """By model, what its hash says of the breaker that is open."""
    shown = {}
    for model in (*MODELS, "qwen2.5:14b"):
        for field, text in (await floor.redis.hgetall(KEYS.model(model))).items():
            if field.startswith(b"breaker|"):
                shown[model] = dict(orjson.loads(text))
                assert shown[model]["state"] == "open"
    return shown


async def _is_not_held(floor: Floor) -> bool:
    return not await _held(floor)


async def _is_held_alone(floor: Floor, model: str) -> bool:
    held = await _held(floor)
    return set(held) == {model} and "is not on the engine" in held[model]["reason"]
