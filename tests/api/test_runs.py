"""POST /runs, GET /runs, a run's views, cancel."""

from typing import Any

import orjson
import pytest

from schemas.messages import Failure
from schemas.values import ARTIFACT
from tests.api.conftest import Api
from tests.api.workflows import ASK, HELLO, sized


async def test_a_run_from_start_to_end(api: Api, record: Any) -> None:
    answer = await api.post("/runs", {"workflow": HELLO, "input": {"name": "Ada"}, "labels": {"team": "red"}}, 201)
    run_id = answer.pop("run_id")
    assert answer == {"status": "RUNNING", "revision": 1}

    fresh = await api.get(f"/runs/{run_id}")
    assert (fresh["status"], fresh["counter"], fresh["output"], fresh["outputs"]) == ("RUNNING", 1, None, {})
    (token,) = fresh["live_tokens"]
    assert (token["node_id"], token["state"], token["stream"]) == ("greet", "queued", "wf.tasks.function")
    assert fresh["workflow_id"] == "hello" and fresh["version"] is None and fresh["batch_id"] is None

    await api.play()
    ended = await api.get(f"/runs/{run_id}")
    assert ended["status"] == "COMPLETED" and ended["output"] == {"node": "sign"} and ended["counter"] == 0
    assert ended["outputs"] == {"greet": {"node": "greet"}, "sign": {"node": "sign"}}
    assert ended["input"] == {"name": "Ada"} and ended["labels"] == {"team": "red"}
    assert ended["usage"]["tasks"] == 2 and ended["live_tokens"] == [] and ended["error"] is None
    assert ended["ended_at"] >= ended["created_at"]

    await record()
    assert await api.get(f"/runs/{run_id}") == ended
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == ended, "when Redis has forgotten it, Postgres tells the same"


async def test_the_same_run_again(api: Api, record: Any) -> None:
    body = {"workflow": HELLO, "input": {"name": "Ada"}, "run_id": "run_mine"}
    first = await api.post("/runs", body, 201)
    again = await api.http.post("/runs", content=orjson.dumps(body, option=orjson.OPT_SORT_KEYS),
                                headers={"Content-Type": "application/json"})  # fmt: skip
    assert (again.status_code, again.json()) == (200, first)
    other = await api.post("/runs", body | {"input": {"name": "Eve"}}, 409)
    assert "run_mine" in other["detail"]

    await api.play()
    assert (await api.post("/runs", body, 200))["status"] == "COMPLETED"
    await record()
    await api.store.redis.flushdb()
    assert (await api.post("/runs", body, 200))["status"] == "COMPLETED", "also when its keys have gone"
    await api.post("/runs", body | {"priority": "interactive"}, 409)
    assert await api.store.redis.dbsize() == 0


async def test_an_interactive_run_goes_to_the_fast_lane(api: Api) -> None:
    run_id = await api.start(ASK, {"q": "hi"}, priority="interactive")
    (token,) = (await api.get(f"/runs/{run_id}"))["live_tokens"]
    assert token["stream"] == "wf.tasks.agent.gemma3:4b:interactive"


async def test_a_registered_workflow(api: Api) -> None:
    await api.post("/workflows", HELLO, 201)
    changed = HELLO | {"description": "another"}
    await api.post("/workflows", changed, 201)
    run_id = await api.post("/runs", {"workflow_id": "hello", "input": {"name": "Ada"}}, 201)
    assert (await api.get(f"/runs/{run_id['run_id']}"))["version"] == 2
    run_id = await api.post("/runs", {"workflow_id": "hello", "version": 1, "input": {"name": "Ada"}}, 201)
    assert (await api.get(f"/runs/{run_id['run_id']}"))["version"] == 1
    await api.post("/runs", {"workflow_id": "hello", "version": 3, "input": {"name": "Ada"}}, 404)
    await api.post("/runs", {"workflow_id": "nobody", "input": {}}, 404)


async def test_large_values_are_artifacts_and_shown_whole(api: Api, record: Any) -> None:
    given = sized("Ada", 50_000)
    run_id = await api.start(input=given)
    await api.play(answer=lambda task, started: {"text": task.node_id * 9_000})
    assert (await api.store.redis.hget(f"run:{run_id}", "input")).startswith(ARTIFACT.encode())
    whole = await api.get(f"/runs/{run_id}")
    assert whole["input"] == given and whole["output"] == {"text": "sign" * 9_000}
    state = await api.get(f"/runs/{run_id}/state")
    assert (state["input"], state["output"]) == (whole["input"], whole["output"])
    await record()
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == whole


