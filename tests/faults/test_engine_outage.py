"""An engine dies during a batch: its streams are held, nothing fails, and everything is completed when it is back."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import orjson

from schemas.compiler.compiler import compile_workflow
from schemas.submission import make_start
from tests.faults.conftest import PATIENT_MS, Floor
from tests.faults.verdict import KEYS

MODELS = ("phi3", "gemma2:2b")
WORKFLOW: dict[str, Any] = {
    "id": "agents",
    "nodes": [
        {"id": name, "type": "agent", "config": {"model": model, "prompt": f"{{{{ {value} }}}}: go on"},
         "retry": {"max_attempts": 1}}
        for name, model, value in [("first", MODELS[0], "input.n"), ("second", MODELS[1], "output.text")]
    ],
    "edges": [{"from": "first", "to": "second"}],
}  # fmt: skip
RUNS = 40


async def test_an_engine_is_killed_and_comes_back(floor: Floor) -> None:
    """No task has a second attempt to lose: what the engine answered not is asked again, and costs nothing."""
    (engine,) = await floor.start("engine")
    await floor.start("coordinator", idle_ms=PATIENT_MS)
    await floor.start("runner", engine=engine.said, idle_ms=PATIENT_MS)
    ir = compile_workflow(WORKFLOW).ir
    run_ids = [f"agent-{number}" for number in range(RUNS)]
    starts = [make_start(run_id, ir, {"n": run_id}, request=run_id) for run_id in run_ids]
    await floor.store.start_runs([start.arguments() for start in starts])
    engine.options = replace(engine.options, port=int(engine.said.rpartition(":")[2]))
    for done in (RUNS // 4, RUNS + RUNS // 4):
        await floor.wait_until(lambda done=done: _completed(floor, done))
        await engine.kill()
        held = await floor.wait_until(lambda: _held(floor))
        assert held["state"] == "open" and held["reason"]
        await engine.start()
    await floor.wait_until(lambda: _completed(floor, 2 * RUNS))
    events = await floor.verdict.events()
    assert {run_id: events[run_id][-1].type for run_id in run_ids} == dict.fromkeys(run_ids, "run_completed")
    counts = Counter((event.run_id, event.type, event.node_id) for run_id in run_ids for event in events[run_id])
    assert set(counts.values()) == {1}
    assert not {kind for _, kind, _ in counts} & {"task_retried", "node_failed"}
    assert await floor.verdict.left_over() == []
    assert await floor.verdict.letters() == []
    assert await floor.wait_until(lambda: _is_not_held(floor))


async def _completed(floor: Floor, count: int) -> bool:
    events = [event for of_run in (await floor.verdict.events()).values() for event in of_run]
    return sum(event.type == "node_completed" for event in events) >= count


async def _held(floor: Floor) -> dict[str, Any] | None:
    """What a model's hash says of the breaker, where it is open."""
    for model in MODELS:
        if shown := await floor.redis.hget(KEYS.model(model), "breaker"):
            return dict(orjson.loads(shown))
    return None


async def _is_not_held(floor: Floor) -> bool:
    return await _held(floor) is None
