"""A runner that stood still for longer than its lease does nothing more to an engine that may be another's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_runner.capacity import Seat
from agent_runner.engines.engine import ChatRequest, Engine
from agent_runner.engines.fence import NotOurs
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.openai import OpenAIEngine
from agent_runner.engines.simulated.server import SimulatedServer
from tests.engines.openai_server import OpenAIServer
from tests.runner.bench import Bench


def stops_at(bench: Bench, moment: str, *, after: bool) -> asyncio.Event:
    """The process stands still right before the engine is told this, or right after it has answered."""
    there, told = asyncio.Event(), getattr(bench.engine, moment)

    async def stopped(*args: Any) -> Any:
        if after:
            answer = await told(*args)
        if not there.is_set():
            there.set()
            bench.stand_still()
        return answer if after else await told(*args)

    setattr(bench.engine, moment, stopped)
    return there


def done(bench: Bench) -> tuple[list[str], list[str]]:
    return bench.engine.unloaded, bench.engine.loaded


@pytest.mark.parametrize(
    ("moment", "after", "before"),
    [
        ("unload", False, ([], ["a"])),
        ("unload", True, (["a"], ["a"])),
        ("residents", True, (["a"], ["a"])),
        ("load", False, (["a"], ["a"])),
    ],
)
@pytest.mark.parametrize("is_taken", [True, False])
async def test_a_switch_stops_where_it_stands(
    bench: Bench, moment: str, after: bool, before: tuple[list[str], list[str]], is_taken: bool
) -> None:
    await bench.load("a")
    there = stops_at(bench, moment, after=after)
    bench.gpu.switch(Seat("b", "b"), ["a"])
    await asyncio.wait_for(there.wait(), 10)
    for _ in range(10):  # it runs as far as it gets
        await asyncio.sleep(0)
    assert done(bench) == before
    if is_taken:
        bench.gpu.leave()
    else:
        bench.wake()
    await bench.until(lambda: not bench.gpu.target and (is_taken or bench.states() == {"b": "ready"}))
    assert done(bench) == (before if is_taken else (["a"], ["a", "b"]))


async def test_somebody_elses_model_does_not_make_room_for_one_whose_turn_is_over(bench: Bench) -> None:
    bench.engine.memory["theirs"] = 8_000
    there = stops_at(bench, "residents", after=True)
    bench.gpu.switch(Seat("b", "b", memory=3_000, capacity=8_000), [])
    await asyncio.wait_for(there.wait(), 10)
    for _ in range(10):
        await asyncio.sleep(0)
    bench.gpu.leave()
    assert done(bench) == ([], [])


async def test_a_request_that_is_about_to_be_sent_waits(bench: Bench) -> None:
    await bench.load("a")
    there = stops_at(bench, "chat", after=False)
    asked = bench.ask("a")
    await asyncio.wait_for(there.wait(), 10)
    await bench.until(lambda: bench.gpu.needs)
    assert bench.engine.asked == [] and bench.gpu.waiting == 1  # which is how it is found, and handed over
    bench.wake()
    assert (await asked).text == "ok" and len(bench.engine.asked) == 1


async def test_a_model_is_not_unloaded_at_the_end_where_the_engine_may_be_anothers(bench: Bench) -> None:
    await bench.load("a")
    stops_at(bench, "unload", after=False)
    await asyncio.wait_for(bench.gpu.close(), 10)
    assert bench.engine.unloaded == [] and bench.engine.closed


# -- on the wire ---------------------------------------------------------------------------------------
EFFECTS: list[Callable[[Engine, str], Awaitable[Any]]] = [
    lambda engine, model: engine.chat(ChatRequest(model, "Hello.", 10.0)),
    lambda engine, model: engine.load(model, {}),
    lambda engine, model: engine.unload(model),
]


async def has_fenced(engine: Engine, model: str, served: Callable[[], Any]) -> None:
    """Nothing that has an effect gets through; questions do, and everything once it may."""
    await engine.residents()
    before = served()
    engine.fence.may_send = lambda: False
    for effect in EFFECTS:
        with pytest.raises(NotOurs):
            await effect(engine, model)
    assert served() == before
    assert await engine.healthy()
    await engine.residents()
    engine.fence.may_send = iter([True, False]).__next__  # it is stopped when the head of a request was written
    with pytest.raises(NotOurs):
        await EFFECTS[0](engine, model)
    assert served() == before
    engine.fence.may_send = lambda: True
    for effect in EFFECTS:
        await effect(engine, model)
    assert served() != before


async def test_ollama_is_sent_nothing() -> None:
    async with SimulatedServer(speed=1000.0) as server:
        engine = OllamaEngine(server.url)
        await has_fenced(engine, "phi3", lambda: server.stats()["loads"])
        await engine.close()


@pytest.mark.parametrize("dialect", ["swap", "router"])
async def test_an_openai_server_is_sent_nothing(dialect: Any) -> None:
    async with OpenAIServer(dialect) as server:
        engine = OpenAIEngine(server.url)
        await has_fenced(engine, "small", lambda: [path for path, *_ in server.sent if _has_effect(path)])
        await engine.close()


def _has_effect(path: str) -> bool:
    return any(word in path for word in ("completions", "load", "upstream"))
