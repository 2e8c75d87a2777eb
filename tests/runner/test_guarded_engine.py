"""Whose fault is it when an engine fails? A scripted engine; over real HTTP: test_engine_faults.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from agent_runner import guarded_engine
from agent_runner.backoff import Backoff
from agent_runner.engines.engine import ChatRequest, EngineAway, EngineError, Footprint, Resident
from agent_runner.guarded_engine import EngineHeld, Held
from tests.runner.faulty_engine import SIMPLE, FaultyEngine, Watched

Wait = Callable[..., Awaitable[Any]]


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(guarded_engine, "ANSWER_S", 0.05)
    monkeypatch.setattr(guarded_engine, "LISTED_S", 0.02)
    made = Watched(FaultyEngine(models=("m", "n")))
    yield made
    await asyncio.wait_for(made.guarded.close(), 10)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that breakers mean to make; they are over at once."""
    meant: list[float] = []
    next_s = Backoff.next_s

    def noted(self: Backoff) -> float:
        meant.append(next_s(self))
        return 0.0

    monkeypatch.setattr(Backoff, "next_s", noted)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    return meant


def failing(klass: Any) -> Callable[[ChatRequest], str]:
    """Every chat fails like this."""

    def answer(request: ChatRequest) -> str:
        raise EngineError(klass, "the engine's words")

    return answer


# -- the engine ------------------------------------------------------------------------------------
async def test_an_engine_that_is_away_is_asked_nothing_until_it_is_back(watched: Watched) -> None:
    watched.engine.away = True
    held = await watched.held(watched.chat())
    assert (held.pool, held.reason) == (None, "no engine at http://engine")
    assert watched.guarded.held() == watched.guarded.held("m") == watched.guarded.held("n") == held.reason
    for asked in (
        watched.chat(model="n"),
        watched.guarded.load("n", "n", {}),
        watched.guarded.unload("m", "m"),
    ):
        assert (await watched.held(asked)).pool is None
    assert await watched.guarded.look() is None
    assert await watched.guarded.footprint("m", {}) is None
    assert watched.guarded.breakers() == {}  # no model is to blame
    assert watched.engine.asked == [] and watched.changes == 1
    watched.engine.away = False
    await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert watched.guarded.held() is None and watched.changes == 2
    assert await watched.chat() == "ok"


async def test_an_unload_that_fails_is_no_matter_unless_the_engine_is_gone(watched: Watched) -> None:
    await watched.guarded.unload("unheard:7b", "unheard:7b")
    assert watched.guarded.held("unheard:7b") is None
    watched.engine.away = True
    assert (await watched.held(watched.guarded.unload("m", "m"))).pool is None


async def test_a_look_finds_that_the_engine_is_gone(watched: Watched) -> None:
    await watched.guarded.load("m", "m", {})
    residents = await watched.guarded.look()
    assert residents is not None and [one.model for one in residents] == ["m"]
    watched.engine.away = True

    async def gone() -> list[Resident]:
        raise EngineAway("gone")

    watched.engine.residents = gone  # type: ignore[method-assign]
    assert await watched.guarded.look() is None
    assert watched.guarded.held() == "gone"


async def test_an_engine_that_hangs_lets_go_what_waits_for_it(watched: Watched, wait_until: Wait) -> None:
    watched.engine.mute = True
    waiting = [asyncio.create_task(watched.chat(str(n), timeout_s=600)) for n in range(5)]
    assert await watched.guarded.look() is None  # one look is enough: it is asked again at once
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [type(outcome) for outcome in outcomes] == [EngineHeld] * 5
    assert watched.guarded.held() == "http://engine does not answer"
    again = [asyncio.create_task(watched.patiently(str(n))) for n in range(5)]
    watched.engine.mute = False
    assert await asyncio.wait_for(asyncio.gather(*again), 10) == ["ok"] * 5


async def test_a_hang_during_a_load_is_given_more_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_engine, "ANSWER_S", 0.01)
    asked = 0

    async def unhealthy() -> bool:
        nonlocal asked
        asked += 1
        return False

    watched.engine.mute, watched.engine.healthy = True, unhealthy  # type: ignore[method-assign]
    loading = asyncio.create_task(watched.guarded.load("m", "m", {}))
    await asyncio.sleep(0)
    assert await watched.guarded.look() is None
    assert (await watched.held(asyncio.wait_for(loading, 10))).pool is None
    assert asked >= guarded_engine.LOADING_PATIENCE - 1
    assert watched.guarded.breakers() == {}


async def test_a_slow_answer_now_and_then_is_no_hang(watched: Watched, wait_until: Wait) -> None:
    for _ in range(4):
        watched.engine.mute = True
        assert await watched.guarded.look() is None
        watched.engine.mute = False
        assert await watched.guarded.look() is not None
        assert await watched.chat() == "ok"
    assert watched.changes == 0


