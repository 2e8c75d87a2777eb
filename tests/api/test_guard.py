"""Who is let in: hosts, origins, keys and roles, clients of this machine; and what bodies are read."""

from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from history.history import History
from lua.run_store import RunStore
from orchestrator_api.guard import check_binding, host_name, is_local
from orchestrator_api.options import ApiKey, ApiOptions, hash_key
from tests.api.conftest import Api, application, client_of
from tests.api.workflows import HELLO

BODY = {"workflow": HELLO, "input": {"name": "Ada"}}


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "localhost.:80"])
async def test_hosts_that_are_served(api: Api, host: str) -> None:
    assert (await api.http.get("/runs", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "127.0.0.2", "[", "@"]
)
async def test_hosts_that_are_not(api: Api, host: str) -> None:
    for path in ("/runs", "/", "/healthz", "/api/v1/runs"):
        answer = await api.http.get(path, headers={"Host": host})
        assert answer.status_code in (400, 403)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:3000", "http://[", "http://127.0.0.1"]
)
async def test_pages_of_others(api: Api, origin: str) -> None:
    answer = await api.http.post("/runs", json=BODY, headers={"Origin": origin})
    assert answer.status_code == 403
    assert (await api.http.get("/runs", headers={"Origin": origin})).status_code == 403
    assert await api.store.redis.dbsize() == 0


async def test_our_own_page_and_configured_ones(store: RunStore, history: History) -> None:
    app = application(store, history, origins=["https://ui.example.org"], hosts=["pavane.internal"])
    async with client_of(app) as http:
        for origin, host in (
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://ui.example.org", "pavane.internal"),
        ):
            answer = await http.post("/runs", json=BODY, headers={"Origin": origin, "Host": host})
            assert answer.status_code == 201


async def test_a_page_that_only_looks(api: Api) -> None:
    cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert (await api.http.get("/runs", headers=cross)).status_code == 403
    followed_a_link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert (await api.http.get("/", headers=followed_a_link)).status_code == 200


async def test_without_keys_only_this_machine(store: RunStore, history: History) -> None:
    app = application(store, history)
    for client, status in ((("10.0.0.5", 4000), 403), (("::1", 4000), 200), (("127.0.0.9", 1), 200), (None, 200)):
        async with client_of(app, client=client) as http:
            assert (await http.get("/runs")).status_code == status


def test_where_the_api_may_listen() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.5"):
        check_binding(host, ApiOptions())
    for host in ("0.0.0.0", "::", "pavane.internal", "10.0.0.5"):
        with pytest.raises(ValueError, match="only with API keys"):
            check_binding(host, ApiOptions())
        check_binding(host, ApiOptions(keys=[ApiKey("me", "admin", hash_key("x"))]))
    assert not is_local(("somewhere", 1))
    assert [host_name(host) for host in ("[::1]", "[::1]:80", "a:b:c", "A.")] == ["::1", "::1", "a", "a"]


@pytest.fixture
async def keyed(store: RunStore, history: History) -> AsyncIterator[Callable[[str], httpx.AsyncClient]]:
    keys = [ApiKey(role, role, hash_key(f"secret-{role}")) for role in ("reader", "operator", "admin")]  # type: ignore[arg-type]
    app = application(store, history, keys=keys)

    def client(authorization: str) -> httpx.AsyncClient:
        headers = {"Authorization": authorization} if authorization else {}
        return client_of(app, client=("10.0.0.5", 1), headers=headers)

    yield client


async def test_keys_and_roles(keyed: Callable[[str], httpx.AsyncClient]) -> None:
    for key, reads, starts in (
        ("Bearer secret-reader", 200, 403),
        ("bearer secret-operator", 200, 201),
        ("Bearer secret-admin", 200, 201),
        ("Bearer secret-nobody", 401, 401),
        ("Bearer", 401, 401),
        ("Basic secret-admin", 401, 401),
        ("", 401, 401),
    ):
        async with keyed(key) as http:
            assert (await http.get("/api/v1/runs")).status_code == reads
            assert (await http.post("/runs", json=BODY)).status_code == starts
            for path in ("/healthz", "/readyz", "/", "/openapi.json", "/dashboard.js"):
                assert (await http.get(path)).status_code == 200
    async with keyed("") as http:
        refused = await http.get("/runs")
        assert refused.headers["www-authenticate"] == "Bearer" and "secret" not in refused.text


async def test_who_asked_is_in_the_event(keyed: Callable[[str], httpx.AsyncClient]) -> None:
    async with keyed("Bearer secret-operator") as http:
        run_id = (await http.post("/runs", json=BODY)).json()["run_id"]
        (event,) = (await http.get(f"/runs/{run_id}/events")).json()["events"]
        assert event["by"] == "operator"
        await http.post(f"/runs/{run_id}/cancel")
        assert (await http.get(f"/runs/{run_id}")).json()["error"] == {"by": "operator"}


@pytest.mark.parametrize(("user", "by"), [("ada", "ada"), ("a b", None), ("x" * 200, None)])
async def test_without_keys_the_client_says_who_asks(api: Api, user: str, by: str | None) -> None:
    started = await api.http.post("/runs", json=BODY, headers={"Pavane-User": user})
    (event,) = (await api.get(f"/runs/{started.json()['run_id']}/events"))["events"]
    assert event.get("by") == by


async def test_with_keys_it_does_not(keyed: Callable[[str], httpx.AsyncClient]) -> None:
    async with keyed("Bearer secret-operator") as http:
        started = await http.post("/runs", json=BODY, headers={"Pavane-User": "ada"})
        (event,) = (await http.get(f"/runs/{started.json()['run_id']}/events")).json()["events"]
        assert event["by"] == "operator"


async def test_every_route_also_under_api_v1(api: Api) -> None:
    for path in ("/runs", "/batches", "/workflows", "/models", "/runners", "/dead-letters", "/health", "/openapi.json"):
        plain, versioned = await api.http.get(path), await api.http.get(f"/api/v1{path}")
        assert plain.status_code == versioned.status_code == 200
    assert (await api.http.post("/api/v1/runs", json=BODY)).status_code == 201
    assert (await api.http.get("/api/v1")).status_code == 200
    assert (await api.http.get("/api/v1x/runs")).status_code == 404


async def test_no_route_and_no_method(api: Api) -> None:
    for method, path, status in (("GET", "/nothing", 404), ("DELETE", "/runs", 405), ("GET", "/runs/a/b/c", 404)):
        answer = await api.http.request(method, path)
        assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
        assert answer.json().keys() == {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    "media", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json",
              "application/json; charset=latin-1"]
)  # fmt: skip
async def test_json_by_its_content_type_only(api: Api, media: str | None) -> None:
    headers = {} if media is None else {"Content-Type": media}
    for path in ("/runs", "/batches", "/workflows", "/workflows/validate"):
        answer = await api.http.post(path, content=b"{}", headers=headers)
        assert answer.status_code == 415, (path, answer.text)
    assert (await api.http.post("/runs/run_1/cancel", content=b"reason=x", headers=headers)).status_code == 415


async def test_a_body_without_a_length_is_bounded_too(api: Api) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"[" * 100_000

    json = {"Content-Type": "application/json"}
    answer = await api.http.post("/workflows", content=endless(), headers=json)
    assert answer.status_code == 413 and sent <= 12


async def test_headers_of_every_answer(api: Api) -> None:
    for path in ("/runs", "/nothing", "/"):
        headers = (await api.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff" and "cache-control" in headers
