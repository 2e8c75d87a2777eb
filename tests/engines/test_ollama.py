"""The Ollama adapter against the simulated engine, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from jsonschema import validate

from agent_runner.engines.engine import ChatRequest, EngineAway, EngineError, short_name
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.gpu import CATALOGUE
from tests.engines.conftest import Start, ask

GRADE = {
    "type": "object",
    "required": ["score", "reason"],
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}, "reason": {"type": "string"}},
    "additionalProperties": False,
}


async def failure(engine: OllamaEngine, **about: Any) -> EngineError:
    with pytest.raises(EngineError) as failed:
        await ask(engine, **about)
    return failed.value


async def test_a_chat_gives_text_usage_and_times(start: Start) -> None:
    server, engine = await start()
    first = await ask(engine, "Summarise:\nSort the list in place. It is stable.", system="Be brief.")
    assert "Sort the list in place." in first.text
    assert first.prompt_tokens > 10 and first.completion_tokens > 0
    load_ms = CATALOGUE["phi3"].load_s / 500 * 1000
    assert first.wait_ms == pytest.approx(load_ms, abs=1)
    assert first.total_ms >= first.wait_ms
    again = await ask(engine, "Summarise:\nSort the list in place. It is stable.", system="Be brief.")
    assert (again.text, again.wait_ms) == (first.text, 0)
    assert server.stats()["loads"] == 1 and server.stats()["requests"] == 2


async def test_structured_answers_satisfy_the_schema(start: Start) -> None:
    _, engine = await start()
    replies = [await ask(engine, f"Grade:\nText {n}.", response_format=GRADE) for n in range(5)]
    for reply in replies:
        validate(json.loads(reply.text), GRADE)
    assert len({json.loads(reply.text)["score"] for reply in replies}) > 1


async def test_load_stays_until_unload(start: Start) -> None:
    server, engine = await start(keep_alive_s=0.0)
    assert (await engine.load("phi3", {"num_ctx": 2048})).load_ms >= 2
    (held,) = await engine.residents()
    assert (held.model, held.context_length) == ("phi3", 2048)
    assert held.size == held.size_vram == round(CATALOGUE["phi3"].vram_gb(8, 2048) * 1e9)
    assert held.expires_at is not None and held.expires_at.year > 2200
    await ask(engine, options={"num_ctx": 2048})
    assert [one.model for one in await engine.residents()] == ["phi3"]  # a chat does not touch the keep-alive
    await engine.unload("phi3")
    assert await engine.residents() == []
    await engine.unload("phi3")
    assert server.stats()["loads"] == 1


async def test_unload_waits_for_what_is_running(start: Start) -> None:
    server, engine = await start(script=[{"hang": True}])
    await engine.load("phi3", {})
    chat = asyncio.create_task(ask(engine))
    await server.until(lambda stats: stats["running"] == 1)
    await engine.unload("phi3")
    assert [one.model for one in await engine.residents()] == ["phi3"]
    chat.cancel()
    await server.until(lambda stats: stats["running"] == 0)
    assert await engine.residents() == []


async def test_other_load_options_load_again(start: Start) -> None:
    server, engine = await start()
    await engine.load("phi3", {"num_ctx": 4096})
    await ask(engine, options={"temperature": 0, "seed": 3, "num_gpu": -1})
    assert server.stats()["loads"] == 1
    await ask(engine, options={"num_ctx": 8192})
    assert server.stats()["loads_by_model"] == {"phi3": 2}


async def test_models_by_their_short_names(start: Start) -> None:
    _, engine = await start()
    assert await engine.models() == sorted(CATALOGUE)
    await engine.load("phi3:latest", {})
    assert [one.model for one in await engine.residents()] == ["phi3"]
    assert short_name("phi3:latest") == "phi3" and short_name("gemma3:4b") == "gemma3:4b"


async def test_a_partial_fit_shows_in_the_residents(start: Start) -> None:
    _, engine = await start(speed=2000.0)
    await engine.load("qwen2.5:14b", {})
    (held,) = await engine.residents()
    assert held.size_vram == 7_400_000_000 < held.size


async def test_a_model_that_is_not_there_is_permanent_and_named(start: Start) -> None:
    _, engine = await start()
    failed = await failure(engine, model="llama9:1b")
    assert (failed.klass, failed.retryable) == ("not_found", False)
    assert "'llama9:1b'" in failed.message and engine.url in failed.message
    for call in (engine.load("llama9:1b", {}), engine.unload("llama9:1b")):
        with pytest.raises(EngineError, match="llama9:1b") as caught:
            await call
        assert caught.value.klass == "not_found"


async def test_the_queue_past_its_bound_is_engine_busy(start: Start) -> None:
    server, engine = await start(max_queue=1, script=[{"model": "phi3", "hang": True}])
    hanging = asyncio.create_task(ask(engine))
    await server.until(lambda stats: stats["running"] == 1)
    others = {asyncio.create_task(ask(engine, model="qwen2.5:7b")) for _ in range(3)}
    done, waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
    refused = done.pop().exception()
    assert isinstance(refused, EngineError) and not isinstance(refused, EngineAway)
    assert (refused.klass, refused.retryable) == ("engine_busy", True)
    assert "maximum pending requests exceeded" in refused.message
    assert server.stats()["pending"] == 2
    hanging.cancel()  # the drain ends, and the queue moves
    assert all(reply.text for reply in await asyncio.gather(*waiting))


async def test_requests_wait_in_line_behind_a_drain(start: Start) -> None:
    server, engine = await start(script=[{"contains": "long", "hang": True}])
    long = asyncio.create_task(ask(engine, "long", "phi3"))
    await server.until(lambda stats: stats["running"] == 1)
    blocked = asyncio.create_task(ask(engine, "next", "qwen2.5:7b"))
    await server.until(lambda stats: stats["pending"] == 1)
    small = asyncio.create_task(ask(engine, "small", "gemma2:2b"))
    await server.until(lambda stats: stats["pending"] == 2)
    assert (await ask(engine, "joins", "phi3")).wait_ms == 0
    assert server.stats()["pending"] == 2 and not blocked.done() and not small.done()
    long.cancel()
    await asyncio.gather(blocked, small)
    assert server.stats()["loads_by_model"] == {"phi3": 1, "qwen2.5:7b": 1, "gemma2:2b": 1}


async def test_a_timeout_frees_the_slot(start: Start) -> None:
    server, engine = await start(script=[{"contains": "silent", "hang": True}], parallel=1)
    failed = await failure(engine, prompt="silent", timeout_s=0.2)
    assert (failed.klass, failed.retryable) == ("timeout", True)
    assert not isinstance(failed, EngineAway)
    assert (await ask(engine)).text
    assert server.stats()["running"] == 0


async def test_a_cancelled_chat_stays_cancelled(start: Start) -> None:
    server, engine = await start(script=[{"hang": True}])
    chat = asyncio.create_task(ask(engine))
    await server.until(lambda stats: stats["running"] == 1)
    chat.cancel()
    with pytest.raises(asyncio.CancelledError):
        await chat
    await server.until(lambda stats: stats["running"] == 0)


@pytest.mark.parametrize(
    ("status", "klass", "retryable"),
    [
        (400, "invalid_input", False),
        (408, "timeout", True),
        (413, "too_large", False),
        (418, "invalid_input", False),
        (429, "rate_limit", True),
        (499, "connection", True),
        (500, "connection", True),
        (503, "engine_busy", True),
    ],
)
async def test_what_a_status_means(start: Start, status: int, klass: str, retryable: bool) -> None:
    _, engine = await start(script=[{"error": {"status": status, "message": "as scripted"}}])
    failed = await failure(engine)
    assert (failed.klass, failed.retryable, type(failed)) == (klass, retryable, EngineError)
    assert "as scripted" in failed.message


@pytest.mark.parametrize("status", [401, 403, 407, 502, 504])
async def test_a_status_that_is_the_operators_to_mend(start: Start, status: int) -> None:
    _, engine = await start(script=[{"error": {"status": status}}])
    assert isinstance(await failure(engine), EngineAway)


async def test_faults_in_sequence(start: Start) -> None:
    _, engine = await start(script=[{"sequence": [{"error": {"status": 500}}, {"answer": "not { json"}, {}]}])
    assert (await failure(engine, response_format=GRADE)).klass == "connection"
    assert (await ask(engine, response_format=GRADE)).text == "not { json"
    validate(json.loads((await ask(engine, response_format=GRADE)).text), GRADE)


async def test_a_broken_answer_of_a_living_engine_is_the_items_failure(start: Start) -> None:
    _, engine = await start(script=[{"close": True}])
    failed = await failure(engine)
    assert (failed.klass, type(failed)) == ("connection", EngineError)


async def test_an_engine_that_dies_in_mid_answer_is_away(start: Start) -> None:
    server, engine = await start(script=[{"hang": True}])
    chats = [asyncio.create_task(ask(engine)) for _ in range(3)]
    await server.until(lambda stats: stats["running"] == 3)
    assert await engine.healthy()
    await server.stop()
    for failed in await asyncio.gather(*chats, return_exceptions=True):
        assert isinstance(failed, EngineAway)
    assert not await engine.healthy()


async def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = OllamaEngine(f"http://127.0.0.1:{port}")
    failed = await failure(engine)
    assert isinstance(failed, EngineAway) and failed.retryable and engine.url in failed.message
    for call in (engine.load("phi3", {}), engine.unload("phi3"), engine.residents(), engine.models()):
        with pytest.raises(EngineAway):
            await call
    assert not await engine.healthy()
    await engine.close()
    assert isinstance(await failure(engine), EngineAway)  # closed: still no bare error


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[OllamaEngine]:
    """An adapter to something that gives every request this answer, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        engine = OllamaEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        yield engine
        await engine.close()


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        http(b"<html>"),
        http(b"[]"),
        http(b"null"),
        http(b"\xff\xfe"),
        http(b'{"message": 3}'),
        http(b'{"models": [{"model": 3}]}'),
        http(b"[" * 100_000),
        http(b"[1]", b"500 Broken"),
        http(b"page not found", b"404 Not Found"),
    ],
)
async def test_what_is_no_ollama_never_raises_anything_else(raw: bytes) -> None:
    async with answering(raw) as engine:
        with pytest.raises(EngineError):
            await engine.chat(ChatRequest("phi3", "x", 5.0))
        with pytest.raises(EngineError):
            await engine.load("phi3", {})
        with pytest.raises(EngineError):
            await engine.unload("phi3")
        for listing in (engine.residents, engine.models):
            with pytest.raises(EngineAway):
                await listing()
        assert not await engine.healthy()


async def test_what_cannot_be_sent_is_the_requests_fault(start: Start) -> None:
    server, engine = await start()
    for about in ({"prompt": "\ud800"}, {"options": {"temperature": math.nan}}):
        failed = await failure(engine, **about)
        assert (failed.klass, failed.retryable) == ("invalid_input", False)
    assert server.stats()["requests"] == 0
