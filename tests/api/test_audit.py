"""The audit over HTTP: a batch with a query of its author's, what was done to it, and who asked for which run."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from coordinator.batch_states import BatchStates
from history.connection_options import ConnectionOptions
from history.history import History
from history.named_connections import NamedConnections
from lua.run_store import RunStore
from orchestrator_api.app import create_app
from orchestrator_api.options import ApiOptions
from tests.api.conftest import Api, client_of
from tests.api.workflows import HELLO
from tests.warehouse import PASSWORD, Warehouse, made_warehouse

NAMES = [{"name": "Ada"}, {"name": "Alan"}]
AUDIT = {
    "connection": "writing",
    "query": "SELECT count(*) AS verdicts, max(note) AS last FROM verdict WHERE id LIKE 'v%'",
}
AWAY = f"postgresql://someone:{PASSWORD}@127.0.0.1:1/d"


@pytest.fixture
def warehouse(database_server: str) -> Iterator[Warehouse]:
    with made_warehouse(database_server) as made:
        yield made


@pytest.fixture
async def connections(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NamedConnections]:
    monkeypatch.setattr("history.named_connections.CONNECT_S", 1)  # "away" takes as long
    named = {"writing": warehouse.options(write=True, timeout_ms=20_000), "away": ConnectionOptions(AWAY)}
    async with NamedConnections(named) as connections:
        yield connections


@pytest.fixture
async def audited(store: RunStore, history: History, connections: NamedConnections) -> AsyncIterator[Api]:
    app = create_app(store, history, ApiOptions(), connections)
    async with client_of(app, headers={"Pavane-User": "ada"}) as http:
        yield Api(app, http, store, history)


async def start(api: Api, status: int = 202, **fields: Any) -> Any:
    return await api.post("/batches", {"workflow": HELLO, "items": NAMES, **fields}, status)


async def test_the_record_of_a_batch(
    audited: Api, connections: NamedConnections, warehouse: Warehouse, record: Any
) -> None:
    """Submitted, paused, patched as a canary, promoted, resumed, done: the author's own numbers before and after."""
    api = audited
    started = await start(api, audit=AUDIT, requested_by="the night shift", labels={"team": "red"}, key="item.name")
    batch_id = started["batch_id"]
    await api.admit()
    await api.post(f"/batches/{batch_id}/pause", {"reason": "lunch"})
    await record()
    operations = [{"op": "replace", "path": "/nodes/0/config/args", "value": {}}]
    await api.post(f"/batches/{batch_id}/patch", {"operations": operations, "canary": {"first": 1}})
    await api.post(f"/batches/{batch_id}/promote", {"reason": "it is well"})
    await api.post(f"/batches/{batch_id}/resume")
    await api.play()
    warehouse.admin.execute("INSERT INTO verdict VALUES ('v1', 'good'), ('w', 'zzz')")
    await record()
    states = BatchStates(api.history.pool, connections)
    assert await states.take() and not await states.take()

    found = await api.get(f"/history/{batch_id}")
    assert (found["requested_by"], found["by"], found["status"]) == ("the night shift", "ada", "COMPLETED")
    assert found["state_before"] == {"done": 0, "failed": 0, "audit": {"verdicts": 0, "last": None}}
    assert found["state_after"] == {"done": 2, "failed": 0, "audit": {"verdicts": 1, "last": "good"}}
    assert found["delta"] == {"done": 2, "failed": 0, "audit": {"verdicts": 1, "last": [None, "good"]}}
    assert found["audit"] == {**AUDIT, "waits": False, "error": None}
    assert found["warnings"] == [] and found["skips"] == {} and found["expected_work"] == {"runs": 2, "skipped": 0}
    assert found["took_ms"] >= found["waited_ms"] >= 0 and found["paused_ms"] > 0
    assert [
        (one["action"], one["by"], one["reason"], one["touched"], one["counts"]) for one in found["operations"]
    ] == [
        ("run", "the night shift", None, 2, {"done": 2, "failed": 0, "withdrawn": 0, "skipped": 0}),
        ("pause", "ada", "lunch", 2, {"paused": 2}),
        ("patch", "ada", None, 1, {"patched": 1}),
        ("promote", "ada", "it is well", 2, {"patched": 2}),
        ("resume", "ada", None, 2, {"resumed": 2}),
    ]
    assert all(one["done_at"] >= one["at"] for one in found["operations"])

    mine = await api.get("/history?by=ada&action=promote&label=team=red")
    assert [one["batch_id"] for one in mine["operations"]] == [batch_id] and mine["next_cursor"] is None
    page = await api.get("/history?limit=4")
    rest = await api.get("/history", params={"cursor": page["next_cursor"]})
    assert [one["action"] for one in page["operations"] + rest["operations"]] == [
        "resume", "promote", "patch", "pause", "run",
    ]  # fmt: skip
    async with api.history.pool.connection() as connection:
        await connection.execute("UPDATE batches SET created_at = created_at - interval '2 minutes'")
    again = await start(api, key="item.name")
    assert (again["accepted"], again["skipped"]) == (0, 2)
    undone = await api.get(f"/history/{again['batch_id']}/items?outcome=skipped&limit=1")
    assert [(one["key"], one["reason"], one["batch_id"]) for one in undone["items"]] == [("Ada", "done", batch_id)]
    more = await api.get(f"/history/{again['batch_id']}/items?outcome=skipped&after={undone['next_after']}")
    assert [one["key"] for one in more["items"]] == ["Alan"] and more["next_after"] is None
    assert (await api.get(f"/history/{again['batch_id']}"))["warnings"][0].startswith("nothing ran: all 2 items")


