"""The adapter for OpenAI-compatible servers, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse, RedirectResponse, Response

from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    EngineAway,
    EngineError,
    Footprint,
    Resident,
    ToolCall,
    ToolOffer,
    Turn,
)
from agent_runner.engines.openai import OpenAIEngine
from agent_runner.engines.wire import MAX_ANSWER
from tests.engines.openai_server import OpenAIServer, error, said

Start = Callable[..., Awaitable[tuple[OpenAIServer, OpenAIEngine]]]
GRADE = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer"}}}
FORECAST = ToolOffer("forecast", "Says how the weather will be.", {"type": "object", "properties": {"place": {}}})
BIG = "org/big:q4"
KEY = "sk-very-secret"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def start(dialect: Any = "fixed", **about: Any) -> tuple[OpenAIServer, OpenAIEngine]:
            server = await stack.enter_async_context(OpenAIServer(dialect))
            engine = OpenAIEngine(server.url, **about)
            stack.push_async_callback(engine.close)
            return server, engine

        yield start


async def ask(engine: OpenAIEngine, prompt: str = "Hello there.", **about: Any) -> ChatReply:
    return await engine.chat(ChatRequest(**{"model": "small", "prompt": prompt, "timeout_s": 10.0, **about}))


async def failure(engine: OpenAIEngine, **about: Any) -> EngineError:
    with pytest.raises(EngineError) as failed:
        await ask(engine, **about)
    return failed.value


async def test_what_is_sent_and_what_comes_back(start: Start) -> None:
    server, engine = await start()
    server.chat = lambda body: (
        said("größer 😀", reasoning_content="hm") | {"timings": {"prompt_ms": 0.0, "predicted_ms": 1e9}}
    )
    options = {"temperature": 0, "seed": 3, "stop": ["x"], "num_predict": 64, "num_ctx": 8192, "min_p": 0.1, "top_k": 5}
    reply = await ask(engine, "Größe?", system="Be kind.", response_format=GRADE, options=options)
    assert (reply.text, reply.thinking, reply.calls) == ("größer 😀", "hm", [])
    assert (reply.prompt_tokens, reply.completion_tokens, reply.wait_ms) == (11, 7, 0)
    assert 0 <= reply.total_ms < 10_000
    assert server.asked("/v1/chat/completions") == [{
        "model": "small",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Größe?"}],
        "stream": False,
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "answer", "schema": GRADE, "strict": True}},
        "temperature": 0, "seed": 3, "stop": ["x"], "max_tokens": 64, "min_p": 0.1, "top_k": 5,
    }]  # fmt: skip


async def test_no_bound_on_the_answer_is_none(start: Start) -> None:
    server, engine = await start()
    await ask(engine, options={"num_predict": -1})
    assert "max_tokens" not in server.asked("/v1/chat/completions")[0]


async def test_the_wait_is_told_from_the_work(start: Start) -> None:
    server, engine = await start()
    server.chat = lambda body: said() | {"timings": {"prompt_ms": 0, "predicted_ms": 0.1}}
    reply = await ask(engine)
    assert reply.total_ms - 1 <= reply.wait_ms <= reply.total_ms
    for timings in ({"prompt_ms": math.inf, "predicted_ms": 1}, {"prompt_ms": 1}, {"prompt_ms": "1"}, 3):
        server.chat = lambda body, timings=timings: Response(json.dumps(said() | {"timings": timings}))  # type: ignore[misc]
        assert (await ask(engine)).wait_ms == 0


async def test_a_conversation_with_tools(start: Start) -> None:
    server, engine = await start()
    calls = [{"id": "abc", "type": "function", "function": {"name": "forecast", "arguments": '{"place": "Bern"}'}}]
    server.chat = lambda body: said(None, tool_calls=calls)
    first = await ask(engine, "Bern?", tools=[FORECAST])
    assert (first.text, first.calls) == ("", [ToolCall("forecast", {"place": "Bern"})])
    turns = [
        Turn("assistant", "", [*first.calls, ToolCall("forecast", {"place": "Zürich"})], "hm"),
        Turn("tool", "wet", tool="forecast"),
        Turn("tool", "dry", tool="forecast"),
        Turn("assistant", "One more.", [ToolCall("forecast", {})]),
        Turn("tool", "Error: no", tool="forecast"),
        Turn("user", "As JSON."),
    ]
    await ask(engine, "Bern?", tools=[FORECAST], turns=turns)
    sent = server.asked("/v1/chat/completions")[-1]
    assert sent["tools"] == [{"type": "function", "function": {
        "name": "forecast", "description": FORECAST.description, "parameters": FORECAST.parameters}}]  # fmt: skip

    def call(id: str, arguments: str) -> dict[str, Any]:
        return {"id": id, "type": "function", "function": {"name": "forecast", "arguments": arguments}}

    def result(id: str, text: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": id, "name": "forecast", "content": text}

    assert sent["messages"] == [
        {"role": "user", "content": "Bern?"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
            call("call00001", '{"place": "Bern"}'), call("call00002", '{"place": "Zürich"}')]},
        result("call00001", "wet"),
        result("call00002", "dry"),
        {"role": "assistant", "content": "One more.", "tool_calls": [call("call00003", "{}")]},
        result("call00003", "Error: no"),
        {"role": "user", "content": "As JSON."},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "read", "fault"),
    [
        ("", {}, ""),
        (None, {}, ""),
        ({"place": "Bern"}, {"place": "Bern"}, ""),
        ('{"place": "Be', {}, "not JSON"),
        ('{"n": 1} {"n": 2}', {}, "not JSON"),
        ("[1]", {}, "not a JSON object"),
        ("3", {}, "not a JSON object"),
        (3, {}, "not a JSON object"),
        ("[" * 100_000, {}, "not JSON"),
    ],
)
async def test_arguments_that_can_not_be_read_are_the_models_to_mend(
    start: Start, arguments: Any, read: Any, fault: str
) -> None:
    server, engine = await start()
    server.chat = lambda body: said(tool_calls=[{"function": {"name": "forecast", "arguments": arguments}}])
    (call,) = (await ask(engine, tools=[FORECAST])).calls
    assert (call.name, call.arguments) == ("forecast", read)
    assert fault in call.fault and bool(call.fault) == bool(fault)


async def test_how_an_answer_ends(start: Start) -> None:
    server, engine = await start()
    server.chat = lambda body: {"choices": [{"finish_reason": "length", "message": {"content": '{"score'}}]}
    assert (await ask(engine, response_format=GRADE)).text == '{"score'  # the node says what is wrong with it
    server.chat = lambda body: {"choices": [{"finish_reason": "content_filter", "message": {"content": ""}}]}
    failed = await failure(engine)
    assert (failed.klass, failed.retryable) == ("invalid_input", False)
    server.chat = lambda body: {"choices": [{"message": {"content": None}}]}
    reply = await ask(engine)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("", 0, 0)


async def test_half_a_surrogate_pair_goes_no_further_than_the_text(start: Start) -> None:
    server, engine = await start()
    server.chat = lambda body: Response('{"choices": [{"message": {"content": "a \\ud800 b"}}]}')
    assert (await ask(engine)).text == "a \ud800 b"
    server.chat = lambda body: Response('{"error": {"message": "a \\ud800 b"}}', 400)
    (await failure(engine)).message.encode()
    for about in ({"prompt": "\ud800"}, {"options": {"temperature": math.nan}}):
        failed = await failure(engine, **about)
        assert (failed.klass, failed.retryable) == ("invalid_input", False)


# --- residency ---


async def test_fixed_models_are_resident_as_listed(start: Start) -> None:
    _, engine = await start()
    assert await engine.models() == [BIG, "small"]
    assert (await engine.load("small", {"num_ctx": 1})).load_ms >= 0
    await engine.unload("small")
    held = await engine.residents()
    assert held == [Resident(m, 0, 0, None, 8192) for m in ("small", BIG)]
    with pytest.raises(EngineError, match="'gone'") as failed:
        await engine.load("gone", {})
    assert failed.value.klass == "not_found"
    await engine.unload("gone")


@pytest.mark.parametrize("dialect", ["router", "swap"])
async def test_load_and_unload(start: Start, dialect: str) -> None:
    server, engine = await start(dialect)
    assert await engine.residents() == []
    server.hold.clear()
    loading = asyncio.create_task(engine.load(BIG, {}))
    while server.states[BIG] == "unloaded":
        await asyncio.sleep(0)
    assert await engine.residents() == [] and not loading.done()
    server.hold.set()
    await loading
    assert [one.model for one in await engine.residents()] == [BIG]
    await engine.load(BIG, {})  # again: it is there
    await engine.unload(BIG)
    assert await engine.residents() == []
    await engine.unload(BIG)  # it is not there, and that is fine
    for call in (engine.load("gone", {}), engine.unload("gone")):
        with pytest.raises(EngineError, match="'gone'") as failed:
            await call
        assert failed.value.klass == "not_found"


@pytest.mark.parametrize("dialect", ["router", "swap"])
async def test_a_model_that_can_not_be_loaded(start: Start, dialect: str) -> None:
    server, engine = await start(dialect)
    server.fails_to_load = {BIG}
    for _ in range(2):  # what an earlier load left behind decides nothing
        with pytest.raises(EngineError) as failed:
            await engine.load(BIG, {})
        assert failed.value.klass == "connection" and not isinstance(failed.value, EngineAway)
    server.fails_to_load = set()
    await engine.load(BIG, {})
    assert [one.model for one in await engine.residents()] == [BIG]


async def test_a_model_that_is_unloaded_while_it_loads(start: Start) -> None:
    server, engine = await start("router")
    server.hold.clear()
    loading = asyncio.create_task(engine.load(BIG, {}))
    while len(server.asked("/models")) < 3:  # which dialect; its state; its state while it loads
        await asyncio.sleep(0)
    server.states[BIG] = "unloaded"
    with pytest.raises(EngineError, match="could not load"):
        await loading


async def test_a_load_takes_no_longer_than_it_may(start: Start) -> None:
    for dialect in ("router", "swap"):
        server, engine = await start(dialect, load_timeout_s=0.2)
        server.hold.clear()
        with pytest.raises(EngineError) as failed:
            await engine.load(BIG, {})
        assert (failed.value.klass, type(failed.value)) == ("timeout", EngineError)


async def test_llama_swap_before_a_server_without_health(start: Start) -> None:
    server, engine = await start("swap")
    server.health = None
    await engine.load(BIG, {})
    assert [one.model for one in await engine.residents()] == [BIG]


async def test_the_dialect_is_asked_for_once(start: Start) -> None:
    server, engine = await start("swap")
    for _ in range(3):
        await engine.residents()
    assert len(server.asked("/running")) == 4


async def test_footprints(start: Start) -> None:
    server, engine = await start()
    assert await engine.footprint("small", {}) == Footprint(4_900_000_000, None, 8)
    server.meta = None  # vLLM: nothing is said
    assert await engine.footprint("small", {}) is None
    with pytest.raises(EngineError) as failed:
        await engine.footprint("gone", {})
    assert failed.value.klass == "not_found"
    server, engine = await start("router")
    assert await engine.footprint("small", {}) is None
    await engine.load("small", {})
    assert await engine.footprint("small", {}) == Footprint(4_900_000_000, None, 8)
    assert server.states == {"small": "loaded", BIG: "unloaded"}  # to be asked loads nothing


# --- failures ---


@pytest.mark.parametrize(
    ("status", "klass", "retryable"),
    [
        (400, "invalid_input", False),
        (404, "not_found", False),
        (408, "timeout", True),
        (413, "too_large", False),
        (418, "invalid_input", False),
        (422, "invalid_input", False),
        (429, "rate_limit", True),
        (499, "connection", True),
        (500, "connection", True),
        (503, "engine_busy", True),
    ],
)
async def test_what_a_status_means(start: Start, status: int, klass: str, retryable: bool) -> None:
    server, engine = await start()
    server.chat = lambda body: error(status, "as scripted")
    failed = await failure(engine)
    assert (failed.klass, failed.retryable, type(failed)) == (klass, retryable, EngineError)
    assert "as scripted" in failed.message


@pytest.mark.parametrize("status", [401, 403, 407, 502, 504])
async def test_a_status_that_is_the_operators_to_mend(start: Start, status: int) -> None:
    server, engine = await start()
    server.chat = lambda body: error(status, "as scripted")
    assert isinstance(await failure(engine), EngineAway)


@pytest.mark.parametrize(
    ("status", "body", "klass"),
    [
        (400, {"error": {"message": "the request exceeds the available context size, try increasing it"}}, "too_large"),
        (500, {"error": {"message": "no", "type": "exceed_context_size_error"}}, "too_large"),
        (400, {"error": {"message": "too long", "code": "context_length_exceeded"}}, "too_large"),
        (400, {"object": "error", "message": "This model's maximum context length is 4 tokens."}, "too_large"),
        (400, {"error": {"message": "model 'small' not found"}}, "not_found"),
        (400, {"error": "could not find real modelID for small"}, "not_found"),
        (400, {"error": {"message": "model is not loaded"}}, "engine_busy"),
        (404, {"error": {"message": "The model `small` does not exist.", "type": "NotFoundError"}}, "not_found"),
        (404, {"detail": "Not Found"}, "connection"),  # not an engine's 404: the URL leads elsewhere
        (400, {"error": {"message": "top_p must be at most 1"}}, "invalid_input"),
        (200, {"error": "Unexpected endpoint or method."}, "connection"),
    ],
)
async def test_what_engines_say_in_words(start: Start, status: int, body: Any, klass: str) -> None:
    server, engine = await start()
    server.chat = lambda _: JSONResponse(body, status)
    failed = await failure(engine)
    assert (failed.klass, type(failed)) == (klass, EngineError)


async def test_a_server_that_loads_its_model_is_away_until_then(start: Start) -> None:
    server, engine = await start()
    server.health = 503
    server.chat = lambda body: error(503, "Loading model", "unavailable_error")
    assert isinstance(await failure(engine), EngineAway)
    assert not await engine.healthy()
    server.health = 200
    assert await engine.healthy()


async def test_a_timeout_ends_the_request(start: Start) -> None:
    server, engine = await start()

    async def hang(body: Any) -> Response:
        await asyncio.Event().wait()
        return Response()

    server.chat = hang
    failed = await failure(engine, timeout_s=0.2)
    assert (failed.klass, type(failed)) == ("timeout", EngineError)
    server.chat = lambda body: said()
    assert (await ask(engine)).text == "ok"


async def test_the_key_goes_to_the_engine_alone_and_is_never_shown(start: Start) -> None:
    server, engine = await start(key=KEY)
    elsewhere, _ = await start()
    await ask(engine)
    assert server.sent[-1][1]["authorization"] == f"Bearer {KEY}"
    server.chat = lambda body: error(401, f"{'x' * 490} wrong key {KEY}")
    assert KEY[:5] not in (await failure(engine)).message
    server.chat = lambda body: error(400, f"wrong key {KEY}")
    assert "wrong key ***" in (await failure(engine)).message
    server.chat = lambda body: RedirectResponse(f"{elsewhere.url}/v1/chat/completions", 307)
    assert "redirect" in (await failure(engine)).message
    assert elsewhere.sent == []


async def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    engine = OpenAIEngine(f"http://127.0.0.1:{port}")
    for call in (
        ask(engine),
        engine.load("m", {}),
        engine.unload("m"),
        engine.residents(),
        engine.models(),
        engine.footprint("m", {}),
    ):
        with pytest.raises(EngineAway, match=str(port)):
            await call
    assert not await engine.healthy()
    await engine.close()
    assert isinstance(await failure(engine), EngineAway)  # closed: still no bare error


Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answer, **about: Any) -> AsyncIterator[OpenAIEngine]:
    """An adapter to something that does this with every request, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        engine = OpenAIEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", **about)
        yield engine
        await engine.close()


