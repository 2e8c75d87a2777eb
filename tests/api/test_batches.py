"""Batches: what is taken, skipped and refused; how far they are; their results; cancel."""

import csv
import io
from typing import Any

import orjson
import pytest

from history.pace import Pace
from orchestrator_api.batches import progress
from orchestrator_api.results import cell, pick
from schemas.messages import Failure
from tests.api.conftest import Api, application, client_of
from tests.api.workflows import HELLO, sized

NDJSON = {"Content-Type": "application/x-ndjson"}
NAMES = [{"name": name} for name in ("Ada", "Alan", "Grace")]


async def start(api: Api, status: int = 202, **fields: Any) -> Any:
    return await api.post("/batches", {"workflow": HELLO, "items": NAMES, **fields}, status)


async def test_a_batch_from_start_to_results(api: Api, record: Any) -> None:
    taken = await start(api, key="item.name", requested_by="xai", labels={"team": "red"})
    batch_id = taken["batch_id"]
    assert (taken["accepted"], taken["skipped"]) == (3, 0)
    waiting = await api.get(f"/batches/{batch_id}")
    assert (waiting["status"], waiting["total"], waiting["pending"], waiting["running"]) == ("RUNNING", 3, 3, 0)
    assert [node["node_id"] for node in waiting["per_node"]] == ["greet", "sign"]
    assert waiting["eta_s"] is None and waiting["stalled"] is False and waiting["requested_by"] == "xai"

    assert await api.admit() == 3
    going = await api.get(f"/batches/{batch_id}")
    assert going["per_node"][0] == {"node_id": "greet", "queued": 3, "running": 0, "done": 0, "failed": 0}
    assert [row["status"] for row in await results(api, batch_id)] == ["RUNNING"] * 3

    def answer(task: Any, started: Any) -> Any:
        if b"Alan" in started.input.encode():
            return Failure("permanent", "no", retryable=False)
        return {"said": {"to": orjson.loads(started.input)["name"]}, "node": task.node_id}

    await api.play(answer=answer)
    await record()
    done = await api.get(f"/batches/{batch_id}")
    assert (done["status"], done["done"], done["failed"], done["running"]) == ("COMPLETED", 2, 1, 0)
    assert done["per_node"] == [
        {"node_id": "greet", "queued": 0, "running": 0, "done": 2, "failed": 1},
        {"node_id": "sign", "queued": 0, "running": 0, "done": 2, "failed": 0},
    ]
    assert done["state_before"] == {"done": 0, "failed": 0} and done["delta"] == {"done": 2, "failed": 1}
    assert done["eta_s"] == 0 and done["rate_per_min"] > 0

    rows = await results(api, batch_id)
    assert [row["key"] for row in rows] == ["Ada", "Alan", "Grace"]
    assert [row["status"] for row in rows] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert rows[0]["output"] == {"said": {"to": "Ada"}, "node": "sign"} and rows[1]["output"] is None
    assert rows[1]["error"]["message"] == "no"
    assert [row["output"] for row in await results(api, batch_id, fields="said.to,nothing")] == [
        {"said.to": "Ada", "nothing": None}, {"said.to": None, "nothing": None}, {"said.to": "Grace", "nothing": None},
    ]  # fmt: skip
    assert [one["batch_id"] for one in (await api.get("/batches"))["batches"]] == [batch_id]
    assert (await api.get("/batches?workflow_id=nobody"))["batches"] == []
    run = await api.get(f"/runs/{rows[0]['run_id']}")
    assert (run["batch_id"], run["key"], run["labels"]) == (batch_id, "Ada", {"team": "red"})


async def results(api: Api, batch_id: str, **query: str) -> list[Any]:
    answer = await api.http.get(f"/batches/{batch_id}/results", params=query)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(line) for line in answer.content.splitlines()]


