"""POST /runs/{id}/patch and /rollback: every status, whatever is sent; what is patched is what the run does next."""

from typing import Any

import orjson
import pytest

from lua.patching import Patching
from orchestrator_api.options import ApiKey, hash_key
from tests.api.conftest import Api, PlayAll, application, client_of
from tests.api.test_hostile import expect_refusal
from tests.api.workflows import EACH, HELLO, REVIEW

BARE = {"Content-Type": "application/json-patch+json"}
ARGS = "/nodes/sign/config/args"
ADD_ARGS = {"op": "add", "path": ARGS, "value": {"by": "{{ input.name }}"}}
LAST = [
    {"op": "add", "path": "/nodes/-", "value": {"id": "last", "type": "function", "config": {"handler": "last"}}},
    {"op": "add", "path": "/edges/-", "value": {"from": "sign", "to": "last"}},
]
WITHOUT_GREET = [{"op": "remove", "path": "/nodes/greet"}, {"op": "remove", "path": "/edges/0"}]


async def patch(api: Api, run_id: str, operations: Any, status: int = 200, **more: Any) -> Any:
    query, headers = more.pop("query", ""), more.pop("headers", {})
    body = {"operations": operations, **more}
    return await api.post(f"/runs/{run_id}/patch{query}", body, status, headers=headers)


async def player(api: Api, workflow: Any = HELLO) -> PlayAll:
    return PlayAll(api.store.redis, workflow, keys=api.store.keys)


async def first_task(api: Api, run_id: str, workflow: Any = HELLO) -> PlayAll:
    """Its first task is done, the next one is queued."""
    play = await player(api, workflow)
    (task,) = [task for task in await play.tasks() if task.run_id == run_id]
    await play.execute(task)
    await play.settle()
    return play


async def test_a_patch_is_what_the_run_does_next(api: Api, record: Any) -> None:
    run_id = await api.start()
    answer = await api.http.post(
        f"/runs/{run_id}/patch",
        json={"operations": [ADD_ARGS, *LAST], "description": "signed"},
        headers={"Pavane-User": "ada"},
    )
    assert answer.status_code == 200 and answer.headers["etag"] == '"2"'
    assert answer.json() == {
        "run_id": run_id, "status": "RUNNING", "revision": 2, "added": ["last"], "removed": [], "changed": ["sign"],
        "restarted": [], "cancelled": [], "reachable": ["last", "sign"], "unreachable": [],
    }  # fmt: skip
    assert (await api.get(f"/runs/{run_id}"))["revision"] == 2
    ir = await api.http.get(f"/runs/{run_id}/ir")
    assert ir.headers["etag"] == '"2"' and "last" in ir.json()["graph"]
    assert (await api.http.get(f"/runs/{run_id}/ir", headers={"If-None-Match": '"2"'})).status_code == 304
    assert (await api.play()).path() == ["greet", "sign", "last"]
    shown = await api.get(f"/runs/{run_id}")
    assert (shown["status"], shown["output"]) == ("COMPLETED", {"node": "last"})
    (event,) = [e for e in (await api.get(f"/runs/{run_id}/events"))["events"] if e["type"] == "run_patched"]
    assert (event["by"], event["description"], event["operations"]) == ("ada", "signed", [ADD_ARGS, *LAST])
    await record()
    await api.store.redis.flushdb()
    assert (await api.get(f"/runs/{run_id}"))["revision"] == 2
    assert (await api.http.get(f"/runs/{run_id}/ir")).json() == ir.json(), "made again from what is recorded"


async def test_a_test_that_fails_is_a_conflict(api: Api) -> None:
    run_id = await api.start()
    test = {"op": "test", "path": "/nodes/greet/type", "value": "human"}
    answer = await api.http.post(f"/runs/{run_id}/patch", json={"operations": [test]})
    assert answer.status_code == 409
    assert [(e["path"], e["code"]) for e in answer.json()["errors"]] == [("/operations/0/path", "test-failed")]
    assert (await api.get(f"/runs/{run_id}"))["revision"] == 1