def saying(raw: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return answer


def http(body: bytes, status: bytes = b"200 OK", header: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, header, len(body), body)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        http(b"<html>hello</html>"),
        http(b""),
        http(b"[]"),
        http(b"null"),
        http(b"\xff\xfe"),
        http(b'{"choices": []}'),
        http(b'{"choices": 3, "data": 3, "running": 3}'),
        http(b'{"choices": [null], "data": null}'),
        http(b'{"choices": [{"message": {"content": [1]}}]}'),
        http(b'{"choices": [{"message": {"content": "", "tool_calls": [3]}}]}'),
        http(b"[" * 100_000),
        http(b"9" * 10_000),
        http(b"\x1f\x8b", header=b"Content-Encoding: gzip\r\n"),
        http(b"[1]", b"500 Broken"),
        http(b"page not found", b"404 Not Found"),
        http(b"", b"302 Found", b"Location: https://elsewhere.example/\r\n"),
    ],
)
async def test_what_is_no_engine_never_raises_anything_else(raw: bytes) -> None:
    async with answering(saying(raw)) as engine:
        with pytest.raises(EngineAway):
            await ask(engine)
        for call in (engine.load("m", {}), engine.residents(), engine.models(), engine.footprint("m", {})):
            with pytest.raises(EngineAway):
                await call
        assert not await engine.healthy()


