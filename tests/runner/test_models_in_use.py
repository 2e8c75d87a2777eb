"""The ageing bound is made of all models in use, also of those that nothing waits for now."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from agent_runner import model_intake
from agent_runner.scheduler import Choice, Policy, View, next_model
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.keys import Keys
from schemas.submission import make_start
from tests.runner.conftest import Completed, Serve
from tests.runner.engine import ScriptedEngine

TWO_STEPS = {
    "id": "two_steps",
    "nodes": [
        {"id": "first", "type": "agent", "config": {"model": "m", "prompt": "?"}},
        {"id": "later", "type": "agent", "config": {"model": "n", "prompt": "?"}},
    ],
    "edges": [{"from": "first", "to": "later"}],
}


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> list[View]:
    """What each decision saw."""
    seen: list[View] = []

    def look(view: View, policy: Policy) -> Choice:
        seen.append(view)
        return next_model(view, policy)

    monkeypatch.setattr(model_intake, "next_model", look)
    return seen


async def test_a_model_that_runs_will_come_to(
    store: RunStore, serve: Serve, views: list[View], wait_until: Any
) -> None:
    start = make_start("run_1", compile_workflow(TWO_STEPS).ir, None, request="1")
    serve(engine=ScriptedEngine())
    await store.start_run(**start.arguments())
    await wait_until(lambda: any({"m", "n"} <= view.models.keys() for view in views))


@pytest.mark.parametrize(("ago_s", "counts"), [(60, True), (7_200, False)])
async def test_a_model_that_was_served_lately(
    redis: Redis, store: RunStore, serve: Serve, views: list[View], wait_until: Any, ago_s: int, counts: bool
) -> None:
    await redis.sadd(Keys().streams, "wf.tasks.agent.n")
    await redis.hset(Keys().served, "n", await store.now() - 1_000 * ago_s)
    serve(engine=ScriptedEngine())
    await wait_until(lambda: len(views) > 4)
    assert ("n" in views[-1].models) is counts


async def test_a_name_that_the_engine_has_not(
    redis: Redis, store: RunStore, serve: Serve, views: list[View], completed: Completed
) -> None:
    """Misspelt once, it would have its share in the bound for ever."""
    await redis.sadd(Keys().streams, "wf.tasks.agent.n", "wf.tasks.agent.misspelt")
    serve(engine=ScriptedEngine())
    await store.start_run(**make_start("run_1", compile_workflow(TWO_STEPS).ir, None, request="1").arguments())
    await completed("run_1")
    assert views[-1].models.keys() == {"m", "n"}
