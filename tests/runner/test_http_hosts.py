"""Http nodes: where a call may go. Redirects, hosts, addresses, TLS, secrets."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent_runner.nodes.http import HttpNodes
from agent_runner.web.caller import REDIRECTS, WebCaller
from agent_runner.web.credential import Credential
from agent_runner.web.origin import Hosts
from lua.run_store import RunStore
from tests.runner.conftest import Serve, Signals
from tests.runner.http_calls import Execute, execute, failure, message, web
from tests.runner.web_server import Asked, WebServer, answer, json_answer
from tests.runner.workflows import http, make_ir, start

__all__ = ["execute", "web"]  # fixtures

CERTIFICATES = Path(__file__).parent / "certificates"

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
