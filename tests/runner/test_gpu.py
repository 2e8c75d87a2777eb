"""A GPU's memory on a scripted engine: switches, models that go away, and executions that wait for them."""

import asyncio
from typing import Any

import pytest

from agent_runner.capacity import Seat
from agent_runner.engines.engine import ChatRequest, EngineAway, EngineError
from agent_runner.gpu import CRASHES
from tests.runner.bench import Bench


async def test_a_switch_waits_for_the_tasks_in_hand(bench: Bench) -> None:
    await bench.load("a")
    bench.buffer.put([bench.task("a")])
    bench.gpu.switch(Seat("b", "b"), ["a"])
    await asyncio.sleep(0)
    assert (bench.states(), bench.gpu.target) == ({"a": "draining"}, "b")
    assert bench.gpu.slots("a") == 1  # what is in hand is still started
    bench.buffer.settle(bench.buffer.take(lambda pool: 1, 8))
    bench.gpu.look_again()
    await bench.until(lambda: bench.states() == {"b": "ready"})
    assert (bench.engine.loaded, bench.engine.unloaded) == (["a", "b"], ["a"])
    assert dict(bench.gpu.loads) == {"a": 1, "b": 1}
    assert bench.measures.cost_s("b") < 1.0  # it was measured


async def test_who_asks_a_model_that_is_not_there_waits_for_it(bench: Bench) -> None:
    asked = bench.ask("a")
    await bench.until(lambda: bench.gpu.needs)
    assert bench.gpu.waiting == 1 and not bench.engine.asked
    await bench.load("a")
    assert (await asked).text == "ok"
    assert not bench.gpu.needs and bench.gpu.waiting == 0


async def test_an_engine_that_comes_back_empty_is_loaded_again(bench: Bench) -> None:
    await bench.load("a")
    bench.engine.away = True
    asked = bench.ask("a")
    await bench.until(bench.gpu.guarded.held)
    assert bench.states() == {}  # what it holds is not known any more
    bench.engine.away = False
    bench.engine.memory.clear()
    await bench.until(lambda: "a" in bench.gpu.needs)
    await bench.load("a")
    assert (await asked).text == "ok"
    assert bench.gpu.loads["a"] == 2


async def test_who_waits_for_a_model_that_is_held_keeps_no_other_from_coming(bench: Bench) -> None:
    def busy(request: ChatRequest) -> str:
        if request.model == "a":
            raise EngineError("engine_busy", "503")
        return "ok"

    bench.engine.answer = busy
    await bench.load("a")
    asked = bench.ask("a")
    await bench.until(lambda: bench.gpu.guarded.held("a"))
    assert bench.gpu.slots("a") == 0
    await asyncio.wait_for(bench.load("b", "a"), 10)
    assert (await bench.ask("b")).text == "ok"
    asked.cancel()


async def test_a_load_that_fails_frees_the_gpu(bench: Bench) -> None:
    bench.engine.held.remove("c")
    bench.gpu.switch(Seat("c", "c"), [])
    await bench.until(lambda: not (bench.gpu.target or bench.gpu.residents))
    assert "'c'" in str(bench.gpu.guarded.held("c"))
    await bench.load("a")


async def test_an_engine_that_dies_during_a_switch(bench: Bench) -> None:
    await bench.load("a")

    async def die(model: str) -> None:
        raise EngineAway("gone")

    bench.engine.unload = die  # type: ignore[method-assign]
    bench.gpu.switch(Seat("b", "b"), ["a"])
    await bench.until(lambda: bench.gpu.target is None)
    assert bench.states() == {} and bench.gpu.guarded.held() == "gone"


async def test_a_model_that_somebody_else_unloads_is_noticed(bench: Bench) -> None:
    await bench.load("a")
    bench.engine.memory.clear()
    await bench.gpu.look()
    assert bench.states() == {}


async def test_what_the_engine_says_of_its_memory_counts(bench: Bench) -> None:
    await bench.load("a")
    bench.engine.memory["a"] = 5_000_000_000
    await bench.gpu.look()
    assert bench.gpu.residents["a"].seat.memory == 5e9 == bench.measures.memory("a")


async def test_somebody_elses_model_makes_room_only_where_there_is_none(bench: Bench) -> None:
    bench.engine.memory["theirs"] = 4_000
    bench.gpu.switch(Seat("a", "a", memory=3_000, capacity=8_000), [])
    await bench.until(lambda: bench.states() == {"a": "ready"})
    assert bench.engine.unloaded == []
    bench.gpu.switch(Seat("b", "b", memory=4_500, capacity=8_000), [])
    await bench.until(lambda: bench.states().get("b") == "ready")
    assert bench.engine.unloaded == ["theirs"]


async def test_another_runner_has_the_engine(bench: Bench) -> None:
    await bench.load("a")
    bench.gpu.lose()
    assert bench.gpu.slots("a") == 0 and bench.gpu.held_pools() == []


