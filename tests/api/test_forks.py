"""POST /runs/{run_id}/fork: what it starts, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.fold import fold
from schemas.messages import Failure
from tests.api.conftest import Api, PlayAll, application, client_of
from tests.api.workflows import EACH, HELLO, REVIEW, sized

THREE: dict[str, Any] = {
    "id": "three",
    "nodes": [{"id": name, "type": "function", "config": {"handler": name}} for name in ("a", "b", "c")],
    "edges": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}],
}


def handler(node: str, name: str) -> list[dict[str, Any]]:
    number = [one["id"] for one in THREE["nodes"]].index(node)
    return [{"op": "replace", "path": f"/nodes/{number}/config/handler", "value": name}]


async def ended(api: Api, workflow: Any = THREE, input: Any = None, answer: Any = None) -> str:
    run_id = await api.start(workflow, {} if input is None else input)
    await (api.play(workflow, answer) if answer else api.play(workflow))
    return run_id


async def seq_of(api: Api, run_id: str, type: str, node: str) -> int:
    events = (await api.get(f"/runs/{run_id}/events"))["events"]
    return next(int(event["seq"]) for event in events if event["type"] == type and event.get("node_id") == node)


async def play(api: Api) -> list[str]:
    """Let what is queued be executed; the nodes, in order."""
    return (await api.play()).path()


async def test_what_had_finished_is_not_done_again(api: Api, record: Any) -> None:
    run_id = await ended(api)
    shown = await api.get(f"/runs/{run_id}")
    at = await seq_of(api, run_id, "node_completed", "a")
    await record()
    asked = {"at": at, "run_id": "mine", "labels": {"try": "two"}, "description": "once more"}
    answer = await api.post(f"/runs/{run_id}/fork", asked, 201)
    assert answer == {
        "run_id": "mine", "status": "RUNNING", "revision": 1, "forked_from": {"run_id": run_id, "seq": at},
    }  # fmt: skip
    assert await api.post(f"/runs/{run_id}/fork", asked, 200) == answer, "the same request again"
    assert "taken" in (await api.post(f"/runs/{run_id}/fork", asked | {"at": at + 1}, 409))["detail"]
    assert await play(api) == ["b", "c"]
    fork = await api.get("/runs/mine")
    assert (fork["status"], fork["outputs"], fork["labels"]) == ("COMPLETED", shown["outputs"], {"try": "two"})
    assert fork["forked_from"] == {"run_id": run_id, "seq": at}
    assert await api.get(f"/runs/{run_id}") == shown, "it is left alone"
    of_fork = await api.post("/runs/mine/fork", {"at": 2}, 201)
    assert await play(api) == ["b", "c"]
    await record()
    events = await api.history.events.after(of_fork["run_id"])
    state = fold(events)
    assert (state.status, state.outputs[""]) == ("COMPLETED", shown["outputs"])
    assert fold(events).tokens == state.tokens, "what is folded changes no event"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"at": 99}, 404, "event 99"),
        ({"at": 0}, 422, "at"),
        ({"at": "x"}, 422, "at"),
        ({"nonsense": 1}, 422, "nonsense"),
        ({"labels": {"a": 1}}, 422, "labels"),
        ({"at": 2, "operations": [{"op": "nope"}]}, 422, "operations"),
        ({"description": "x" * 300_000}, 413, "patch_bytes"),
        ({}, 409, "earlier event"),
    ],
)
async def test_what_is_refused(api: Api, body: Any, status: int, word: str) -> None:
    run_id = await ended(api)
    answer = await api.http.post(f"/runs/{run_id}/fork", json=body)
    assert (answer.status_code, word in answer.text) == (status, True), answer.text
    await api.post("/runs/run_nobody/fork", {}, 404)


async def test_with_a_patch_it_goes_on_by_the_new_workflow(api: Api) -> None:
    run_id = await ended(api)
    at = await seq_of(api, run_id, "node_completed", "a")
    edges = {"op": "replace", "path": "/edges", "value": [{"from": "a", "to": "c"}]}
    gone = [{"op": "remove", "path": "/nodes/1"}, edges]
    refused = await api.post(f"/runs/{run_id}/fork", {"at": at, "operations": gone}, 409)
    assert "b" in str(refused["tokens"])
    answer = await api.post(f"/runs/{run_id}/fork", {"at": at, "operations": handler("c", "other")}, 201)
    assert (answer["status"], answer["revision"]) == ("RUNNING", 2)
    assert await play(api) == ["b", "c"]
    workflow = await api.get(f"/runs/{answer['run_id']}/revisions/2")
    assert workflow["workflow"]["nodes"][2]["config"]["handler"] == "other"
    cancelled = {"at": at, "operations": gone, "live_tokens": "cancel"}
    fork = await api.post(f"/runs/{run_id}/fork", cancelled, 201)
    assert fork["status"] == "COMPLETED", "nothing is left in it"


async def test_of_a_run_that_was_patched_twice(api: Api, record: Any) -> None:
    """Each event belongs to the workflow of its time, recorded or not."""
    run_id = await api.start(THREE, {})
    play = PlayAll(api.store.redis, THREE, keys=api.store.keys)
    for name in ("second", "third"):
        await api.post(f"/runs/{run_id}/patch", {"operations": handler("c", name)})
        await play.execute((await play.tasks())[0])
        await play.settle()
    completed = [await seq_of(api, run_id, "node_completed", node) for node in ("a", "b")]
    for _ in range(2):
        for at, name in ((1, "c"), (completed[0], "second"), (completed[1], "third")):
            fork = await api.post(f"/runs/{run_id}/fork", {"at": at}, 201)
            shown = await api.get(f"/runs/{fork['run_id']}/revisions/1")
            assert shown["workflow"]["nodes"][2]["config"]["handler"] == name
        await record()


async def test_the_end_of_an_item_is_part_of_the_step_before(api: Api) -> None:
    run_id = await ended(api, EACH, {"names": ["Ada", "Alan"]})
    events = (await api.get(f"/runs/{run_id}/events"))["events"]
    at = next(event["seq"] for event in events if event["type"] == "item_completed")
    fork = await api.post(f"/runs/{run_id}/fork", {"at": at - 1}, 201)
    assert fork["forked_from"]["seq"] == at
    assert await play(api) == ["judge"]
    assert (await api.get(f"/runs/{fork['run_id']}"))["status"] == "COMPLETED"


async def test_failed_cancelled_and_paused_runs(api: Api) -> None:
    failed = await ended(api, answer=lambda task, _: Failure("permanent", "no", retryable=False))
    cancelled, paused = await api.start(THREE, {}), await api.start(THREE, {})
    await api.post(f"/runs/{cancelled}/cancel")
    await api.post(f"/runs/{paused}/pause")
    for run_id in (failed, cancelled, paused):
        fork = await api.post(f"/runs/{run_id}/fork", {}, 201)
        assert (fork["status"], await play(api)) == ("RUNNING", ["a", "b", "c"])
    assert [(await api.get(f"/runs/{one}"))["status"] for one in (failed, cancelled, paused)] == [
        "FAILED", "CANCELLED", "PAUSED",
    ]  # fmt: skip


async def test_people_are_asked_again(api: Api) -> None:
    run_id = await ended(api, REVIEW, {"editor": "Ada"})
    fork = await api.post(f"/runs/{run_id}/fork", {}, 201)
    await play(api)
    asked = [one for one in (await api.get("/approvals"))["approvals"] if one["run_id"] == fork["run_id"]]
    assert [(one["prompt"], one["choices"], one["form"]["required"]) for one in asked] == [
        ("Publish draft?", ["approve", "reject"], ["choice"])
    ]


async def test_large_values_go_with_it(api: Api, record: Any) -> None:
    """Also where Redis has forgotten the run that it is forked from."""
    run_id = await ended(api, HELLO, sized("Ada", 40_000))
    shown = await api.get(f"/runs/{run_id}")
    await record()
    await api.store.redis.flushdb()
    fork = await api.post(f"/runs/{run_id}/fork", {"at": await seq_of(api, run_id, "node_completed", "greet")}, 201)
    assert await play(api) == ["sign"]
    await record()
    await api.store.redis.flushdb()
    assert (await api.get(f"/runs/{fork['run_id']}"))["input"] == shown["input"]


async def test_without_postgres(alone: Api, record: Any) -> None:
    """A run that Redis knows whole is forked; one that it has forgotten is not known to be none."""
    run_id = await alone.start(THREE, {})
    await alone.post(f"/runs/{run_id}/fork", {}, 201)
    await alone.post("/runs/run_nobody/fork", {}, 503)


async def test_no_more_than_there_is_room_for(api: Api) -> None:
    run_id = await api.start(THREE, {})
    app = application(api.store, api.history, events_limit=1)
    async with client_of(app) as http:
        assert (await http.post(f"/runs/{run_id}/fork", json={})).status_code == 503


async def test_a_request_that_was_cut_off_before_its_patch_is_asked_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await ended(api)
    asked = {"at": 3, "operations": handler("c", "other"), "run_id": "mine"}

    async def dies(*args: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator_api.forks._patch", dies)
        with pytest.raises(RuntimeError):
            await api.http.post(f"/runs/{run_id}/fork", json=asked)
    assert (await api.get("/runs/mine"))["status"] == "PAUSED"
    for _ in range(2):
        answer = await api.post(f"/runs/{run_id}/fork", asked, 200)
        assert (answer["status"], answer["revision"]) == ("RUNNING", 2)
    assert await play(api) == ["b", "c"]