async def test_an_answer_of_any_size_takes_no_more_memory_than_it_may() -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b" " * 2**20)
            await writer.drain()

    async with answering(flood) as engine:
        failed = await failure(engine)
    assert str(MAX_ANSWER) in failed.message


async def test_an_answer_that_drips_is_late() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MAX_ANSWER)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0)

    async with answering(drip, control_timeout_s=0.2, load_timeout_s=0.2) as engine:
        assert (await failure(engine, timeout_s=0.2)).klass == "timeout"
        for call in (engine.load("m", {}), engine.residents(), engine.models()):
            with pytest.raises(EngineError) as failed:
                await call
            assert failed.value.klass == "timeout"
        assert not await engine.healthy()


@pytest.mark.parametrize("headers", [{"Content-Length": "200000"}, {}])
async def test_a_broken_answer_of_a_living_engine_is_the_items_failure(start: Start, headers: dict[str, str]) -> None:
    server, engine = await start()
    server.chat = lambda body: Response("[" * 100_000, headers=headers)
    failed = await failure(engine)
    assert (failed.klass, type(failed)) == ("connection", EngineError)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just('{"place": 1}'),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


def about(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these fields, or any other value in its place."""
    return st.fixed_dictionaries({}, optional={name: field | values for name, field in fields.items()}) | values


functions = about(name=st.just("forecast"), arguments=values)
messages = about(content=st.text(), tool_calls=st.lists(about(function=functions)), reasoning_content=values)
bodies = about(
    choices=st.lists(about(message=messages, finish_reason=st.sampled_from(["length", "content_filter"]))),
    usage=about(prompt_tokens=values, completion_tokens=values),
    timings=about(prompt_ms=values, predicted_ms=values),
    error=values,
)


@given(st.lists(bodies, min_size=10, max_size=15))
@settings(max_examples=20)
async def test_any_body_gives_a_reply_or_an_engine_error(given: list[Any]) -> None:
    server = OpenAIServer()
    engine = server.at_hand()
    for body in given:
        server.chat = lambda _, body=body: Response(json.dumps(body))  # type: ignore[misc]
        try:
            reply = await ask(engine, tools=[FORECAST])
        except EngineError:
            continue
        assert isinstance(reply.text, str) and isinstance(reply.thinking, str)
        assert reply.prompt_tokens >= 0 and reply.completion_tokens >= 0 and 0 <= reply.wait_ms <= reply.total_ms
        assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in reply.calls)
    await engine.close()


@given(
    st.lists(
        about(data=st.lists(about(id=st.just("m"), status=about(value=values), meta=values))), min_size=5, max_size=8
    )
)
@settings(max_examples=10)
async def test_any_list_of_models_is_read_or_refused(given: list[Any]) -> None:
    server = OpenAIServer("router")
    for body in given:
        server.listing = body
        engine = server.at_hand(control_timeout_s=0.5, load_timeout_s=0.02)
        for call in (engine.residents(), engine.models(), engine.load("m", {}), engine.footprint("m", {})):
            with contextlib.suppress(EngineError):
                await call
        await engine.close()