async def test_results_as_csv(api: Api, record: Any) -> None:
    batch_id = (await start(api, key="item.name"))["batch_id"]
    await api.admit()
    await api.play(answer=lambda task, started: {"text": '=1+1, "quoted"\nsecond line', "n": 3})
    await record()
    answer = await api.http.get(f"/batches/{batch_id}/results?format=csv&fields=text,n")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert rows[0] == ["key", "run_id", "status", "text", "n", "error"]
    assert rows[1][0] == "Ada" and rows[1][3:] == ['\'=1+1, "quoted"\nsecond line', "3", ""] and len(rows) == 4
    await api.get(f"/batches/{batch_id}/results?format=xml", 422)
    await api.get(f"/batches/{batch_id}/results?fields=a,,b", 422)
    await api.get("/batches/batch_none/results", 404)


def test_cells_and_fields() -> None:
    assert [cell(value) for value in (None, "", "a", "-1", -1, {"a": 1}, True)] == [
        "",
        "",
        "a",
        "'-1",
        "-1",
        '{"a":1}',
        "true",
    ]
    assert pick({"a": [{"b": 1}]}, "a.0.b") == 1
    assert pick({"a": 1}, "a.b") is None and pick(None, "a") is None and pick([1], "5") is None


async def test_ndjson(api: Api) -> None:
    await api.post("/workflows", HELLO, 201)
    body = b"\n".join(orjson.dumps(item) for item in NAMES) + b"\n\n"
    query = {"workflow_id": "hello", "key": "item.name", "requested_by": "me", "label": "team=red", "force": "true"}
    answer = await api.http.post("/batches", params=query, content=body, headers=NDJSON)
    assert answer.status_code == 202 and answer.json()["accepted"] == 3
    batch = await api.get(f"/batches/{answer.json()['batch_id']}")
    assert (batch["version"], batch["requested_by"], batch["labels"]) == (1, "me", {"team": "red"})


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("workflow_id=hello&colour=red", "/colour"),
        ("workflow_id=hello&force=perhaps", "/force"),
        ("workflow_id=hello&version=x", "/version"),
        ("workflow_id=hello&key=item.", "/key"),
        ("workflow_id=hello&workflow_id=other", "/query/workflow_id"),
        ("", ""),
    ],
)
async def test_ndjson_options_that_make_no_sense(api: Api, query: str, path: str) -> None:
    await api.post("/workflows", HELLO, 201)
    answer = await api.http.post(f"/batches?{query}", content=b'{"name": "Ada"}', headers=NDJSON)
    assert answer.status_code == 422 and answer.json()["errors"][0]["path"] == path


async def test_one_bad_item_refuses_all_and_every_one_is_named(api: Api) -> None:
    items: list[Any] = [{"name": "Ada"}, {"name": ""}, {}, {"name": "Eve"}, 7]
    problem = await start(api, 422, items=items, key="item.name")
    assert {error["path"] for error in problem["errors"]} == {"/items/1/name", "/items/1", "/items/2", "/items/4"}
    assert problem["detail"].startswith("3 of 5 items are invalid")
    many = await start(api, 422, items=[{}] * 250)
    assert len(many["errors"]) == 100 and "the first 100" in many["detail"]
    body = b'{"name": "Ada"}\nnot json\n{"name": [' + b"[" * 70 + b"]" * 70 + b"]}\n" + b'{"name": 1e999}'
    await api.post("/workflows", HELLO, 201)
    answer = await api.http.post("/batches?workflow_id=hello", content=body, headers=NDJSON)
    assert [(e["path"], e["code"]) for e in answer.json()["errors"]] == [
        ("/items/1", "not-json"), ("/items/2", "too-deep"), ("/items/3", "not-json"),
    ]  # fmt: skip
    assert (await api.get("/batches"))["batches"] == []


async def test_an_item_over_the_limit_and_no_items(api: Api) -> None:
    problem = await start(api, 422, items=[{"name": "Ada"}, sized("Eve", 8_000_000)])
    assert [(e["path"], e["code"]) for e in problem["errors"]] == [("/items/1", "too-large")]
    await start(api, 422, items=[])
    answer = await api.http.post("/batches?workflow_id=hello", content=b"\n\n", headers=NDJSON)
    assert answer.status_code == 404
    await api.post("/workflows", HELLO, 201)
    answer = await api.http.post("/batches?workflow_id=hello", content=b"\n\n", headers=NDJSON)
    assert answer.status_code == 422
    app = application(api.store, api.history, batch_json_bytes=1_000)
    async with client_of(app) as http:
        large = await http.post("/batches", json={"workflow": HELLO, "items": NAMES * 100})
        assert large.status_code == 413 and large.json()["limit"] == "batch_json_bytes"


