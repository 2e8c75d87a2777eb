"""Batches whose items are the rows of a query."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import orjson
import pytest

from history.connection_options import ConnectionOptions
from history.history import History
from history.named_connections import NamedConnections
from lua.run_store import RunStore
from orchestrator_api.app import create_app
from orchestrator_api.options import ApiOptions
from schemas.limits import LIMITS
from tests.api.conftest import Api, client_of
from tests.api.workflows import HELLO
from tests.warehouse import PASSWORD, Warehouse, made_warehouse

NAMES = "SELECT author AS name, id FROM article ORDER BY id"


@pytest.fixture
def warehouse(database_server: str) -> Iterator[Warehouse]:
    with made_warehouse(database_server) as made:
        yield made


@pytest.fixture
async def api(store: RunStore, history: History, warehouse: Warehouse) -> AsyncIterator[Api]:
    """The application with three connections: one to read, one that may write, and one that leads nowhere."""
    named = {
        "w": warehouse.options(timeout_ms=20_000, max_rows=2),
        "writing": warehouse.options(write=True, timeout_ms=300),
        "away": ConnectionOptions(f"postgresql://someone:{PASSWORD}@127.0.0.1:1/d"),
    }
    async with NamedConnections(named) as connections:
        app = create_app(store, history, ApiOptions(), connections)
        async with client_of(app) as http:
            yield Api(app, http, store, history)


async def start(api: Api, query: str, status: int = 202, connection: str = "w", **fields: Any) -> Any:
    """POST /batches with a source; `params` goes into the source, the rest beside it."""
    source = {"connection": connection, "query": query}
    source |= {"params": fields.pop("params")} if "params" in fields else {}
    return await api.post("/batches", {"workflow": HELLO, "source": source, **fields}, status)


async def inputs(api: Api, batch_id: str) -> list[Any]:
    rows = orjson.loads(b"[" + b",".join((await results(api, batch_id)).content.splitlines()) + b"]")
    return [(await api.get(f"/runs/{row['run_id']}"))["input"] for row in rows]


async def results(api: Api, batch_id: str) -> httpx.Response:
    return await api.http.get(f"/batches/{batch_id}/results")


async def test_each_row_is_an_item(api: Api) -> None:
    taken = await start(api, f"{NAMES} LIMIT %(most)s", params={"most": 3}, key="string(item.id)")
    assert (taken["accepted"], taken["skipped"]) == (3, 0)  # the connection's max_rows is for nodes
    assert await api.admit() == 3
    assert await inputs(api, taken["batch_id"]) == [
        {"name": "alan", "id": 1}, {"name": "ada", "id": 2}, {"name": "alan", "id": 3},
    ]  # fmt: skip
    keys = [orjson.loads(line)["key"] for line in (await results(api, taken["batch_id"])).content.splitlines()]
    assert keys == ["1", "2", "3"]


async def test_rows_are_checked_as_items_are(api: Api) -> None:
    problem = await start(api, "SELECT CASE WHEN id <> 2 THEN author END AS name FROM article ORDER BY id", 422)
    assert [error["path"] for error in problem["errors"]] == ["/items/1/name"]
    assert (await start(api, f"{NAMES} LIMIT 0", 422))["errors"][0]["path"] == "/items"
    deep = "SELECT 'x' AS name, (repeat('[', 70) || repeat(']', 70))::json AS deep"
    assert (await start(api, deep, 422))["errors"][0]["code"] == "too-deep"


@pytest.mark.parametrize(
    ("query", "connection", "path", "code"),
    [
        ("SELECT 1", "nobody", "/source/connection", "not-found"),
        ("SELEC 1", "w", "/source/query", "invalid-input"),
        ("SELECT * FROM secret", "w", "/source/query", "permanent"),
        ("SELECT 1; SELECT 2", "w", "/source/query", "invalid-input"),
        ("SELECT pg_sleep(10)", "writing", "/source/query", "timeout"),
        ("DELETE FROM article RETURNING author AS name", "w", "/source/query", "permanent"),
        ("DELETE FROM article RETURNING author AS name", "writing", "/source/query", "permanent"),
    ],
)
async def test_a_source_that_can_not_be_read(
    api: Api, warehouse: Warehouse, query: str, connection: str, path: str, code: str
) -> None:
    problem = await start(api, query, 422, connection)
    assert [(error["path"], error["code"]) for error in problem["errors"]] == [(path, code)]
    assert warehouse.ask("SELECT count(*) FROM article") == 6
    assert (await api.get("/batches"))["batches"] == []


async def test_a_database_that_is_away_is_for_later(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    answer = await api.http.post(
        "/batches", json={"workflow": HELLO, "source": {"connection": "away", "query": "SELECT 1"}}
    )
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert "away" in answer.text and "127.0.0.1" not in answer.text and "someone" not in answer.text
    assert PASSWORD not in answer.text + caplog.text


@pytest.mark.parametrize(("limit", "value"), [("batch_items", 5), ("batch_bytes", 60)])
async def test_more_rows_than_a_batch_may_have(api: Api, warehouse: Warehouse, limit: str, value: int) -> None:
    """Reading ends at the limit, however much there is."""
    before = getattr(LIMITS, limit)
    object.__setattr__(LIMITS, limit, value)
    try:
        problem = await start(api, "SELECT 'x' AS name, generate_series(1, 2000000000) AS n", 413)
    finally:
        object.__setattr__(LIMITS, limit, before)
    assert problem["limit"] == limit and warehouse.active() == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"items": [{"name": "Ada"}]},
        {"source": {"connection": "w"}},
        {"source": {"connection": "w", "query": ""}},
        {"source": {"connection": "w", "query": NAMES, "url": "postgresql://elsewhere"}},
        {"source": {"connection": "w", "query": NAMES, "params": [1]}},
        {"source": None},
    ],
)
async def test_the_shape_of_a_source(api: Api, fields: dict[str, Any]) -> None:
    source = {"source": {"connection": "w", "query": NAMES}}
    await api.post("/batches", {"workflow": HELLO, **source, **fields}, 422)
