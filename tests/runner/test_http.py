"""Http nodes through a whole runner, against a real server on loopback: calls, statuses, sizes."""

import asyncio
import dataclasses
import gzip
import zlib
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.nodes.http import HttpNodes
from agent_runner.web.caller import WebCaller
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.limits import LIMITS
from tests.runner.conftest import Completed, Serve
from tests.runner.http_calls import Execute, execute, failure, message, web
from tests.runner.web_server import Asked, WebServer, answer, json_answer
from tests.runner.workflows import http, make_ir, start

__all__ = ["execute", "web"]  # fixtures


# -- what is asked, and what comes of it -------------------------------------------------------------


async def test_a_get(web: WebServer, execute: Execute) -> None:
    signal = await execute(http("a", web.url + "/items/{{ input.id }}?v=1"), {"id": 7})
    assert signal["result_data"]["status"] == 200
    assert signal["result_data"]["body"] == {"ok": True}
    assert signal["result_data"]["headers"]["content-type"] == "application/json"
    assert signal["metadata"].keys() == {"execution_time_ms", "runner"}
    (asked,) = web.asked
    assert (asked.method, asked.target, asked.body) == ("GET", "/items/7?v=1", b"")
    assert (asked.headers["host"], asked.headers["idempotency-key"]) == (f"127.0.0.1:{web.port}", "run_1.1")


async def test_a_query_is_encoded(web: WebServer, execute: Execute) -> None:
    query = {"q": "{{ input.q }}", "n": [1, "two"], "flag": True}
    await execute(http("a", web.url + "/?v=1#part", query=query), {"q": "R&D #1, é=?"})
    assert web.asked[0].target == "/?v=1&q=R%26D+%231%2C+%C3%A9%3D%3F&n=1&n=two&flag=true"


async def test_a_body_is_json_unless_it_is_text(web: WebServer, execute: Execute) -> None:
    await execute(http("a", web.url, "POST", body={"n": "{{ input.n }}", "s": "é {{ input.n }}"}), {"n": [1.5]})
    (asked,) = web.asked
    assert asked.headers["content-type"] == "application/json"
    assert orjson.loads(asked.body) == {"n": [1.5], "s": "é [1.5]"}


@pytest.mark.parametrize(
    ("headers", "kind"), [({}, "text/plain; charset=utf-8"), ({"Content-Type": "text/csv"}, "text/csv")]
)
async def test_a_body_of_text(headers: dict[str, str], kind: str, web: WebServer, execute: Execute) -> None:
    await execute(http("a", web.url, "PUT", body="é,{{ input }}", headers=headers), 1)
    (asked,) = web.asked
    assert (asked.method, asked.body.decode(), asked.headers["content-type"]) == ("PUT", "é,1", kind)


async def test_headers_of_the_author_and_of_the_runner(web: WebServer, execute: Execute) -> None:
    headers = {
        "X-Name": "{{ input.name }}", "Accept": "text/html", "X-Count": "{{ input.n }}", "Host": "elsewhere",
        "Idempotency-Key": "mine", "Content-Length": "3", "Transfer-Encoding": "chunked",
    }  # fmt: skip
    await execute(http("a", web.url, "POST", headers=headers, body=[1, 2, 3]), {"name": "né", "n": 2})
    (asked,) = web.asked
    assert asked.headers["x-name"].encode("latin-1").decode() == "né"
    assert (asked.headers["accept"], asked.headers["x-count"]) == ("text/html", "2")
    assert asked.headers["host"] == f"127.0.0.1:{web.port}"
    assert (asked.headers["idempotency-key"], asked.headers["content-length"]) == ("run_1.1", "7")
    assert "transfer-encoding" not in asked.headers


@pytest.mark.parametrize("text", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "a\rb"])
async def test_a_header_is_one_line(text: str, web: WebServer, execute: Execute) -> None:
    signal = await execute(http("a", web.url, headers={"X-Name": "{{ input }}"}), text)
    assert failure(signal) == ("invalid_input", False)
    assert "X-Name" in message(signal) and "Evil" not in message(signal)
    assert web.asked == []


async def test_a_header_with_a_name_that_is_none(web: WebServer, execute: Execute) -> None:
    signal = await execute(http("a", web.url, headers={"X Name: 1\r\nY": "1"}))
    assert failure(signal) == ("invalid_input", False)
    assert web.asked == []


