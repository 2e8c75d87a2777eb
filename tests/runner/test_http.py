"""Http nodes through a whole runner, against a real server on loopback."""

import asyncio
import dataclasses
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.nodes.http import HttpNodes
from agent_runner.web.caller import REDIRECTS, WebCaller
from agent_runner.web.credential import Credential
from agent_runner.web.origin import Hosts
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.limits import LIMITS
from tests.runner.conftest import Completed, Serve, Signals
from tests.runner.web_server import Asked, WebServer, answer, json_answer
from tests.runner.workflows import http, make_ir, start

CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    """Answers {"ok": true} unless the test says otherwise."""
    server = WebServer(lambda asked: json_answer({"ok": True}))
    await server.start()
    yield server
    await server.stop()


Execute = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def execute(store: RunStore, serve: Serve, signals: Signals) -> Execute:
    """`await execute(http(...), input)`: the completion signal of a run with this one node."""

    async def run(node: Any, value: Any = None, caller: WebCaller | None = None) -> dict[str, Any]:
        serve(nodes={"http": HttpNodes(caller or WebCaller())})
        await start(store, "run_1", make_ir(node), value)
        (signal,) = await signals(1)
        return signal

    return run


def failure(signal: dict[str, Any]) -> tuple[str, bool]:
    assert signal["status"] == "failed", signal
    return signal["metadata"]["error_type"], signal["metadata"]["retryable"]


def message(signal: dict[str, Any]) -> str:
    return str(signal["metadata"]["error_message"])


# -- what is asked, and what comes of it -------------------------------------------------------------


async def test_a_get(web: WebServer, execute: Execute) -> None:
    signal = await execute(http("a", web.url + "/items/{{ input.id }}?v=1"), {"id": 7})
    assert signal["result_data"]["status"] == 200
    assert signal["result_data"]["body"] == {"ok": True}
    assert signal["result_data"]["headers"]["content-type"] == "application/json"
    assert signal["metadata"].keys() == {"execution_time_ms"}
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


# -- redirects ---------------------------------------------------------------------------------------


def redirecting(status: int, place: str) -> Callable[[Asked], bytes]:
    return lambda asked: json_answer({}) if asked.target == "/there" else answer(status, b"", location=place)


@pytest.mark.parametrize("place", ["/there", "there", "{url}/there"])
async def test_a_redirect_on_the_same_host(place: str, web: WebServer, execute: Execute) -> None:
    web.answer = redirecting(307, place.format(url=web.url))
    signal = await execute(http("a", web.url + "/here", "POST", body=[1], headers={"X-A": "1"}))
    assert signal["status"] == "completed"
    assert [(a.method, a.target, a.body, a.headers["x-a"]) for a in web.asked] == [
        ("POST", "/here", b"[1]", "1"), ("POST", "/there", b"[1]", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(301, "POST", "GET"), (302, "POST", "GET"), (303, "PUT", "GET"), (302, "PUT", "PUT"), (308, "POST", "POST")],
)
async def test_what_is_asked_after_a_redirect(
    status: int, method: str, then: str, web: WebServer, execute: Execute
) -> None:
    web.answer = redirecting(status, "/there")
    await execute(http("a", web.url, method, body={"a": 1}))
    last = web.asked[-1]
    assert (last.target, last.method, last.body) == ("/there", then, b"" if then == "GET" else b'{"a":1}')
    assert ("content-type" in last.headers) == (then != "GET")


@pytest.mark.parametrize(
    "place",
    ["http://localhost:{port}/there", "http://127.0.0.1:1/there", "//169.254.169.254/there", "http://evil.test/there",
     "file:///etc/passwd", "http://u:p@127.0.0.1:{port}/there"],
)  # fmt: skip
async def test_a_redirect_to_elsewhere(place: str, web: WebServer, execute: Execute) -> None:
    web.answer = redirecting(302, place.format(port=web.port))
    signal = await execute(http("a", web.url))
    assert failure(signal)[0] in ("http_status", "invalid_input") and not failure(signal)[1]
    assert len(web.asked) == 1