async def test_a_query_that_fails_refuses_the_batch(audited: Api, caplog: pytest.LogCaptureFixture) -> None:
    cases = [
        ("nobody", "SELECT 1 AS a", "/audit/connection"),
        ("writing", "SELEC 1", "/audit/query"),
        ("writing", "DELETE FROM article RETURNING 1 AS a", "/audit/query"),
        ("writing", "SELECT id FROM article", "/audit/query"),
        ("writing", "SELECT 1 AS a; SELECT 2 AS a", "/audit/query"),
        ("writing", "SELECT '" + "x" * 4_096 + "' AS a", "/audit/query"),
    ]
    for connection, query, path in cases:
        problem = await start(audited, 422, audit={"connection": connection, "query": query})
        assert [error["path"] for error in problem["errors"]] == [path], query
    away = await audited.http.post(
        "/batches", json={"workflow": HELLO, "items": NAMES, "audit": {"connection": "away", "query": "SELECT 1"}}
    )
    assert away.status_code == 503 and PASSWORD not in away.text + caplog.text and "127.0.0.1" not in away.text
    assert (await audited.get("/batches"))["batches"] == []


async def test_a_query_of_json_lines_and_one_that_fails_after(
    audited: Api, connections: NamedConnections, warehouse: Warehouse, record: Any
) -> None:
    await audited.post("/workflows", HELLO, 201)
    lines = {"content": b'{"name":"Ada"}\n', "headers": {"content-type": "application/x-ndjson"}}
    asked = {
        "workflow_id": HELLO["id"],
        "audit_connection": "writing",
        "audit_query": "SELECT count(*) AS n FROM verdict",
    }
    bad = await audited.http.post("/batches", params={**asked, "audit_query": ""}, **lines)  # type: ignore[arg-type]
    assert bad.status_code == 422 and bad.json()["errors"][0]["path"] == "/audit/query"
    taken = await audited.http.post("/batches", params=asked, **lines)  # type: ignore[arg-type]
    assert taken.status_code == 202, taken.text
    await audited.admit()
    await audited.play()
    await record()
    warehouse.admin.execute("DROP TABLE verdict")
    states = BatchStates(audited.history.pool, connections)
    assert await states.take() and not await states.take()  # it will not get better
    found = await audited.get(f"/history/{taken.json()['batch_id']}")
    assert found["state_after"] == {"done": 1, "failed": 0} and not found["audit"]["waits"]
    assert found["warnings"] == [f"the audit query gave no state after: {found['audit']['error']}"]
    assert "verdict" in found["audit"]["error"]


async def test_a_database_that_is_away_is_asked_again(audited: Api, connections: NamedConnections, record: Any) -> None:
    batch_id = (await start(audited, audit=AUDIT))["batch_id"]
    await audited.post(f"/batches/{batch_id}/cancel", {"reason": "wrong"})
    async with NamedConnections({"writing": ConnectionOptions(AWAY)}) as nowhere:
        assert await BatchStates(audited.history.pool, nowhere).take()
    found = await audited.get(f"/history/{batch_id}")
    assert found["audit"]["waits"] and "'writing' is not to be had" in found["audit"]["error"]
    assert found["warnings"][-1].endswith("it is asked again")
    async with audited.history.pool.connection() as connection:
        await connection.execute("UPDATE batches SET audit_due = now()")
    assert await BatchStates(audited.history.pool, connections).take()
    found = await audited.get(f"/history/{batch_id}")
    assert found["delta"]["audit"] == {"verdicts": 0} and found["audit"]["error"] is None
    cancel = found["operations"][1]
    assert (cancel["counts"], cancel["touched"]) == ({"withdrawn": 2}, 2)


async def test_single_runs_by_who_asked(audited: Api, record: Any) -> None:
    run_id = await audited.start()
    await audited.http.post("/runs", json={"workflow": HELLO, "input": NAMES[0]}, headers={"Pavane-User": "alan"})
    await record()
    assert len((await audited.get("/history/runs"))["runs"]) == 2
    assert [run["run_id"] for run in (await audited.get("/history/runs?by=ada"))["runs"]] == [run_id]


async def test_what_is_no_question(api: Api) -> None:
    for query in ("action=dance", "label=red", "since=-1", "cursor=%3F", "limit=0", "of=x", "status=GONE"):
        await api.get(f"/history?{query}", 422)
    assert (await api.get("/history"))["operations"] == []
    await api.get("/history/batch_1", 404)
    await api.get("/history/batch_1/items?outcome=skipped", 404)
    await api.get("/history/batch_1/items?outcome=lost", 422)