async def test_a_model_with_other_options_takes_its_own_place(bench: Bench) -> None:
    await bench.load("a")
    bench.gpu.switch(Seat("a#0123abcd", "a", {"num_ctx": 8192}), [])
    await bench.until(lambda: bench.states() == {"a#0123abcd": "ready"})
    assert (bench.engine.loaded, bench.engine.unloaded) == (["a", "a"], ["a"])


async def test_a_request_that_brings_the_engine_down_again_and_again_fails_alone(bench: Bench) -> None:
    def crash(request: ChatRequest) -> str:
        raise EngineAway("it broke")

    bench.engine.answer = crash
    asked = bench.ask("a")
    for crashes in range(1, CRASHES + 1):
        await bench.until(lambda: "a" in bench.gpu.needs)
        bench.gpu.switch(Seat("a", "a"), [])
        while len(bench.engine.asked) < crashes:
            await asyncio.sleep(0)
    with pytest.raises(EngineError, match=f"{CRASHES} times: it broke"):
        await asyncio.wait_for(asked, 30)


async def test_an_adapters_bug_ends_the_switch_and_no_more(bench: Bench) -> None:
    async def broken(model: str, options: Any) -> Any:
        raise RuntimeError("a bug")

    load, bench.engine.load = bench.engine.load, broken  # type: ignore[method-assign, assignment]
    bench.gpu.switch(Seat("a", "a"), [])
    await bench.until(lambda: not (bench.gpu.target or bench.gpu.residents))
    assert "a bug" in str(bench.gpu.guarded.held("a"))
    bench.engine.load = load  # type: ignore[method-assign]
    await bench.load("b")


async def test_a_model_that_went_away_meanwhile_need_not_leave(bench: Bench) -> None:
    await bench.load("a")
    bench.gpu.lose()
    bench.gpu.switch(Seat("b", "b"), ["a"])
    await bench.until(lambda: bench.states() == {"b": "ready"})


async def test_what_is_held_here_others_may_take_over(bench: Bench) -> None:
    await bench.load("a")
    assert bench.gpu.held_pools() == ["a"]
    bench.gpu.guarded.hold("a", "busy")
    assert bench.gpu.held_pools() == []


async def test_who_was_asked_beside_a_request_that_brings_the_engine_down_does_not_fail_with_it(bench: Bench) -> None:
    crashes: list[str] = []

    async def answer(request: ChatRequest) -> str:
        before = len(crashes)
        for _ in range(3):  # longer than it takes the other to bring the engine down
            await asyncio.sleep(0)
            if request.prompt == "deadly":
                crashes.append("one more")
                bench.engine.away = True
            if len(crashes) > before:
                raise EngineAway("it broke")
        return "ok"

    bench.engine.answer = answer
    prompts = ["deadly", "one", "two", "three"]
    asked = [asyncio.create_task(bench.gpu.chat("a", ChatRequest("a", prompt, 5.0))) for prompt in prompts]
    while not all(one.done() for one in asked):
        bench.engine.away = False
        if bench.gpu.needs and not bench.states() and bench.gpu.target is None and not bench.gpu.guarded.held():
            bench.gpu.switch(Seat("a", "a"), [])
        await asyncio.sleep(0)
    assert len(crashes) == CRASHES
    assert [type(one.exception()) for one in asked] == [EngineError, *[type(None)] * 3]


async def test_a_gpu_is_active_again_when_an_execution_has_waited(bench: Bench) -> None:
    answers = asyncio.Event()

    async def answer(request: ChatRequest) -> str:
        await answers.wait()
        return "ok"

    bench.engine.answer = answer
    executions = bench.gpu._hands.executions
    executions._by_token.clear()
    executions.running = 1
    asked = bench.ask("a")
    await bench.until(lambda: bench.gpu.needs)
    assert not bench.gpu.active.is_on
    await bench.load("a")
    await bench.until(lambda: bench.engine.at_once)
    assert bench.gpu.active.is_on
    answers.set()
    await asked


async def test_who_is_cancelled_while_it_waits_is_counted_no_more(bench: Bench) -> None:
    asked = bench.ask("a")
    await bench.until(lambda: bench.gpu.needs)
    assert bench.gpu.waited_s(asked) > 0
    asked.cancel()
    await asyncio.wait([asked])
    assert (bench.gpu.waiting, bench.gpu.waited_s(asked), bench.gpu.needs) == (0, 0.0, {})


@pytest.mark.parametrize("where", ["unload", "residents"])
async def test_a_bug_on_the_way_to_a_load_leaves_no_switch_under_way(bench: Bench, where: str) -> None:
    await bench.load("a")
    sound = getattr(bench.engine, where)

    async def broken(*args: Any) -> Any:
        raise KeyError("size")

    setattr(bench.engine, where, broken)
    bench.gpu.switch(Seat("b", "b"), ["a"])
    await bench.until(lambda: bench.gpu.target is None)
    assert bench.states() == {}  # what was done is not known
    setattr(bench.engine, where, sound)
    await bench.load("c")


async def test_what_drains_others_may_take_over(bench: Bench) -> None:
    await bench.load("a")
    bench.buffer.put([bench.task("a")])
    bench.gpu.switch(Seat("b", "b"), ["a"])
    assert bench.gpu.held_pools() == ["b"]