async def test_redirects_in_a_circle(web: WebServer, execute: Execute) -> None:
    web.answer = lambda asked: answer(302, b"", location="/again")
    assert failure(await execute(http("a", web.url))) == ("http_status", False)
    assert len(web.asked) == 1 + REDIRECTS


# -- where a call may go -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "value"),
    [
        ("{{ input }}/x", "http://127.0.0.1:{port}"),
        ("http://{{ input }}/x", "127.0.0.1:{port}"),
        ("http://127.0.0.1{{ input }}", ":{port}/x"),
        ("http://127.0.0.1:{port}{{ input }}", "/x"),  # or `.evil.test`, or `@evil.test`
        ("{{ input }}://127.0.0.1:{port}/x", "http"),
    ],
)
async def test_a_host_that_comes_from_data(url: str, value: str, web: WebServer, execute: Execute) -> None:
    port = str(web.port)
    node = http("a", url.replace("{port}", port))
    signal = await execute(node, value.replace("{port}", port))
    assert failure(signal) == ("invalid_input", False)
    assert web.asked == []


@pytest.mark.parametrize("listed", ["127.0.0.1", "http://127.0.0.1:{port}"])
async def test_a_host_that_the_operator_lists(listed: str, web: WebServer, execute: Execute) -> None:
    caller = WebCaller([listed.replace("{port}", str(web.port))])
    assert (await execute(http("a", "{{ input }}/x"), web.url, caller))["status"] == "completed"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http:///x", "/x", "http://u:p@127.0.0.1/",
                                 "http://127.0.0.1:99999/", "http://[::1/", "http://"])  # fmt: skip
async def test_urls_that_are_none(url: str, execute: Execute) -> None:
    assert failure(await execute(http("a", url))) == ("invalid_input", False)


@pytest.mark.parametrize("value", [7, ["http://127.0.0.1"], {"a": 1}])
async def test_a_url_that_is_no_text(value: Any, execute: Execute) -> None:
    assert failure(await execute(http("a", "{{ input }}"), value)) == ("invalid_input", False)


FORBIDDEN = [
    "169.254.169.254", "169.254.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1",
    "100.100.100.200", "168.63.129.16", "fe80::1", "fe80::1%1", "::", "ff02::1", "::ffff:169.254.169.254",
    "::ffff:0.0.0.0", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe", "::a9fe:a9fe", "fd00:ec2::254", "no address",
]  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN)
async def test_addresses_that_no_call_goes_to(address: str, execute: Execute) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    signal = await execute(http("a", "http://innocent.test/x"), None, WebCaller(["*.test"], resolve=resolve))
    assert failure(signal) == ("invalid_input", False)
    assert "innocent.test has no address" in message(signal)


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "0"])
async def test_addresses_in_disguise(host: str, execute: Execute) -> None:
    assert failure(await execute(http("a", f"http://{host}/latest/meta-data"))) == ("invalid_input", False)


async def test_a_name_is_looked_up_once(web: WebServer, execute: Execute) -> None:
    """It means this server when it is checked, and the metadata service when it is looked up again."""
    lookups = [["127.0.0.1"], ["169.254.169.254"]]
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return lookups.pop(0)

    web.answer = redirecting(302, "/there")
    node = http("a", f"http://rebinding.test:{web.port}/x")
    assert (await execute(node, None, WebCaller(resolve=resolve)))["status"] == "completed"
    assert asked == [("rebinding.test", web.port)]
    assert [one.headers["host"] for one in web.asked] == [f"rebinding.test:{web.port}"] * 2


async def test_the_next_address_where_the_first_is_dead_or_forbidden(web: WebServer, execute: Execute) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["fe80::1", "127.1.2.3", "127.0.0.1"]

    node = http("a", f"http://many.test:{web.port}/")
    assert (await execute(node, None, WebCaller(resolve=resolve)))["status"] == "completed"


