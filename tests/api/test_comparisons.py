"""Comparisons over HTTP: runs, forks, batches, a canary and the rest, and what is refused."""

import asyncio
from typing import Any

import orjson
import psycopg

from schemas.fold import fold
from schemas.snapshot import dump_state
from tests.api.batch_runs import admit, batch_of, patch, runs_of
from tests.api.conftest import Api
from tests.api.workflows import HELLO

GRADED: dict[str, Any] = {
    "id": "graded",
    "nodes": [
        {"id": "grade", "type": "function", "config": {"handler": "grade"}},
        {"id": "quality", "type": "branch",
         "config": {"rules": [{"condition": {"type": "cel", "expression": "output.score >= 80"}, "next": ["sign"]}],
                    "default": ["improve"]}},
        {"id": "improve", "type": "function", "config": {"handler": "improve"}},
        {"id": "sign", "type": "function", "config": {"handler": "sign"}},
    ],
    "edges": [{"from": "grade", "to": "quality"}, {"from": "improve", "to": "sign"}],
}  # fmt: skip
LONG = "x" * 20_000


def grader(score: int, text: str = "") -> Any:
    """What every node gives."""
    return lambda task, started: {"score": score, "text": text}


async def graded(api: Api, score: int, text: str = "") -> str:
    run_id = await api.start(GRADED)
    await api.play(GRADED, grader(score, text))
    return run_id


async def test_two_runs(api: Api, record: Any) -> None:
    a, b = await graded(api, 82, f"{LONG}a"), await graded(api, 71, f"{LONG}b")
    found = await api.get(f"/compare?a={a}&b={b}")
    assert found["kind"] == "runs" and not found["same"] and (found["a"]["run_id"], found["b"]["run_id"]) == (a, b)
    assert (found["parted"]["node_id"], found["parted"]["kind"]) == ("quality", "decision")
    assert (found["parted"]["a"]["rule"], found["parted"]["b"]["rule"]) == (0, "default")
    (score, text) = found["output"]["changes"]
    assert score == {"path": "$.score", "before": 82, "after": 71, "difference": -11}
    assert len(text["before"]) < 1_000, "the artifacts were loaded, and are shortened"
    assert [node["executed"] for node in found["nodes"] if node["node_id"] == "improve"] == [[0, 1]]
    assert found["took"]["tasks"] == 1
    await record()
    assert await api.get(f"/compare?a={a}&b={b}") == found
    assert (await api.get(f"/compare?a={a}&b={a}"))["same"]


async def test_a_fork_with_what_it_was_forked_from(api: Api) -> None:
    origin = await graded(api, 71)
    entries = await api.store.redis.xrange("events")
    events = await api.app.state.services.log.after(origin)
    at = next(event.seq for event in events if event.node_id == "grade" and event.type == "node_completed")
    head = {"workflow_id": "graded", "revision": 1, "digest": "sha256-0", "input": {"name": "Ada"}}
    body = head | {
        "forked_from": {"run_id": origin, "seq": at},
        "state": orjson.Fragment(dump_state(fold(events[:at]))),
        "artifacts": [],
    }
    fields = entries[0][1] | {b"run": b"run_fork", b"seq": b"1", b"type": b"run_forked", b"applied": b""}
    await api.store.redis.xadd("events", fields | {b"body": orjson.dumps(body)})
    found = await api.get("/compare?a=run_fork")
    assert found["fork"] and (found["a"]["run_id"], found["b"]["run_id"]) == (origin, "run_fork")
    assert "quality" in found["same_nodes"] and "grade" in found["same_nodes"], "it has gone the first part of the way"
    assert (found["parted"]["node_id"], found["parted"]["b"]) == ("improve", None)