async def test_a_list_of_operations_alone(api: Api) -> None:
    run_id = await api.start()
    await first_task(api, run_id)
    path = f"/runs/{run_id}/patch?live_tokens=cancel&running=restart&description=less"
    operations = [{"op": "remove", "path": "/nodes/sign"}, {"op": "remove", "path": "/edges/0"}]
    answer = await api.http.post(path, content=orjson.dumps(operations), headers=BARE)
    assert answer.status_code == 200, answer.text
    assert answer.json()["removed"] == ["sign"] and answer.json()["status"] == "COMPLETED", "nothing is left"
    event = (await api.get(f"/runs/{run_id}/events"))["events"][-2]
    assert (event["description"], event["live_tokens"], event["by"]) == ("less", "cancel", "api")

    other = await api.start()
    wrong = await api.http.post(f"/runs/{other}/patch", content=b'[{"op": "add", "path": "x"}]', headers=BARE)
    assert wrong.status_code == 422
    assert {error["path"] for error in wrong.json()["errors"]} == {"/0", "/0/path"}, "places in the body as it came"
    invalid = b'[{"op": "replace", "path": "/nodes/0/type", "value": "agnet"}]'
    wrong = await api.http.post(f"/runs/{other}/patch", content=invalid, headers=BARE)
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["path"].startswith("/workflow/nodes/0")
    wrong = await api.http.post(f"/runs/{other}/patch?running=stop", content=b"[]", headers=BARE)
    assert wrong.status_code == 422


async def test_a_dry_run_changes_nothing(api: Api) -> None:
    run_id = await api.start()
    await first_task(api, run_id)
    before = await api.get(f"/runs/{run_id}/events")
    answer = await api.http.post(f"/runs/{run_id}/patch?dry_run=true", json={"operations": [*LAST]})
    assert answer.headers["etag"] == '"1"', "the revision that it is at"
    said = answer.json()
    assert (said["revision"], said["dry_run"], said["added"]) == (2, True, ["last"])
    assert await api.get(f"/runs/{run_id}/events") == before
    assert (await api.get(f"/runs/{run_id}"))["revision"] == 1
    done = await patch(api, run_id, LAST)
    assert said == done | {"dry_run": True}
    tried = await api.post(f"/runs/{run_id}/rollback?dry_run=1", {"revision": 1})
    assert (tried["revision"], tried["removed"], tried["dry_run"]) == (3, ["last"], True)
    assert (await api.get(f"/runs/{run_id}"))["revision"] == 2


async def test_what_lies_in_the_past_is_said(api: Api) -> None:
    run_id = await api.start()
    await first_task(api, run_id)
    said = await patch(api, run_id, [{"op": "add", "path": "/nodes/greet/timeout_ms", "value": 5000}, ADD_ARGS])
    assert (said["reachable"], said["unreachable"]) == (["sign"], ["greet"])


async def test_live_tokens_are_listed_and_may_be_cancelled(api: Api) -> None:
    run_id = await api.start()
    refused = await patch(api, run_id, WITHOUT_GREET, 409)
    assert refused["revision"] == 1 and refused["reason"] == "live_tokens"
    assert refused["tokens"] == [{"token_id": f"{run_id}.1", "node_id": "greet", "state": "queued"}]
    assert "live_tokens" in refused["detail"]
    assert (await patch(api, run_id, WITHOUT_GREET, live_tokens="refuse", status=409))["tokens"]
    done = await patch(api, run_id, WITHOUT_GREET, live_tokens="cancel")
    assert (done["removed"], done["status"]) == (["greet"], "COMPLETED")


async def test_a_type_that_changes_under_a_running_task(api: Api) -> None:
    run_id = await api.start()
    play = await player(api)
    (task,) = await play.tasks()
    await play.claim(task)
    changed = [{"op": "replace", "path": "/nodes/greet", "value": {"id": "greet", "type": "transform",
                                                                   "config": {"set": {"a": "1"}}}}]  # fmt: skip
    refused = await patch(api, run_id, changed, 409)
    assert (refused["reason"], [token["state"] for token in refused["tokens"]]) == ("retyped", ["running"])
    done = await patch(api, run_id, changed, running="restart")
    assert done["restarted"] == ["greet"]