async def test_a_name_that_is_none(execute: Execute) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise OSError(-2, "Name or service not known")

    signal = await execute(http("a", "http://nowhere.test/"), None, WebCaller(resolve=resolve))
    assert failure(signal) == ("connection", True)


async def test_proxies_of_the_environment_are_not_asked(
    web: WebServer, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert (await execute(http("a", web.url)))["status"] == "completed"


async def test_no_cookie_goes_from_one_item_to_another(
    web: WebServer, store: RunStore, serve: Serve, signals: Signals
) -> None:
    web.answer = lambda asked: json_answer({}, set_cookie="session=of-the-first")
    serve(nodes={"http": HttpNodes(WebCaller())})
    for number in (1, 2):
        await start(store, f"run_{number}", make_ir(http("a", web.url)))
        await signals(number)
    assert [asked.headers.get("cookie") for asked in web.asked] == [None, None]


# -- TLS ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "completes"), [("pinned.test", True), ("other.test", False)])
async def test_the_certificate_is_that_of_the_name(name: str, completes: bool, execute: Execute) -> None:
    """The connection goes to an address; what is asked for and checked is the host that the document names."""
    names: list[str | None] = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(CERTIFICATES / "pinned.test.pem")
    tls.sni_callback = lambda connection, wanted, context: names.append(wanted)
    server = WebServer(lambda asked: json_answer({}))
    await server.start(tls)

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    trusted = ssl.create_default_context(cafile=CERTIFICATES / "pinned.test.pem")
    signal = await execute(http("a", f"https://{name}:{server.port}/"), None, WebCaller(resolve=resolve, tls=trusted))
    await server.stop()
    assert names == [name]
    assert (signal["status"] == "completed") == completes
    assert completes or failure(signal) == ("connection", True)


# -- secrets -----------------------------------------------------------------------------------------


def credential(*hosts: str) -> dict[str, Credential]:
    return {"shop": Credential("Authorization", "Bearer sekret-1234", Hosts(hosts, ("https",)))}


async def test_a_credential(web: WebServer, execute: Execute) -> None:
    caller = WebCaller(credentials=credential(web.url))
    await execute(http("a", web.url, auth="shop", headers={"authorization": "mine"}), None, caller)
    assert web.asked[0].headers["authorization"] == "Bearer sekret-1234"


@pytest.mark.parametrize(
    ("auth", "hosts", "klass"),
    [("other", ["http://127.0.0.1"], "not_found"), ("shop", ["127.0.0.1"], "invalid_input"),
     ("shop", ["example.org"], "invalid_input")],
)  # fmt: skip
async def test_a_credential_goes_to_its_hosts_alone(
    auth: str, hosts: list[str], klass: str, web: WebServer, execute: Execute
) -> None:
    """A host without a scheme means https."""
    signal = await execute(http("a", web.url, auth=auth), None, WebCaller(credentials=credential(*hosts)))
    assert failure(signal) == (klass, False)
    assert web.asked == []


async def test_no_secret_is_told(web: WebServer, execute: Execute, caplog: pytest.LogCaptureFixture) -> None:
    """The server repeats all that it was asked."""
    caplog.set_level("DEBUG", "pavane")
    web.answer = lambda asked: answer(
        400, f"{asked.headers['x-key']} {asked.headers['authorization']} {asked.target} because"
    )
    caller = WebCaller(credentials=credential(web.url))
    node = http("a", web.url + "/?token={{ input }}&q=sekret%2D5678", auth="shop", headers={"X-Key": "sekret-9abc"})
    signal = await execute(node, "sekret-def0", caller)
    assert "because" in message(signal)
    assert "sekret" not in orjson.dumps(signal["metadata"]).decode() + caplog.text


async def test_no_secret_is_told_of_a_connection_that_fails(web: WebServer, execute: Execute) -> None:
    await web.stop()
    signal = await execute(http("a", web.url + "/sekret?token=sekret", headers={"X-Key": "sekret"}))
    assert "sekret" not in message(signal)