async def test_an_engine_that_goes_away_while_chats_wait_frees_them(watched: Watched) -> None:
    """A machine without power breaks no connection."""
    watched.engine.mute = True
    waiting = asyncio.create_task(watched.chat(timeout_s=600))
    await asyncio.sleep(0)
    watched.engine.mute, watched.engine.away = False, True
    assert (await watched.held(watched.chat())).pool is None
    assert (await watched.held(asyncio.wait_for(waiting, 10))).pool is None


async def test_what_fails_while_the_engine_is_held_is_no_models_fault(watched: Watched) -> None:
    gate = asyncio.Event()

    async def refuse(request: ChatRequest) -> str:
        await gate.wait()
        raise EngineError("engine_busy" if request.prompt == "0" else "invalid_input", "no")

    watched.engine.answer = refuse
    asking = [asyncio.create_task(watched.chat(str(n))) for n in range(2)]
    await asyncio.sleep(0)
    watched.engine.away = True
    await watched.held(watched.chat())
    gate.set()
    busy, invalid = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(busy, EngineHeld) and busy.pool is None
    assert isinstance(invalid, EngineError)  # it will not be better when it is asked again
    assert watched.guarded.breakers() == {}


async def test_a_timeout_is_the_items_own_while_the_engine_answers(watched: Watched) -> None:
    async def endless() -> str:
        await asyncio.Event().wait()
        return ""

    watched.engine.answer = lambda request: endless()
    assert (await watched.failure(watched.chat(timeout_s=0.01))).klass == "timeout"
    assert watched.changes == 0
    watched.engine.mute = True
    assert (await watched.held(watched.chat(timeout_s=0.01))).pool is None


# -- a model ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("klass", ["engine_busy", "rate_limit"])
async def test_a_busy_model_is_asked_again_and_others_go_on(watched: Watched, klass: Any) -> None:
    refusals = iter(range(3))

    def answer(request: ChatRequest) -> str:
        if request.model == "m" and next(refusals, None) is not None:
            raise EngineError(klass, "server busy")
        return "ok"

    watched.engine.answer = answer
    held = await watched.held(watched.chat())
    assert (held.pool, held.reason) == ("m", "server busy")
    assert watched.guarded.held("m") == "server busy"
    assert watched.guarded.held() is None and watched.guarded.held("n") is None
    assert watched.guarded.breakers() == {"m": Held(watched.guarded.breakers()["m"].since, "server busy")}
    assert await watched.chat(model="n") == "ok"
    assert await asyncio.wait_for(watched.patiently(), 10) == "ok"
    assert watched.guarded.breakers() == {}
    assert watched.changes == 6  # held and tried again, three times


async def test_pauses_double_until_a_success(watched: Watched, pauses: list[float]) -> None:
    watched.engine.answer = failing("engine_busy")
    for _ in range(6):
        await watched.held(watched.chat())
        await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert pauses == pytest.approx([0.001, 0.002, 0.004, 0.008, 0.01, 0.01])
    watched.engine.answer = lambda request: "ok"
    await watched.chat()
    watched.engine.answer = failing("engine_busy")
    await watched.held(watched.chat())
    await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert pauses[6:] == pytest.approx([0.001])


async def test_chats_that_were_under_way_lengthen_no_pause(watched: Watched, pauses: list[float]) -> None:
    async def busy(request: ChatRequest) -> str:
        raise EngineError("engine_busy", "server busy")

    assert {type(one) for one in await watched.together(busy)} == {EngineHeld}
    await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert pauses == pytest.approx([0.001])


@pytest.mark.parametrize("how", ["load", "chat"])
async def test_a_missing_model_is_waited_for_and_reported_once(
    watched: Watched, how: str, wait_until: Wait, caplog: pytest.LogCaptureFixture
) -> None:
    """By a chat too: somebody deleted a model that was loaded. No item fails."""
    caplog.set_level(logging.WARNING, "pavane.runner")
    asked = watched.guarded.load("x", "x:latest", {}) if how == "load" else watched.chat(model="x")
    held = await watched.held(asked)
    assert held.pool == "x" and "is not on the engine" in held.reason
    await wait_until(lambda: watched.engine.listed >= 3)
    assert watched.guarded.held("x") == held.reason and watched.changes == 1
    assert [record.getMessage() for record in caplog.records] == [f"x is held, nothing is asked of it: {held.reason}"]
    assert await watched.chat() == "ok"
    watched.engine.held.append("x" if how == "chat" else "x:latest")
    await asyncio.wait_for(watched.guarded.until_closed("x"), 10)
    assert await watched.guarded.load("x", watched.engine.held[-1], {}) == 40
    assert watched.guarded.breakers() == {}