async def test_a_url_is_no_place_for_a_second_request(web: WebServer, execute: Execute) -> None:
    signal = await execute(http("a", web.url + "/{{ input }}"), "x HTTP/1.1\r\nX-Evil: 1")
    assert failure(signal) == ("invalid_input", False)
    assert web.asked == []


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b'{"a": [1]}', "application/json; charset=utf-8", {"a": [1]}),
        (b"[]", "application/problem+json", []),
        (b'{"a": [1]}', "text/plain", '{"a": [1]}'),
        ("é".encode("latin-1"), "text/plain; charset=ISO-8859-1", "é"),
        ("é".encode(), "text/plain; charset=no-such", "é"),
        (b"a-", "text/plain; charset=punycode", "a-"),
        (b"\xff", "image/png", "\ufffd"),
        (b"", "application/json", None),
    ],
)
async def test_bodies(body: bytes, kind: str, expected: Any, web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: answer(200, body, content_type=kind)
    assert (await execute(http("a", web.url)))["result_data"]["body"] == expected


async def test_json_that_is_none(web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: answer(200, b'{"a": ', content_type="application/json")
    assert failure(await execute(http("a", web.url))) == ("invalid_output", True)


async def test_an_answer_that_is_broken_off(web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: answer(200, b"x" * 100)[:-10]
    assert failure(await execute(http("a", web.url))) == ("connection", True)


async def test_something_that_speaks_no_http(web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: b"-ERR wrong number of arguments\r\n"
    assert failure(await execute(http("a", web.url))) == ("connection", True)


async def test_nobody_there(web: WebServer, execute: Execute) -> None:
    await web.stop()
    assert failure(await execute(http("a", web.url))) == ("connection", True)


async def test_an_answer_that_takes_too_long(web: WebServer, execute: Execute) -> None:
    async def slow(asked: Asked) -> AsyncIterator[bytes]:
        yield answer(200, b"x" * 10)[:-5]
        await asyncio.Event().wait()

    web.answer = slow
    assert failure(await execute(http("a", web.url, extra={"timeout_ms": 100}))) == ("timeout", True)


# -- statuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [(status, ("http_status", True)) for status in (408, 425, 500, 502, 503, 504)]
    + [(status, ("http_status", False)) for status in (304, 400, 401, 404, 409, 501)]
    + [(429, ("rate_limit", True))],
)
async def test_a_status_that_is_not_expected(
    status: int, expected: tuple[str, bool], web: WebServer, execute: Execute
) -> None:
    web.answer = lambda asked: answer(status, b"" if status == 304 else b"because")
    signal = await execute(http("a", web.url + "/secret-path", "POST"))
    assert failure(signal) == expected
    assert message(signal) == f"POST {web.url} answered {status}" + (": because" if status != 304 else "")


@pytest.mark.parametrize(("expect", "status"), [(404, 404), ([200, 409], 409), ([302], 302)])
async def test_a_status_that_is_expected(expect: Any, status: int, web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: answer(status, b"gone", location="http://elsewhere/")
    signal = await execute(http("a", web.url, expect_status=expect))
    assert (signal["result_data"]["status"], signal["result_data"]["body"]) == (status, "gone")


async def test_two_hundred_is_no_good_where_another_is_expected(web: WebServer, execute: Execute) -> None:
    assert failure(await execute(http("a", web.url, expect_status=[404]))) == ("http_status", False)


async def test_a_run_is_retried_by_status(web: WebServer, store: RunStore, serve: Serve, completed: Completed) -> None:
    """The second attempt gets through; both carry the same key, so that the other side can tell."""
    statuses = iter([503, 200])
    web.answer = lambda asked: json_answer({"n": len(web.asked)}, next(statuses))
    serve(nodes={"http": HttpNodes(WebCaller())})
    await start(store, "run_1", make_ir(http("a", web.url, "POST", extra={"retry": {"backoff_ms": 1, "jitter": 0}})))

    await completed("run_1")
    assert [asked.headers["idempotency-key"] for asked in web.asked] == ["run_1.1", "run_1.1"]


async def test_a_runner_of_several_types(web: WebServer, store: RunStore, serve: Serve, completed: Completed) -> None:
    """One node's output is the next one's address and body."""

    def double(n: int) -> int:
        return n * 2

    nodes = [
        {"id": "a", "type": "function", "config": {"handler": "double", "args": {"n": "{{ input }}"}}},
        {
            "id": "b",
            "type": "http",
            "config": {"method": "POST", "url": web.url + "/{{ output }}", "body": "{{ output }}"},
        },
    ]
    ir = compile_workflow({"id": "w", "nodes": nodes, "edges": [{"from": "a", "to": "b"}]}).ir
    serve(nodes={"function": FunctionNodes(Handlers([double])), "http": HttpNodes(WebCaller())})
    for n in range(30):
        await start(store, f"run_{n}", ir, n)
    for n in range(30):
        await completed(f"run_{n}")
    assert sorted(int(asked.target[1:]) for asked in web.asked) == [n * 2 for n in range(30)]
    assert all(asked.body.decode() == asked.target[1:] for asked in web.asked)


# -- size --------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_runner.web.answer.LIMITS", dataclasses.replace(LIMITS, output_bytes=100_000))


@pytest.mark.usefixtures("small")
async def test_an_answer_without_end(web: WebServer, execute: Execute) -> None:
    async def endless(asked: Asked) -> AsyncIterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        while True:
            yield b"x" * 10_000

    web.answer = endless
    assert failure(await execute(http("a", web.url))) == ("too_large", False)


@pytest.mark.usefixtures("small")
async def test_a_bomb_is_not_inflated(web: WebServer, execute: Execute, monkeypatch: pytest.MonkeyPatch) -> None:
    produced = []
    make = zlib.decompressobj

    class Counted:
        def __init__(self, *args: Any) -> None:
            self._inner = make(*args)

        def decompress(self, *args: Any) -> bytes:
            produced.append(self._inner.decompress(*args))
            return produced[-1]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Counted)
    web.answer = lambda asked: answer(200, gzip.compress(bytes(50_000_000)), content_encoding="gzip")
    assert failure(await execute(http("a", web.url))) == ("too_large", False)
    assert sum(map(len, produced)) < 300_000


async def test_gzip(web: WebServer, execute: Execute) -> None:
    body = gzip.compress(b"[" + b"1," * 200_000) + gzip.compress(b"1]")  # in two members
    web.answer = lambda asked: answer(200, body, content_encoding="gzip", content_type="application/json")
    caller = WebCaller()
    signal = await execute(http("a", web.url), None, caller)
    assert signal["result_ref"].startswith("artifact://")  # 200,001 ones
    assert web.asked[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("gzip", b"no gzip", ("invalid_output", True)),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-12], ("connection", True)),
        ("zstd", b"whatever", ("invalid_output", False)),
    ],
)
async def test_compression_that_can_not_be_read(
    encoding: str, body: bytes, expected: tuple[str, bool], web: WebServer, execute: Execute
) -> None:
    web.answer = lambda asked: answer(200, body, content_encoding=encoding)
    assert failure(await execute(http("a", web.url))) == expected