async def test_an_input_over_its_limit(api: Api) -> None:
    problem = await api.post("/runs", {"workflow": HELLO, "input": sized("Ada", 8_000_000)}, 422)
    assert problem["errors"] == [
        {"path": "/input", "code": "too-large", "message": "over the limit input_bytes, 8000000 bytes as JSON"}
    ]
    problem = await api.post("/runs", {"workflow": HELLO, "input": sized("Ada", 9_500_000)}, 413)
    assert problem["limit"] == "input_bytes"


async def test_the_ir_and_its_etag(api: Api, record: Any) -> None:
    run_id = await api.start()
    answer = await api.http.get(f"/runs/{run_id}/ir")
    assert answer.headers["etag"] == '"1"' and answer.json()["workflow"] == HELLO
    again = await api.http.get(f"/runs/{run_id}/ir", headers={"If-None-Match": '"1"'})
    assert (again.status_code, again.content) == (304, b"")
    await record()
    await api.store.redis.flushdb()
    later = await api.http.get(f"/runs/{run_id}/ir")
    assert later.content == answer.content and later.headers["etag"] == '"1"'


async def test_a_failed_run_says_why(api: Api, record: Any) -> None:
    run_id = await api.start()
    await api.play(answer=lambda task, started: Failure("permanent", "no such thing", retryable=False))
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "FAILED"
    assert shown["error"] == {"class": "permanent", "message": "no such thing", "attempts": 1, "node": "greet"}
    assert [token["state"] for token in shown["live_tokens"]] == ["dead"] and shown["counter"] == 0
    letters = await api.get("/dead-letters")
    assert letters["dead_letters"][0]["reason"] == "task"
    assert letters["dead_letters"][0]["error"]["message"] == "no such thing"
    await record()
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == shown


async def test_cancel(api: Api, record: Any) -> None:
    run_id = await api.start()
    assert await api.post(f"/runs/{run_id}/cancel", {"reason": "wrong item"}) == {
        "run_id": run_id,
        "status": "CANCELLED",
    }
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "CANCELLED" and shown["error"] == {"by": "api", "reason": "wrong item"}
    assert shown["live_tokens"] == [] and await api.store.redis.xlen("wf.tasks.function") == 0
    await api.post(f"/runs/{run_id}/cancel")
    await record()
    await api.store.redis.flushdb()
    await api.post(f"/runs/{run_id}/cancel")
    await api.post("/runs/run_nobody/cancel", status=404)
    done = await api.start()
    await api.play()
    assert (await api.post(f"/runs/{done}/cancel", status=409))["run_status"] == "COMPLETED"


async def test_child_runs_are_listed_for_their_parent(api: Api, record: Any) -> None:
    child = {"id": "inner", "nodes": [{"id": "t", "type": "transform", "config": {"set": {"x": "1"}}}]}
    outer = {"id": "outer", "nodes": [{"id": "c", "type": "workflow", "config": {"document": child}}]}
    run_id = await api.start(outer)
    await api.play()
    await record()
    assert [run["run_id"] for run in (await api.get("/runs"))["runs"]] == [run_id]
    assert [run["run_id"] for run in (await api.get(f"/runs?parent={run_id}"))["runs"]] == [f"{run_id}:1"]


async def test_lists_and_filters(api: Api, record: Any) -> None:
    mine = [await api.start(labels={"team": "red", "n": str(n)}) for n in range(5)]
    await api.start(ASK, {"q": "hi"}, labels={"team": "blue"})
    await api.post(f"/runs/{mine[0]}/cancel")
    await record()
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = await api.get(
            "/runs", params={"limit": 2, "workflow_id": "hello"} | ({"cursor": cursor} if cursor else {})
        )
        seen += [run["run_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
    assert sorted(seen) == sorted(mine) and cursor is None
    assert [r["run_id"] for r in (await api.get("/runs?status=CANCELLED"))["runs"]] == [mine[0]]
    assert len((await api.get("/runs?label=team=red"))["runs"]) == 5
    assert [r["run_id"] for r in (await api.get("/runs?label=team=red&label=n=3"))["runs"]] == [mine[3]]
    assert (await api.get("/runs?batch_id=batch_none"))["runs"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "status=DONE", "label=team", "cursor=zz", "cursor=%00", "who=me", "workflow_id=A B"]
)
async def test_queries_that_make_no_sense(api: Api, query: str) -> None:
    problem = await api.get(f"/runs?{query}", 422)
    assert problem["errors"][0]["path"].startswith("/query/")


async def test_runs_that_nobody_knows(api: Api) -> None:
    for path in ("", "/ir", "/events", "/state"):
        assert (await api.get(f"/runs/run_nobody{path}", 404))["title"] == "Not Found"
    await api.get("/runs/bad$id", 422)
    await api.get("/runs/run_1%0A", 422)
