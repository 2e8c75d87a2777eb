"""The simulated engine's own surface: Ollama's protocol as any client sees it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest

from agent_runner.engines.simulated.gpu import CATALOGUE
from agent_runner.engines.simulated.listener import bound
from agent_runner.engines.simulated.protocol import Refused, parse_keep_alive
from agent_runner.engines.simulated.server import SimulatedServer
from tests.engines.conftest import Start, ask

GREETING = {"model": "phi3", "messages": [{"role": "user", "content": "Good day to you all."}]}


async def post(server: SimulatedServer, path: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.post(server.url + path, content=content)


async def get(server: SimulatedServer, path: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return await client.get(server.url + path)


async def test_the_official_client_reads_a_stream(start: Start) -> None:
    server, _ = await start()
    client = ollama.AsyncClient(host=server.url, timeout=20)
    chunks = [chunk async for chunk in await client.chat(**GREETING, stream=True)]
    whole = await client.chat(**GREETING)
    assert "".join(chunk.message.content or "" for chunk in chunks) == whole.message.content
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    last = chunks[-1]
    assert last.done_reason == "stop" and last.eval_count == whole.eval_count
    assert last.total_duration and last.load_duration and whole.load_duration == 0
    assert whole.total_duration == pytest.approx((whole.prompt_eval_duration or 0) + (whole.eval_duration or 0), abs=2)
    generated = [chunk.response async for chunk in await client.generate("phi3", "Good day.", stream=True)]
    assert "".join(generated) == "Good day."
    assert "completion" in ((await client.show("phi3")).capabilities or [])
    with pytest.raises(ollama.ResponseError, match="model 'x' not found"):
        await client.show("x")


async def test_streams_by_default_as_ndjson(start: Start) -> None:
    server, _ = await start()
    streamed = await post(server, "/api/chat", GREETING)
    assert streamed.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["done"] for line in streamed.text.splitlines()][-2:] == [False, True]
    whole = await post(server, "/api/chat", {**GREETING, "stream": False})
    assert whole.headers["content-type"] == "application/json" and whole.json()["done"]


async def test_a_stream_that_breaks_off(start: Start) -> None:
    server, _ = await start(script=[{"close": True}])
    with pytest.raises(httpx.RemoteProtocolError):
        await post(server, "/api/chat", GREETING)


async def test_the_small_routes(start: Start) -> None:
    server, _ = await start()
    assert (await get(server, "/")).text == "Ollama is running"
    assert (await get(server, "/api/version")).json()["version"]
    listed = (await get(server, "/api/tags")).json()["models"]
    assert {one["name"] for one in listed} == {n if ":" in n else n + ":latest" for n in CATALOGUE}
    assert (await get(server, "/api/nothing")).status_code == 404
    assert (await get(server, "/api/chat")).status_code == 405


@pytest.mark.parametrize("empty", [{"prompt": ""}, {}, {"messages": []}])
async def test_an_empty_request_loads_and_with_keep_alive_0_unloads(start: Start, empty: dict[str, Any]) -> None:
    server, _ = await start()
    path = "/api/chat" if "messages" in empty else "/api/generate"
    loaded = (await post(server, path, {"model": "phi3", **empty, "keep_alive": "10h"})).json()
    assert loaded["done"] and loaded["done_reason"] == "load"
    (held,) = (await get(server, "/api/ps")).json()["models"]
    assert held["name"] == "phi3:latest" and held["context_length"] == 4096
    gone = (await post(server, path, {"model": "phi3", **empty, "keep_alive": 0})).json()
    assert gone["done_reason"] == "unload"
    assert (await get(server, "/api/ps")).json() == {"models": []}


async def test_a_keep_alive_of_the_request_unloads_after_it(start: Start) -> None:
    server, _ = await start()
    await post(server, "/api/chat", {**GREETING, "keep_alive": "0s"})
    assert (await get(server, "/api/ps")).json() == {"models": []}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        (1.5, 1.5),
        (-1, math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("-1m", math.inf),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("0", 0),
        ("-1", math.inf),
        ("+2s", 2),
    ],
)
def test_keep_alive(value: object, seconds: float | None) -> None:
    assert parse_keep_alive(value) == seconds


@pytest.mark.parametrize("value", ["", "5", "m", "5 m", "5minutes", [], {}, True, "1m-1s"])
def test_a_bad_keep_alive(value: object) -> None:
    with pytest.raises(Refused) as refused:
        parse_keep_alive(value)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "missing request body"),
        (b"{", "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
        (b"\xff", "invalid JSON"),
        (b'{"model": NaN}', "NaN is not JSON"),
        ([], "must be an object"),
        ({}, "model is required"),
        ({"model": 3}, "model is required"),
        ({**GREETING, "messages": {}}, "messages must be a list"),
        ({**GREETING, "messages": [3]}, "messages[0]"),
        ({**GREETING, "messages": [{"content": []}]}, "messages[0]"),
        ({**GREETING, "options": 3}, "options must be an object"),
        ({**GREETING, "options": {"num_ctx": "many"}}, 'option "num_ctx" must be of type integer'),
        ({**GREETING, "format": "xml"}, "invalid format"),
        ({**GREETING, "format": {"type": 3}}, "invalid JSON schema in format"),
        ({**GREETING, "format": {"minLength": "x"}}, "invalid JSON schema in format"),
        ({**GREETING, "keep_alive": "soon"}, "invalid duration"),
        ({**GREETING, "stream": "yes"}, "stream must be a boolean"),
    ],
)
async def test_a_bad_request_is_a_400_that_says_why(start: Start, body: Any, said: str) -> None:
    server, _ = await start()
    refused = await post(server, "/api/chat", body)
    assert refused.status_code == 400
    assert said in refused.json()["error"]


async def test_a_schema_nested_past_reason_is_answered(start: Start) -> None:
    server, _ = await start()
    nested = b'{"properties": {"a": ' * 300 + b"{}" + b"}}" * 300
    body = b'{"model": "phi3", "prompt": "x", "stream": false, "format": %s}' % nested
    assert (await post(server, "/api/generate", body)).status_code in (200, 400)


async def test_text_of_any_kind_comes_through(start: Start) -> None:
    server, engine = await start()
    reply = await ask(engine, "größer — \U0001f600 \x00 ist das nicht.")
    assert reply.text.startswith("größer — \U0001f600")
    lone = b'{"model": "phi3", "prompt": "a lone \\ud800 surrogate", "stream": false}'
    assert (await post(server, "/api/generate", lone)).json()["response"] == "a lone ? surrogate"


async def test_num_predict_cuts_the_answer(start: Start) -> None:
    server, _ = await start()
    body = {**GREETING, "stream": False, "options": {"num_predict": 2}}
    cut = (await post(server, "/api/chat", body)).json()
    assert cut["done_reason"] == "length" and cut["eval_count"] == 2
    assert cut["message"]["content"] == "Good day"


async def test_stats_add_up(start: Start) -> None:
    server, engine = await start(script=[{"contains": "fixed", "work_s": 2}])
    await asyncio.gather(*(ask(engine, f"fixed {n}") for n in range(8)))
    stats = (await get(server, "/simulated/stats")).json()
    assert stats["work_s"] == pytest.approx(16.0)
    assert stats["active_s"] + stats["loading_s"] + stats["idle_s"] == pytest.approx(stats["simulated_s"])
    assert (stats["loads"], stats["loading_s"], stats["requests"]) == (1, pytest.approx(2.2), 8)
    assert stats["active_s"] >= 16.0 / (8 / 2.4) - 1e-6


@pytest.mark.parametrize(
    "about",
    [{"gpu": "3GB"}, {"speed": 0}, {"speed": math.inf}, {"parallel": 0}, {"max_loaded": 0}, {"script": 3}],
)
def test_bad_arguments_are_refused(about: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SimulatedServer(**about)


async def test_a_taken_port_is_an_error_at_the_start(start: Start) -> None:
    server, _ = await start()
    with pytest.raises(OSError):
        await SimulatedServer(port=int(server.url.rsplit(":", 1)[1])).start()


def test_its_socket_names_tcp_so_that_answers_are_not_held_back() -> None:
    with bound(("127.0.0.1", 0)) as listening:
        assert listening.proto == socket.IPPROTO_TCP


async def test_it_starts_again_on_its_port() -> None:
    server = SimulatedServer(speed=500.0)
    await server.start()
    url = server.url
    await post(server, "/api/generate", {"model": "phi3", "keep_alive": -1})
    await server.stop()
    await server.stop()
    async with server:
        assert server.url == url
        assert (await get(server, "/api/ps")).json() == {"models": []}
        assert server.stats()["loads"] == 0


async def test_a_process_of_its_own_ends_on_sigterm() -> None:
    code = "from agent_runner.engines.simulated.server import serve; serve(ready=print, speed=100)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(url)).text == "Ollama is running"
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 30) == 0
