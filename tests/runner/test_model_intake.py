"""What a runner asks of Redis, and when: looks at what waits, and claims."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from agent_runner import measures, model_intake
from agent_runner.engines.engine import ChatRequest, EngineError
from agent_runner.model_intake import ModelIntake
from agent_runner.news import News
from lua.gpu_leases import Lease, LeaseTable
from lua.run_store import RunStore
from schemas.keys import FAST_LANE, agent_stream
from tests.runner.conftest import FAST, Completed, Serve, Serving
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, make_ir, start

CALM = dataclasses.replace(FAST, block_ms=10_000, reclaim_ms=60_000)
"""Nothing but news and changes makes it look."""
Looks = list[tuple[Lease, int | None]]


@pytest.fixture
def looks(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> Looks:
    """The lease that each look wrote, and the version that it was claimed on."""
    made: Looks = []
    ask = store.lease_models

    async def noted(lease: Lease, *, version: int | None, **more: Any) -> LeaseTable:
        made.append((lease, version))
        return await ask(lease, version=version, **more)

    monkeypatch.setattr(store, "lease_models", noted)
    return made


def intake(serving: Serving) -> ModelIntake:
    assert isinstance(serving.runner.intake, ModelIntake)
    return serving.runner.intake


async def rests(serving: Serving, wait_until: Any) -> None:
    """It has taken note of where the streams end, and looked once more after that."""
    of = intake(serving)
    await wait_until(lambda: of._news._read is not None and time.monotonic() - of._looked_at > 0.05)


async def test_one_look_serves_for_many_entries(
    store: RunStore, serve: Serve, looks: Looks, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_intake, "LOOK_S", 60.0)
    await store.redis.sadd(store.keys.streams, agent_stream("x"))
    serving = serve(settings=CALM, engine=ScriptedEngine())
    await rests(serving, wait_until)
    await start(store, "run_0", make_ir(agent("a", model="x")))
    intake(serving).wake()
    await wait_until(lambda: intake(serving).gpu.guarded.held("x"))
    await rests(serving, wait_until)
    before = len(looks)
    for number in range(1, 30):
        await start(store, f"run_{number}", make_ir(agent("a", model="x")))
    await wait_until(lambda: (heard := intake(serving)._news._read) is not None and heard.done())
    assert len(looks) - before <= 2


async def test_who_has_not_looked_for_long_looks_at_once(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.redis.sadd(store.keys.streams, agent_stream("m"))
    serving = serve(settings=CALM, engine=ScriptedEngine())
    await rests(serving, wait_until)
    monkeypatch.setattr(model_intake, "LOOK_S", 60.0)
    intake(serving)._looked_at -= 60.0
    await start(store, "run_1", make_ir(agent("a")))
    await completed("run_1")


@pytest.mark.parametrize(
    ("stream", "pools", "comes"),
    [
        ("m", None, True),
        ("m", {"m"}, True),
        ("m", {"n"}, False),
        ("m", set(), False),
        ("m" + FAST_LANE, set(), True),
    ],
)
async def test_news_of_some_models(store: RunStore, stream: str, pools: set[str] | None, comes: bool) -> None:
    await store.redis.sadd(store.keys.streams, *map(agent_stream, "mn"))
    news, wanted = News(store, 500), None if pools is None else frozenset(pools)
    assert not await news.wait(asyncio.Event(), wanted)  # what came before is seen by the look that follows
    await store.redis.xadd(store.keys.stream(agent_stream(stream)), {"x": "y"})
    assert await news.wait(asyncio.Event(), wanted) is comes
    await news.close()


async def test_a_claim_lets_go_what_leaves(store: RunStore, serve: Serve, looks: Looks, wait_until: Any) -> None:
    """In the same step: another runner may take it over while this one still drains it."""
    may_end = asyncio.Event()

    async def answer(request: ChatRequest) -> str:
        await may_end.wait()
        return "ok"

    serving = serve(engine=ScriptedEngine(answer))
    await start(store, "run_1", make_ir(agent("a")))
    await wait_until(lambda: serving.runner.executions.running)
    await start(store, "run_2", make_ir(*(agent(f"a{n}", model="n") for n in range(100))))
    await wait_until(lambda: intake(serving).gpu.target == "n")
    claims = [set(lease.models) for lease, version in looks if version is not None]
    may_end.set()
    assert claims == [{"m"}, {"n"}]


async def test_tasks_that_fail_say_nothing_of_the_gpu(
    store: RunStore, serve: Serve, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused in no time: as a rate, that would be a GPU a hundred times as fast."""

    monkeypatch.setattr(measures, "FULL", 0.0)  # however long the slot is empty between two of them

    def answer(request: ChatRequest) -> str:
        if request.prompt == "refused":
            raise EngineError("invalid_input", "400")
        return "ok"

    serving = serve(settings=dataclasses.replace(FAST, slots=1), engine=ScriptedEngine(answer))
    for prompt, is_measured in (("refused", False), ("sound", True)):
        ended = serving.runner.executions.ended
        await start(store, f"run_{prompt}", make_ir(*(agent(f"a{n}", prompt=prompt) for n in range(20))))
        await wait_until(lambda ended=ended: serving.runner.executions.ended == ended + 20)
        assert ("rate" in intake(serving).measures._values["m"]) is is_measured