async def test_a_run_that_has_ended(api: Api, record: Any) -> None:
    run_id = await api.start()
    await api.play()
    refused = await patch(api, run_id, LAST, 409)
    assert refused["run_status"] == "COMPLETED" and "has ended" in refused["detail"]
    await record()
    await api.store.redis.flushdb()
    forgotten = await patch(api, run_id, LAST, 409)
    assert forgotten["run_status"] == "COMPLETED"
    assert (await api.post(f"/runs/{run_id}/rollback", {"revision": 1}, 409))["run_status"] == "COMPLETED"
    await patch(api, "run_nobody", LAST, 404)
    await api.post("/runs/run_nobody/rollback", {"revision": 1}, 404)
    await patch(api, "run_nobody", LAST, 404, headers={"If-Match": '"1"'})


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ('"1"', 200), ("*", 200), ('"7", "1"', 200), (' , "1"\t,, W/"7"', 200),
        ('"2"', 412), ('W/"1"', 412), ('"abc"', 412), ('"01"', 412), ('"7,1"', 412), ('""', 412),
        ("1", 400), ('"1', 400), ('"1" "2"', 400), ("", 400), (",", 400), ('w/"1"', 400), ('*, "1"', 400),
        ("1" * 10_000, 400), (('"' * 10_001), 400), ('"x",' * 3_000, 412),
    ],
)  # fmt: skip
async def test_if_match(api: Api, given: str, status: int) -> None:
    run_id = await api.start()
    answer = await api.http.post(f"/runs/{run_id}/patch", json={"operations": LAST}, headers={"If-Match": given})
    assert answer.status_code == status, answer.text
    if status != 200:
        expect_refusal(answer)
    if status == 412:
        assert answer.json()["revision"] == 1 and answer.headers["etag"] == '"1"'
    two = [("If-Match", '"7"'), ("If-Match", given)]
    again = await api.http.post(f"/runs/{run_id}/rollback", json={"revision": 1}, headers=two)
    assert again.status_code == (400 if given in ("*",) else 412 if status in (200, 412) else again.status_code)
    assert again.status_code < 500