async def test_a_model_that_does_not_load_says_why_with_its_numbers(
    watched: Watched, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "pavane.runner")
    words = "model requires more system memory (41.5 GiB) than is available (7.2 GiB)"
    watched.engine.unloadable["m"] = EngineError("connection", words)
    since = 0.0
    for _ in range(20):
        held = await watched.held(watched.guarded.load("m", "m", {}))
        assert (held.pool, held.reason) == ("m", f"not loaded: {words} (it takes 41.5 GB with one slot)")
        shown = watched.guarded.breakers()["m"]
        assert shown == Held(since or shown.since, held.reason)
        since = shown.since
        assert (await watched.held(watched.chat())).pool == "m"  # not tried at all
        await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert len(caplog.records) == 1
    # Each try costs the GPU what it displaces, so the pauses grow long.
    assert pauses == pytest.approx([min(0.001 * 2**n, 300.0) for n in range(20)])
    assert watched.engine.asked == []
    del watched.engine.unloadable["m"]
    assert await watched.guarded.load("m", "m", {}) == 40
    watched.engine.unloadable["m"] = EngineError("connection", words)
    await watched.held(watched.guarded.load("m", "m", {}))
    assert len(caplog.records) == 2


async def test_a_pool_can_be_held_without_a_try(watched: Watched) -> None:
    """Until what was wrong is not so any more: it is missing, or larger than the GPU."""
    fits = False

    async def look_again() -> bool:
        return fits

    reason = "it needs 41.5 GB with one slot, this GPU has 7.4 GB"
    watched.guarded.hold("m", reason, until=look_again)
    watched.guarded.hold_missing("x", "x", "model 'x' is not on the engine")
    assert (await watched.held(watched.guarded.load("m", "m", {}))).reason == watched.guarded.held("m") == reason
    watched.engine.held.append("x")
    await asyncio.wait_for(watched.guarded.until_closed("x"), 10)
    assert watched.guarded.held("m") == reason
    fits = True
    await asyncio.wait_for(watched.guarded.until_closed("m"), 10)
    assert watched.engine.loaded == [] and watched.changes == 4


async def test_a_request_that_breaks_its_answer_is_to_blame_if_the_model_answers_others(watched: Watched) -> None:
    async def answer(request: ChatRequest) -> str:
        if request.prompt != SIMPLE:
            raise EngineError("connection", "broken")
        await asyncio.sleep(0)
        return "yes"

    failures = await watched.together(answer, "poison ")
    assert [getattr(one, "klass", None) for one in failures] == ["connection"] * 8
    assert watched.changes == 0
    assert watched.asked_simply == 1  # enough for all that failed together
    assert watched.engine.asked[-1].options == {"num_predict": 1}
    await watched.failure(watched.chat("poison"))
    assert watched.asked_simply == 2  # that was then


async def test_a_model_that_answers_nothing_is_held_and_no_item_fails(watched: Watched) -> None:
    async def broken(request: ChatRequest) -> str:
        raise EngineError("connection", "broken")

    outcomes = await watched.together(broken)
    assert {(type(one), getattr(one, "pool", None)) for one in outcomes} == {(EngineHeld, "m")}
    assert watched.asked_simply == 1
    assert watched.guarded.held("n") is None
    waiting = [asyncio.create_task(watched.patiently(str(n))) for n in range(8)]
    await asyncio.sleep(0)
    watched.engine.answer = lambda request: "ok"
    assert await asyncio.wait_for(asyncio.gather(*waiting), 10) == ["ok"] * 8


@pytest.mark.parametrize("klass", ["invalid_input", "too_large"])
async def test_what_is_wrong_with_a_request_is_its_own_failure(watched: Watched, klass: Any) -> None:
    watched.engine.answer = failing(klass)
    assert (await watched.failure(watched.chat())).klass == klass
    assert watched.changes == 0 and len(watched.engine.asked) == 1


async def test_footprint_is_none_where_it_cannot_be_known(watched: Watched) -> None:
    assert await watched.guarded.footprint("m", {}) == Footprint(40 * 10**9, 10**9)
    watched.engine.mute = True
    assert await watched.guarded.footprint("m", {}) is None

    async def refuse(model: str, options: Mapping[str, Any]) -> Footprint | None:
        raise EngineError("not_found", "no")

    watched.engine.footprint = refuse  # type: ignore[method-assign]
    assert await watched.guarded.footprint("m", {}) is None
    assert watched.changes == 0


async def test_all_that_wait_for_a_model_ask_for_one_list(
    watched: Watched, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_engine, "LISTED_S", 60.0)
    for number in range(50):
        watched.guarded.hold_missing(f"x{number}", f"x{number}", "it is not on the engine")
    await wait_until(lambda: watched.engine.listed)
    assert (watched.engine.listed, len(watched.guarded.breakers())) == (1, 50)


async def test_who_nobody_asks_for_is_forgotten_and_keeps_nobody_waiting(watched: Watched) -> None:
    for name in ("x", "y"):
        watched.guarded.hold_missing(name, name, f"{name} is not on the engine")
    probing = [watched.guarded._pools[name].breaker._prober for name in ("x", "y")]
    waiting = asyncio.create_task(watched.guarded.until_closed("x"))
    await asyncio.sleep(0)
    watched.guarded.keep({"y"})
    await asyncio.wait_for(waiting, 10)
    assert list(watched.guarded.breakers()) == ["y"]
    await asyncio.sleep(0)
    assert [probe is not None and probe.done() for probe in probing] == [True, False]