async def test_two_batches_by_their_keys(api: Api, record: Any) -> None:
    first = await batch_of(api, 3, admitted=3)
    await api.play(answer=grader(5, f"{LONG}1"))
    items = [{"name": f"n{number}"} for number in (3, 2, 1, 0)]  # in another order
    body = {"workflow": HELLO, "items": items, "key": "item.name", "force": True}
    second = (await api.post("/batches", body, 202))["batch_id"]
    await admit(api)
    changed = (await runs_of(api, second))[2]
    await api.play(answer=lambda task, _: {"score": 7 if task.run_id == changed else 5, "text": f"{LONG}1"})
    await record()
    found = await api.get(f"/compare?a={first}&b={second}")
    assert (found["kind"], found["matched_by"], found["matched"], found["same"]) == ("batches", "key", 3, 2)
    assert found["only_b"] == {"items": 1, "keys": ["n3"]} and found["only_a"]["items"] == 0
    (item,) = found["items"]
    assert (item["key"], item["count"], item["b"]["run_id"]) == ("n1", 1, changed)
    assert item["changes"] == [{"path": "$.score", "before": 5, "after": 7, "difference": 2}], "of large values"
    assert item["parted"] is None, "it went the same way"
    fields = {field["path"]: field for field in found["fields"]}
    assert fields["$.score"]["changed"] == 1 and found["not_loaded"] == 0
    assert found["executed"] == [{"node_id": node, "executed": [3, 4]} for node in ("greet", "sign")]


async def test_batches_without_keys_by_position_where_the_inputs_are_equal(api: Api, record: Any) -> None:
    batches = []
    for names in (["a", "b", "c"], ["a", "x", "c"]):
        body = {"workflow": GRADED, "items": [{"name": name} for name in names], "force": True}
        batches.append((await api.post("/batches", body, 202))["batch_id"])
    await admit(api)
    await api.play(GRADED, grader(82))
    await record()
    found = await api.get(f"/compare?a={batches[0]}&b={batches[1]}")
    assert (found["matched_by"], found["matched"], found["same"]) == ("position", 2, 2)
    assert found["only_a"] == {"items": 1, "keys": ["1"]} == found["only_b"]


async def test_a_canary_and_the_rest(api: Api, record: Any) -> None:
    batch_id = await batch_of(api, 4, admitted=4)
    await record()
    await patch(api, batch_id, canary={"first": 1})
    await api.play(answer=lambda task, _: {"score": 1 if task.node_id == "check" else 2})
    await record()
    found = await api.get(f"/compare?a={batch_id}&canary=true")
    assert (found["matched_by"], found["matched"]) == ("patch", 0)
    assert (found["groups"]["a"]["items"], found["groups"]["b"]["items"]) == (3, 1)
    assert found["executed"][0] == {"node_id": "check", "executed": [0, 1]}


async def test_refusals(api: Api) -> None:
    run_id, batch_id = await api.start(), await batch_of(api, 1)
    cases = {
        f"a={run_id}": "no fork", f"a={run_id}&b={batch_id}": "two runs or two", f"a={batch_id}": "name the batch",
        f"a={batch_id}&canary=true": "has no patch", f"a={batch_id}&b={batch_id}&canary=true": "leave b out",
        f"a={run_id}&canary=true": "no batch", f"a={run_id}&b={run_id}&limit=0": "limit", "a=%00": "a",
    }  # fmt: skip
    for query, said in cases.items():
        problem = await api.get(f"/compare?{query}", 422)
        assert said in problem["detail"] and problem["errors"][0]["path"].startswith("/query/")
    for query in (f"a={run_id}&b=run_none", f"a=none&b={run_id}", f"a={batch_id}&b=batch_none", "a=none"):
        assert "none" in (await api.get(f"/compare?{query}", 404))["detail"]


async def test_comparisons_of_batches_leave_connections_to_others(
    api: Api, record: Any, database: psycopg.AsyncConnection[Any]
) -> None:
    a, b = await batch_of(api, 1, admitted=1), await batch_of(api, 1)
    await record()
    async with database.transaction():
        await database.execute("LOCK TABLE run_projection IN ACCESS EXCLUSIVE MODE")
        asked = [asyncio.create_task(api.get(f"/compare?a={a}&b={b}")) for _ in range(6)]  # over 4 connections
        [others] = await asyncio.gather(asyncio.wait_for(api.get("/workflows"), 5), return_exceptions=True)
    assert [found["kind"] for found in await asyncio.gather(*asked)] == ["batches"] * 6
    assert not isinstance(others, BaseException), others