async def test_two_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes between reading and writing wins; the other is told the revision now."""
    run_id = await api.start()
    read = Patching.bases
    meanwhile: list[Any] = []

    async def slow(patching: Patching, run_ids: Any) -> Any:
        bases = await read(patching, run_ids)
        if not meanwhile:
            meanwhile.append(None)
            meanwhile.append(await patch(api, run_id, [ADD_ARGS]))
        return bases

    monkeypatch.setattr(Patching, "bases", slow)
    lost = await patch(api, run_id, [ADD_ARGS], 409)
    assert (lost["reason"], lost["revision"]) == ("conflict", 2)
    meanwhile.clear()
    lost = await patch(api, run_id, [ADD_ARGS], 412, headers={"If-Match": '"2"'})
    assert lost["revision"] == 3
    assert meanwhile[1]["revision"] == 3


async def test_a_patched_workflow_that_is_invalid(api: Api) -> None:
    run_id = await api.start()
    refused = await patch(
        api, run_id, [{"op": "add", "path": "/edges/-", "value": {"from": "sign", "to": "nowhere"}}], 422
    )
    (error,) = refused["errors"]
    assert error["path"].startswith("/workflow/edges/1") and error["message"]


async def test_rolling_back(api: Api) -> None:
    run_id = await api.start()
    await patch(api, run_id, [ADD_ARGS, *LAST])
    await patch(api, run_id, [{"op": "remove", "path": ARGS}])
    body = {"revision": 1, "description": "as it was"}
    assert (await api.post(f"/runs/{run_id}/rollback", body, 412, headers={"If-Match": '"2"'}))["revision"] == 3
    done = await api.http.post(f"/runs/{run_id}/rollback", json=body, headers={"If-Match": '"3"', "Pavane-User": "eve"})
    assert done.status_code == 200 and done.headers["etag"] == '"4"'
    assert (done.json()["removed"], done.json()["revision"]) == (["last"], 4)
    assert (await api.get(f"/runs/{run_id}/ir"))["workflow"] == HELLO
    event = (await api.get(f"/runs/{run_id}/events"))["events"][-1]
    assert (event["rollback_to"], event["by"], event["description"]) == (1, "eve", "as it was")
    missing = await api.post(f"/runs/{run_id}/rollback", {"revision": 5}, 422)
    assert missing["errors"][0]["path"] == "/revision"
    for wrong in ({}, {"revision": 0}, {"revision": "1"}, {"revision": 2**40}, {"revision": 1, "operations": []}):
        await api.post(f"/runs/{run_id}/rollback", wrong, 422)
    await api.play()
    assert (await api.get(f"/runs/{run_id}"))["output"] == {"node": "sign"}


async def test_a_rollback_meets_live_tokens_too(api: Api) -> None:
    run_id = await api.start(REVIEW, {"editor": "ada"})
    asked = REVIEW["nodes"][1]
    more = [
        {"op": "add", "path": "/nodes/-", "value": {**asked, "id": "second"}},
        {"op": "replace", "path": "/edges/0/to", "value": "second"},
        {"op": "add", "path": "/edges/-", "value": {"from": "second", "to": "review"}},
    ]
    await patch(api, run_id, more)
    await api.play(REVIEW)
    refused = await api.post(f"/runs/{run_id}/rollback", {"revision": 1}, 409)
    assert [(token["node_id"], token["state"]) for token in refused["tokens"]] == [("second", "asked")]
    done = await api.post(f"/runs/{run_id}/rollback", {"revision": 1, "live_tokens": "cancel"})
    assert done["status"] == "COMPLETED"


async def test_warnings_are_shown(api: Api) -> None:
    run_id = await api.start()
    said = await patch(
        api, run_id, [{"op": "add", "path": "/edges/0/condition", "value": {"type": "cel", "expression": "1 / 2 > 0"}}]
    )
    assert [warning["path"] for warning in said["warnings"]] == ["/edges/0/condition/expression"]


async def test_items_of_a_map_that_follow_still(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lua.patching.FOLLOW_S", 0.05)
    run_id = await api.start(EACH, {"names": ["Ada", "Alan"]})
    play = await player(api, EACH)
    await play.settle()
    judge = "/nodes/all/config/nodes/judge/config/args/again"
    await patch(api, run_id, [{"op": "add", "path": judge, "value": "yes"}])
    answer = await api.http.post(f"/runs/{run_id}/patch", json={"operations": [{"op": "remove", "path": judge}]})
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    assert answer.json()["reason"] == "following"
    await play.tick()
    assert (await patch(api, run_id, [{"op": "remove", "path": judge}]))["changed"] == ["judge"]


async def test_who_may_patch(api: Api) -> None:
    run_id = await api.start()
    keys = [ApiKey("dora", "operator", hash_key("o")), ApiKey("rita", "reader", hash_key("r"))]
    async with client_of(application(api.store, api.history, keys=keys)) as http:
        for key, status in (("r", 403), ("x", 401), ("o", 200)):
            headers = {"Authorization": f"Bearer {key}", "Pavane-User": "somebody"}
            answer = await http.post(f"/runs/{run_id}/patch", json={"operations": LAST}, headers=headers)
            assert answer.status_code == status
        reading = {"Authorization": "Bearer r"}
        assert (await http.get(f"/runs/{run_id}/revisions", headers=reading)).json()["revisions"][1]["by"] == "dora"


async def test_a_patch_needs_no_postgres(alone: Api) -> None:
    run_id = await alone.start()
    assert (await patch(alone, run_id, LAST))["revision"] == 2
    assert (await alone.post(f"/runs/{run_id}/rollback", {"revision": 1}))["revision"] == 3
    assert len((await alone.get(f"/runs/{run_id}/revisions"))["revisions"]) == 3
    assert (await alone.get(f"/runs/{run_id}/revisions/1"))["workflow"] == HELLO
    assert (await alone.get(f"/runs/{run_id}/diff?from=1"))["changes"] == []
