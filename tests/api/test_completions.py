"""Answers from outside: approvals, a person's or a worker's completion, outside events; what a run waits for."""

import asyncio
from typing import Any

import orjson
import pytest

from schemas.messages import Failure
from tests.api.conftest import Api, PlayAll
from tests.api.workflows import ASK, CALLS, EACH, HELLO, PAID, REVIEW


def mapped(node: Any) -> dict[str, Any]:
    """A workflow that does one node for each of the input's names."""
    return {
        "id": "mapped",
        "nodes": [{"id": "all", "type": "map", "config": {"items": "input.names", "nodes": [node]}}],
        "edges": [],
    }


async def asked(api: Api, **fields: Any) -> str:
    run_id = await api.start(REVIEW, {"editor": "ada"}, **fields)
    await api.play(REVIEW)
    return run_id


async def answer(api: Api, run_id: str, body: Any, status: int = 200, node: str = "review") -> Any:
    return await api.post(f"/runs/{run_id}/nodes/{node}/complete", body, status)


async def test_a_person_decides(api: Api, record: Any) -> None:
    run_id = await asked(api)
    (token,) = (await api.get(f"/runs/{run_id}"))["live_tokens"]
    assert token["state"] == "asked"
    assert token["waits_for"] == {
        "assignee": "ada", "prompt": "Publish draft?", "choices": ["approve", "reject"], "due": None,
    }  # fmt: skip
    done = await answer(api, run_id, {"output": {"choice": "approve", "score": 7}})
    assert done == {"run_id": run_id, "node_id": "review", "token_id": token["token_id"], "status": "RUNNING"}
    late = await answer(api, run_id, {"output": {"choice": "reject"}}, 409)
    assert late["tokens"][0]["state"] == "answered"
    await api.play(REVIEW)
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "COMPLETED" and shown["outputs"]["review"] == {"choice": "approve", "score": 7}
    events = (await api.get(f"/runs/{run_id}/events"))["events"]
    assert [event["by"] for event in events if event["type"] == "node_answered"] == ["api"]
    assert (await answer(api, run_id, {"output": {}}, 409))["run_status"] == "COMPLETED"
    await record()
    await api.store.redis.flushdb()
    assert (await answer(api, run_id, {"output": {}}, 409))["run_status"] == "COMPLETED"
    await answer(api, "run_nobody", {"output": {}}, 404)


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"output": {"choice": "perhaps"}}, ["/output/choice"]),
        ({"output": {"choice": "approve", "score": 11}}, ["/output/score"]),
        ({"output": {}}, ["/output", "/output/choice"]),
        ({"output": "approve"}, ["/output"]),
        ({"output": None}, ["/output"]),
        ({}, [""]),
        ({"output": {"choice": "approve"}, "error": {"message": "no"}}, [""]),
        ({"error": {}}, ["/error"]),
        ({"error": {"message": ""}}, ["/error/message"]),
        ({"error": {"message": "no", "class": "No Class"}}, ["/error/class"]),
        ({"output": {"choice": "approve"}, "colour": "red"}, ["/colour"]),
        ({"output": {"choice": "approve"}, "token_id": "run_other.1"}, ["/token_id"]),
        ({"output": {"choice": "approve"}, "token_id": "a b"}, ["/token_id"]),
        ({"output": {"choice": "approve", "text": "x" * 8_000_000}}, ["/output"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_an_answer_that_is_refused(api: Api, body: Any, paths: list[str]) -> None:
    run_id = await asked(api)
    problem = await answer(api, run_id, body, 422)
    assert sorted(error["path"] for error in problem["errors"]) == paths
    assert (await api.get(f"/runs/{run_id}"))["live_tokens"][0]["state"] == "asked"


async def test_a_person_declines(api: Api) -> None:
    run_id = await asked(api)
    await answer(api, run_id, {"error": {"message": "not mine to decide"}})
    await api.play(REVIEW)
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "FAILED"
    assert (shown["error"]["class"], shown["error"]["message"]) == ("rejected", "not mine to decide")


async def test_a_large_answer_is_an_artifact(api: Api) -> None:
    run_id = await asked(api)
    await answer(api, run_id, {"output": {"choice": "approve", "text": "x" * 50_000}})
    await api.play(REVIEW)
    assert (await api.get(f"/runs/{run_id}"))["outputs"]["review"]["text"] == "x" * 50_000


async def test_an_outside_worker_answers_for_a_task(api: Api) -> None:
    ask = {**ASK, "nodes": [{**ASK["nodes"][0], "config": {
        **ASK["nodes"][0]["config"],
        "response_format": {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer"}}},
    }}]}  # fmt: skip
    run_id = await api.start(ask, {"q": "why"})
    problem = await answer(api, run_id, {"output": {"score": "many"}}, 422, "answer")
    assert problem["errors"][0]["path"] == "/output/score"
    await answer(api, run_id, {"output": {"score": 3}}, node="answer")
    await api.play(ask, lambda task, started: pytest.fail("nothing is left to execute"))
    assert (await api.get(f"/runs/{run_id}"))["output"] == {"score": 3}


async def test_an_outside_workers_failure_is_tried_again(api: Api) -> None:
    run_id = await api.start(HELLO)
    await answer(api, run_id, {"error": {"message": "no power"}}, node="greet")
    play = PlayAll(api.store.redis, HELLO, keys=api.store.keys)
    await play.settle()
    (token,) = (await api.get(f"/runs/{run_id}"))["live_tokens"]
    assert token["state"] == "delayed"
    await answer(api, run_id, {"error": {"message": "no such thing", "class": "not_found"}}, node="greet")
    await play.settle()
    assert (await api.get(f"/runs/{run_id}"))["error"]["class"] == "not_found"


async def test_what_does_not_wait(api: Api) -> None:
    run_id = await asked(api)
    assert "does not wait" in (await answer(api, run_id, {"output": {}}, 409, "draft"))["detail"]
    await answer(api, run_id, {"output": {}}, 404, "nothing")
    token = f"{run_id}.99"
    assert (await answer(api, run_id, {"output": {"choice": "approve"}, "token_id": token}, 409))["tokens"] == []
    calls = await api.start(CALLS)
    await PlayAll(api.store.redis, CALLS, keys=api.store.keys).settle()
    refused = await answer(api, calls, {"output": {}}, 409, "ask")
    assert refused["tokens"][0]["state"] == "calling"


async def test_several_that_wait_must_be_told_apart(api: Api) -> None:
    each = mapped({"id": "review", "type": "human", "config": {"prompt": "{{ item }}?"}})
    run_id = await api.start(each, {"names": ["Ada", "Alan", "Grace"]})
    await api.play(each)
    refused = await answer(api, run_id, {"output": {"ok": True}}, 409)
    tokens = [token["token_id"] for token in refused["tokens"]]
    assert len(tokens) == 3 and all(f"{run_id}.1-" in token for token in tokens)
    listed = (await api.get(f"/approvals?run_id={run_id}"))["approvals"]
    assert {one["token_id"] for one in listed} == set(tokens)
    for one in listed[:2]:
        await answer(api, run_id, {"output": {"about": one["prompt"]}, "token_id": one["token_id"]})
    await answer(api, run_id, {"output": {"about": listed[2]["prompt"]}})
    await api.play(each)
    assert (await api.get(f"/runs/{run_id}"))["output"] == [{"about": f"{n}?"} for n in ("Ada", "Alan", "Grace")]


async def test_two_answers_at_once(api: Api) -> None:
    run_id = await asked(api)
    path = f"/runs/{run_id}/nodes/review/complete"
    bodies = [{"output": {"choice": choice}} for choice in ("approve", "reject", "approve")]
    codes = await asyncio.gather(*(api.http.post(path, json=body) for body in bodies))
    assert sorted(code.status_code for code in codes) == [200, 409, 409]


async def test_approvals(api: Api, record: Any) -> None:
    first = await asked(api)
    taken = await api.post("/batches", {"workflow": REVIEW, "items": [{"editor": "eve"}, {"editor": "ada"}]}, 202)
    await api.admit()
    await api.play(REVIEW)
    found = await api.get("/approvals")
    assert (found["total"], found["complete"], len(found["approvals"])) == (3, True, 3)
    oldest = found["approvals"][0]
    assert oldest["run_id"] == first and oldest["choices"] == ["approve", "reject"] and oldest["reminders"] == 0
    assert oldest["form"]["required"] == ["choice"] and oldest["prompt"] == "Publish draft?"
    assert (await api.get("/approvals?limit=1"))["approvals"] == [oldest]
    assert (await api.get("/approvals?assignee=eve"))["total"] == 1
    assert (await api.get(f"/approvals?batch_id={taken['batch_id']}"))["total"] == 2
    assert (await api.get(f"/approvals?batch_id={taken['batch_id']}&assignee=ada"))["total"] == 1
    left = {**oldest, "run_id": "run_9", "token_id": "run_9.1-0.2"}  # of a map that has ended
    await api.store.redis.hset("approvals", "run_9.1-0.2", orjson.dumps(left))
    assert (await api.get("/approvals?run_id=run_9"))["approvals"] == []
    await api.get("/approvals?limit=0", 422)
    await api.post(f"/runs/{first}/cancel")
    assert (await api.get(f"/approvals?run_id={first}"))["approvals"] == []


async def test_an_outside_event(api: Api) -> None:
    runs = {order: await api.start(PAID, {"order": order}) for order in ("17", "18")}
    again = await api.start(PAID, {"order": "17"})
    await api.play(PAID)
    (token,) = (await api.get(f"/runs/{again}"))["live_tokens"]
    assert token["waits_for"] == {"event": "paid", "key": "17", "due": None}
    assert await api.post("/events/paid") == {"completed": 0, "runs": []}
    assert await api.post("/events/other", {"key": "17"}) == {"completed": 0, "runs": []}
    done = await api.post("/events/paid", {"key": "17", "output": {"amount": 12}})
    assert done["completed"] == 2 and set(done["runs"]) == {runs["17"], again}
    assert (await api.post("/events/paid", {"key": "17"}))["completed"] == 0, "each only once"
    assert (await api.post("/events/paid", {"key": "18"}))["completed"] == 1
    await api.play(PAID)
    assert (await api.get(f"/runs/{again}"))["output"] == {"amount": 12}
    assert (await api.get(f"/runs/{runs['18']}"))["output"] == {"node": "order"}, "without an output: what arrived"
    await api.post("/events/a b", status=422)
    await api.post("/events/paid", {"key": 17}, 422)


async def test_an_event_for_many_and_for_strange_run_ids(api: Api) -> None:
    each = mapped({"id": "payment", "type": "wait", "config": {"event": "paid"}})
    for run_id in ("run_1", "run_1.2-3", "run_1.1-0.2-0"):
        await api.start(each, {"names": ["a", "b"]}, run_id=run_id)
    await api.play(each)
    done = await api.post("/events/paid", {"output": "x" * 20_000})
    assert done["completed"] == 6 and set(done["runs"]) == {"run_1", "run_1.2-3", "run_1.1-0.2-0"}
    await api.play(each)
    assert (await api.get("/runs/run_1.2-3"))["output"] == ["x" * 20_000] * 2


async def test_parents_and_children(api: Api, record: Any) -> None:
    run_id = await api.start(CALLS)
    await PlayAll(api.store.redis, CALLS, keys=api.store.keys).settle()
    shown = await api.get(f"/runs/{run_id}")
    (child,) = shown["children"]
    assert (child["node_id"], child["status"]) == ("ask", "RUNNING") and shown["parent"] is None
    assert shown["live_tokens"][0]["waits_for"] == {"run_id": child["run_id"]}
    assert (await api.get(f"/runs/{child['run_id']}"))["parent"] == run_id
    await api.play(CALLS)
    await record()
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "COMPLETED" and shown["children"] == [child | {"status": "COMPLETED"}]
    ended = await api.get(f"/runs/{child['run_id']}")
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == shown
    assert await api.get(f"/runs/{child['run_id']}") == ended


async def test_a_failure_of_an_item_is_shown_with_its_state(api: Api, record: Any) -> None:
    run_id = await api.start(EACH, {"names": ["Ada", "Alan"]})
    await api.play(EACH, lambda task, started: Failure("permanent", "no", retryable=False))
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "FAILED" and [token["node_id"] for token in shown["live_tokens"]] == ["all"]
    await record()
    (listed,) = (await api.get("/runs"))["runs"]
    assert listed["usage"] == shown["usage"], "its items were held after its end"
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == shown
