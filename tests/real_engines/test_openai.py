"""The OpenAI adapter against llama.cpp itself: answers, usage, models that come and go, and what fails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import jsonschema
import orjson
import pytest

from agent_runner.engines.engine import ChatReply, ChatRequest, EngineAway, EngineError
from agent_runner.engines.openai import OpenAIEngine
from tests.real_engines.models import CONTEXT, TinyModel
from tests.real_engines.router import Router

VERDICT = {
    "type": "object",
    "properties": {
        "grade": {"enum": ["low", "middle", "high"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 100},
        "words": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,6}$"}, "maxItems": 2},
        "sure": {"type": "boolean"},
    },
    "required": ["grade", "score", "words", "sure"],
    "additionalProperties": False,
}
WaitUntil = Callable[..., Awaitable[Any]]


async def ask(engine: OpenAIEngine, model: str = "alpha", prompt: str = "Hello.", **about: Any) -> ChatReply:
    return await engine.chat(ChatRequest(**{"model": model, "prompt": prompt, "timeout_s": 60.0, **about}))


async def refused(asked: Awaitable[Any]) -> EngineError:
    with pytest.raises(EngineError) as failure:
        await asked
    return failure.value


# -- answers -----------------------------------------------------------------------------------------
async def test_an_answer_and_what_it_used(engine: OpenAIEngine) -> None:
    reply = await ask(engine, prompt="Hi", system="You", options={"num_predict": 7, "ignore_eos": True})
    said = "system: You\nuser: Hi\nassistant: "
    assert reply.prompt_tokens == len(said) + 2  # a token is a character; <s> and SentencePiece's first space
    assert reply.completion_tokens == 7
    assert reply.text
    assert reply.total_ms >= 0 <= reply.wait_ms


async def test_answers_keep_to_their_schema(engine: OpenAIEngine) -> None:
    """Many at once, on random weights: it is the grammar that holds them."""
    replies = await asyncio.gather(
        *(ask(engine, prompt=f"Judge {i}.", response_format=VERDICT, options={"seed": i}) for i in range(12))
    )
    for reply in replies:
        jsonschema.validate(orjson.loads(reply.text), VERDICT)
    assert len({reply.text for reply in replies}) > 6


async def test_a_prompt_that_is_too_long(engine: OpenAIEngine) -> None:
    failure = await refused(ask(engine, prompt="x" * CONTEXT))
    assert failure.klass == "too_large" and not failure.retryable


# -- models ------------------------------------------------------------------------------------------
async def test_models_come_and_go(engine: OpenAIEngine, router: Router) -> None:
    assert await engine.models() == ["alpha", "beta", "gamma", "vast"]
    assert await engine.residents() == []
    assert (await engine.load("alpha", {})).load_ms > 0
    (resident,) = await engine.residents()
    assert (resident.model, resident.context_length) == ("alpha", CONTEXT)
    assert resident.size == 0  # nobody says what it takes with its KV cache
    await engine.load("alpha", {})
    assert router.loads == ["alpha"]
    process = router.pid("alpha")
    await engine.unload("alpha")
    assert await engine.residents() == []
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    await engine.unload("alpha")


async def test_what_a_model_takes(engine: OpenAIEngine, router: Router) -> None:
    await engine.load("beta", {})
    footprint = await engine.footprint("beta", {})
    assert footprint is not None
    assert footprint.slots == router.slots and 0 < footprint.weights < router.memory_of("beta")
    assert footprint.memory(1) is None  # its KV cache is not told


async def test_models_that_do_not_fit_together(engine: OpenAIEngine, router: Router) -> None:
    """One that was not unloaded has to go; its answer is finished first."""
    await engine.load("alpha", {})
    long = asyncio.create_task(ask(engine, "alpha", options={"num_predict": 300, "ignore_eos": True}))
    await ask(engine, "beta", options={"num_predict": 1})
    assert [resident.model for resident in await engine.residents()] == ["beta"]
    assert (await long).completion_tokens == 300
    assert router.evictions >= 1


# -- failures ----------------------------------------------------------------------------------------
async def test_a_model_that_is_not_there(engine: OpenAIEngine) -> None:
    for asked in (ask(engine, "nobody"), engine.load("nobody", {}), engine.footprint("nobody", {})):
        failure = await refused(asked)
        assert failure.klass == "not_found", failure.message


async def test_a_model_that_can_not_be_loaded(engine: OpenAIEngine, router: Router) -> None:
    failure = await refused(engine.load("vast", {}))
    assert failure.klass == "connection" and not isinstance(failure, EngineAway)
    assert router.loads == []
    await ask(engine, "alpha", options={"num_predict": 1})


async def test_a_file_that_is_no_model(engine: OpenAIEngine, router: Router) -> None:
    router.host(TinyModel("noise", width=64)).write_bytes(b"noise")
    failure = await refused(engine.load("noise", {}))
    assert "exit code 1" in failure.message


async def test_a_server_that_is_killed_mid_answer(engine: OpenAIEngine, router: Router, wait_until: WaitUntil) -> None:
    """The request failed and may be tried again; the engine itself is there."""
    await engine.load("alpha", {})
    answer = asyncio.create_task(ask(engine, options={"ignore_eos": True}))
    await wait_until(lambda: router.running("alpha"))
    os.kill(router.pid("alpha"), signal.SIGKILL)
    failure = await refused(answer)
    assert failure.klass == "connection" and failure.retryable and not isinstance(failure, EngineAway)
    assert await engine.healthy()

    async def gone() -> bool:
        return await engine.residents() == []

    await wait_until(gone)
    await engine.load("alpha", {})
    assert (await ask(engine, options={"num_predict": 3, "ignore_eos": True})).completion_tokens == 3
    assert router.loads == ["alpha", "alpha"]


async def test_an_engine_that_is_gone(engine: OpenAIEngine, router: Router) -> None:
    await ask(engine, options={"num_predict": 1})
    await router.close()
    assert isinstance(await refused(ask(engine)), EngineAway)
    assert not await engine.healthy()