async def test_what_was_done_is_skipped_unless_forced(api: Api, record: Any) -> None:
    await start(api, key="item.name")
    running = await api.http.post("/batches", json={"workflow": HELLO, "items": NAMES})
    assert running.status_code == 409 and "force" in running.json()["detail"]
    await api.admit()
    await api.play()
    await record()
    soon = await api.http.post("/batches", json={"workflow": HELLO, "items": NAMES})
    assert soon.status_code == 429 and 0 < int(soon.headers["retry-after"]) <= 60
    await api.store.redis.flushdb()
    async with api.history.pool.connection() as connection:
        await connection.execute("UPDATE batches SET created_at = created_at - interval '2 minutes'")
    again = await start(api, key="item.name", items=[*NAMES, {"name": "Mary"}, {"name": "Mary"}])
    assert (again["accepted"], again["skipped"]) == (1, 4)
    forced = await start(api, key="item.name", force=True)
    assert (forced["accepted"], forced["skipped"]) == (3, 0)


@pytest.mark.parametrize("key", ["item.nothing", "item", "true", "''", "item.name + '\\n'", "1.5"])
async def test_keys_that_are_none(api: Api, key: str) -> None:
    problem = await start(api, 422, key=key)
    assert problem["errors"][0]["path"] == "/items/0" and problem["errors"][0]["code"] == "key"


async def test_a_key_that_is_no_expression(api: Api) -> None:
    assert (await start(api, 422, key="item.(")).get("errors")[0]["path"] == "/key"
    assert (await start(api, 422, key="ctx.a")).get("errors")[0]["code"] == "unknown-variable"
    taken = await start(api, key="string(index) + '-' + item.name")
    assert taken["accepted"] == 3


async def test_cancel_withdraws_and_ends(api: Api, record: Any) -> None:
    batch_id = (await start(api))["batch_id"]
    assert await api.admit() == 3
    forced = (await start(api, force=True))["batch_id"]
    assert (await api.post(f"/batches/{forced}/cancel", {"reason": "no"}))["cancelled"] == 0
    assert (await api.get(f"/batches/{forced}"))["status"] == "CANCELLED"
    assert [row["status"] for row in await results(api, forced)] == ["CANCELLED"] * 3
    assert await api.post(f"/batches/{batch_id}/cancel") == {
        "batch_id": batch_id, "status": "CANCELLED", "cancelled": 3,
    }  # fmt: skip
    assert await api.store.redis.zcard("live_runs") == 0
    await record()
    over = await api.get(f"/batches/{batch_id}")
    assert (over["status"], over["failed"], over["running"]) == ("CANCELLED", 3, 0)
    assert (await api.post(f"/batches/{batch_id}/cancel"))["cancelled"] == 0
    await api.post("/batches/batch_none/cancel", status=404)


async def test_a_completed_batch_is_not_cancelled(api: Api, record: Any) -> None:
    batch_id = (await start(api))["batch_id"]
    await api.admit()
    await api.play()
    await record()
    assert (await api.post(f"/batches/{batch_id}/cancel", status=409))["batch_status"] == "COMPLETED"
    await api.get("/batches/batch_none", 404)


def test_progress_is_null_until_it_is_honest() -> None:
    batch = {"status": "RUNNING", "total": 200, "pending": 100, "running": 96, "ended_at": None}
    assert progress(batch, Pace(4, 4, 60_000, True)) == {"rate_per_min": 4.0, "eta_s": None, "stalled": False}
    assert progress(batch | {"running": 90}, Pace(10, 10, 60_000, True))["eta_s"] == 1140
    assert progress(batch, Pace(10, 0, 3_600_000, False))["stalled"]
    paused = batch | {"status": "PAUSED"}
    assert progress(paused, Pace(99, 0, 3_600_000, False)) == {"rate_per_min": 0.0, "eta_s": None, "stalled": False}
    over = batch | {"ended_at": 5}
    assert progress(over, Pace(200, 0, 3_600_000, False)) == {"rate_per_min": 0.0, "eta_s": 0, "stalled": False}
