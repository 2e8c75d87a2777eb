"""Engines that misbehave over real HTTP: they refuse, hang, break off, are killed, and come back with other models."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
import pytest

from agent_runner import guarded_engine
from agent_runner.engines.engine import ChatRequest, EngineError
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.guarded_engine import EngineHeld, GuardedEngine
from tests.runner.engine_process import EngineProcess
from tests.runner.web_server import Asked, WebServer, json_answer

Guard = Callable[..., Awaitable[tuple[EngineProcess, GuardedEngine]]]
LATE_S = 20.0
"""For what comes as soon as the machine has time for it."""


@pytest.fixture
async def guard() -> AsyncIterator[Guard]:
    """`await guard(script, models)`: an engine's process, and what stands before it."""
    async with AsyncExitStack() as stack:

        async def begin(script: Any = None, models: tuple[str, ...] = ()) -> tuple[EngineProcess, GuardedEngine]:
            process = EngineProcess(script, models)
            await process.start()
            stack.push_async_callback(process.kill)
            guarded = GuardedEngine(OllamaEngine(process.url), changed=lambda: None, first_probe_s=0.01)
            stack.push_async_callback(guarded.close)
            return process, guarded

        yield begin


async def ask(guarded: GuardedEngine, prompt: str = "Hello.", model: str = "phi3", timeout_s: float = 600.0) -> str:
    return (await guarded.chat(model, ChatRequest(model, prompt, timeout_s))).text


async def patiently(guarded: GuardedEngine, prompt: str = "Hello.", model: str = "phi3") -> str:
    """As the caller does: ask again when it is not held any more."""
    while True:
        try:
            return await ask(guarded, prompt, model)
        except EngineHeld:
            await guarded.until_closed(model)


async def held(asked: Awaitable[Any]) -> EngineHeld:
    with pytest.raises(EngineHeld) as caught:
        await asyncio.wait_for(asked, LATE_S)
    return caught.value


async def stats(process: EngineProcess) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False) as client:
        return dict((await client.get(f"{process.url}/simulated/stats")).json())


async def has_asked(process: EngineProcess, requests: int) -> bool:
    return bool((await stats(process))["requests"] == requests)


async def test_503s_cost_nobody_anything(guard: Guard) -> None:
    refusals = [{"error": {"status": 503, "message": "server busy"}}] * 5
    process, guarded = await guard([{"model": "phi3", "sequence": [*refusals, {}]}])
    busy = await held(ask(guarded))
    assert busy.pool == "phi3" and "answered 503: server busy" in busy.reason
    assert await asyncio.wait_for(ask(guarded, model="gemma2:2b"), LATE_S)
    answers = await asyncio.wait_for(asyncio.gather(*(patiently(guarded, str(n)) for n in range(8))), LATE_S)
    assert all(answers) and guarded.breakers() == {}
    assert (await stats(process))["refused"] >= 5


async def test_a_broken_answer_is_its_items_own_failure(guard: Guard) -> None:
    _, guarded = await guard([{"contains": "cut", "close": True}])
    with pytest.raises(EngineError) as failed:
        await asyncio.wait_for(ask(guarded, "cut"), LATE_S)
    assert failed.value.klass == "connection"
    assert guarded.held("phi3") is None
    assert await asyncio.wait_for(ask(guarded), LATE_S)


async def test_a_request_that_hangs_is_its_items_own_failure(guard: Guard) -> None:
    _, guarded = await guard([{"contains": "silent", "hang": True}])
    with pytest.raises(EngineError) as failed:
        await ask(guarded, "silent", timeout_s=0.2)
    assert failed.value.klass == "timeout"
    assert guarded.held("phi3") is None


async def test_a_model_that_always_fails_is_held_alone(guard: Guard) -> None:
    process, guarded = await guard([{"model": "phi3", "error": {"status": 500, "message": "runner died"}}])
    failures = await asyncio.gather(*(held(ask(guarded, str(n))) for n in range(8)))
    assert {failure.pool for failure in failures} == {"phi3"}
    assert "runner died" in guarded.breakers()["phi3"].reason
    assert await asyncio.wait_for(ask(guarded, model="gemma2:2b"), LATE_S)
    waiting = asyncio.create_task(patiently(guarded))
    await process.kill()
    process.script = None
    await process.start()
    assert await asyncio.wait_for(waiting, LATE_S)


async def test_a_stopped_process_is_noticed_and_frees_what_waits(
    guard: Guard, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGSTOP: the connections stay open, and nothing answers."""
    process, guarded = await guard([{"sequence": [*[{"hang": True}] * 8, {}]}])
    monkeypatch.setattr(guarded_engine, "ANSWER_S", 0.3)
    await asyncio.wait_for(guarded.load("phi3", "phi3", {}), LATE_S)
    waiting = [asyncio.create_task(held(ask(guarded, str(n)))) for n in range(8)]
    await wait_until(lambda: has_asked(process, 8))
    process.send(signal.SIGSTOP)
    assert await guarded.look() is None
    assert {failure.pool for failure in await asyncio.gather(*waiting)} == {None}
    assert guarded.held() == f"{process.url} does not answer"
    again = [asyncio.create_task(patiently(guarded, str(n))) for n in range(8)]
    process.send(signal.SIGCONT)
    assert all(await asyncio.wait_for(asyncio.gather(*again), LATE_S))
    residents = await guarded.look()
    assert residents is not None and [one.model for one in residents] == ["phi3"]


async def test_killed_while_it_answers_and_back_with_other_models(guard: Guard, wait_until: Any) -> None:
    process, guarded = await guard([{"model": "phi3", "hang": True}])
    waiting = [asyncio.create_task(held(ask(guarded, str(n)))) for n in range(8)]
    await wait_until(lambda: has_asked(process, 8))
    await process.kill()
    assert {failure.pool for failure in await asyncio.gather(*waiting)} == {None}
    assert await guarded.look() is None

    process.script, process.models = None, ("gemma2:2b",)
    await process.start()
    await asyncio.wait_for(guarded.until_closed("phi3"), LATE_S)
    assert await guarded.look() == []
    missing = await held(ask(guarded))
    assert missing.pool == "phi3" and f"model 'phi3' is not on the engine at {process.url}" in missing.reason
    assert (await held(guarded.load("phi3", "phi3", {}))).reason == missing.reason
    assert await asyncio.wait_for(ask(guarded, model="gemma2:2b"), LATE_S)

    patient = asyncio.create_task(patiently(guarded))
    await process.kill()
    process.models = ("gemma2:2b", "phi3")
    await process.start()
    assert await asyncio.wait_for(patient, LATE_S)
    assert guarded.breakers() == {} and guarded.held() is None


async def test_a_load_that_the_engine_refuses_for_want_of_memory() -> None:
    words = "model requires more system memory (41.5 GiB) than is available (7.2 GiB)"

    def answer(asked: Asked) -> bytes:
        if asked.target == "/api/ps":
            return json_answer({"models": []})
        return json_answer({"error": words}, 500 if orjson.loads(asked.body).get("prompt") == "" else 404)

    server = WebServer(answer)
    await server.start()
    guarded = GuardedEngine(OllamaEngine(server.url), changed=lambda: None)
    try:
        refused = await held(guarded.load("huge", "huge", {}))
        assert refused.pool == "huge"
        assert refused.reason == f"not loaded: {server.url} failed (500): {words}"
        assert guarded.breakers()["huge"].reason == refused.reason and guarded.held() is None
    finally:
        await guarded.close()
        await server.stop()
