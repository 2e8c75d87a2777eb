"""A batch is patched: all of it, some runs, a canary that is promoted or reverted."""

from typing import Any

import psycopg
import pytest

from orchestrator_api.batch_patching import canary_size
from orchestrator_api.options import ApiKey, hash_key
from orchestrator_api.requests import Canary
from schemas.limits import LIMITS
from tests.api.batch_runs import (
    ADD_CHECK,
    CHECK,
    NEW,
    NO_SIGN,
    OLD,
    RENAME,
    admit,
    batch_of,
    counts,
    nodes_of,
    patch,
    revisions,
    runs_of,
)
from tests.api.conftest import Api, PlayAll, application, client_of
from tests.api.workflows import HELLO
from tests.play import echo


async def test_live_runs_and_what_is_yet_to_start(api: Api, record: Any) -> None:
    batch_id = await batch_of(api, 5, admitted=2)
    assert (await api.get(f"/batches/{batch_id}"))["patch"] is None
    tried = await patch(api, batch_id, query="?dry_run=true")
    assert counts(tried) == {"patched": 2, "begin": 3} and tried["dry_run"] is True and tried["number"] == 1
    assert await nodes_of(api, batch_id) == [OLD, OLD, "", "", ""] and await revisions(api, batch_id) == [1, 1, 0, 0, 0]
    assert (await api.get(f"/batches/{batch_id}/patches"))["patches"] == []

    done = await patch(api, batch_id, description="look at them")
    assert (done["number"], done["state"], done["done"], done["added"]) == (1, "applied", True, ["check"])
    assert counts(done) == {"patched": 2, "begin": 3} and done["hindered"] == []
    assert await admit(api) == 3
    assert await nodes_of(api, batch_id) == [NEW] * 5
    assert await revisions(api, batch_id) == [2, 2, 1, 1, 1]

    run_id = (await runs_of(api, batch_id))[0]
    event = (await api.get(f"/runs/{run_id}/events"))["events"][-1]
    assert (event["type"], event["batch_patch"], event["description"]) == (
        "run_patched", 1, "look at them",
    )  # fmt: skip
    later = (await api.get(f"/runs/{(await runs_of(api, batch_id))[4]}/events"))["events"][0]
    assert later["batch_patch"] == 1

    await api.play()
    await record()
    batch = await api.get(f"/batches/{batch_id}")
    assert (batch["status"], batch["done"]) == ("COMPLETED", 5)
    assert batch["patch"] == {"number": 1, "state": "applied", "done": True}
    assert {node["node_id"]: node["done"] for node in batch["per_node"]} == {"greet": 5, "sign": 5, "check": 5}
    assert [(one["action"], one["reason"]) for one in batch["actions"]] == [("patch", "look at them")]
    assert (await patch(api, batch_id, 409))["batch_status"] == "COMPLETED"


async def test_a_canary_that_is_promoted(api: Api) -> None:
    batch_id = await batch_of(api, 8, admitted=2)
    done = await patch(api, batch_id, canary={"first": 3})
    assert (done["state"], counts(done)) == ("canary", {"patched": 2, "begin": 1})
    assert await admit(api, 5) == 3
    assert await nodes_of(api, batch_id) == [NEW, NEW, NEW, OLD, OLD, "", "", ""], "also those that start later"
    refused = await patch(api, batch_id, 409)
    assert refused["detail"] == "Patch 1 is a canary: promote or revert it first." and refused["number"] == 1

    tried = await api.post(f"/batches/{batch_id}/promote?dry_run=true")
    assert counts(tried) == {"patched": 4, "begin": 3} and tried["state"] == "applied"
    promoted = await api.post(f"/batches/{batch_id}/promote", {"reason": "well"})
    assert (promoted["state"], counts(promoted)) == ("applied", {"patched": 4, "begin": 3})
    await admit(api)
    assert await nodes_of(api, batch_id) == [NEW] * 8
    assert await revisions(api, batch_id) == [2, 2, 1, 2, 2, 1, 1, 1]
    assert counts(await api.post(f"/batches/{batch_id}/promote")) == {"patched": 4}, "again: nothing is patched twice"
    assert await revisions(api, batch_id) == [2, 2, 1, 2, 2, 1, 1, 1]
    actions = (await api.get(f"/batches/{batch_id}"))["actions"]
    assert [(one["action"], one["reason"]) for one in actions][1:] == [("promote", "well"), ("patch", None)]


async def test_a_canary_that_is_reverted(api: Api) -> None:
    batch_id = await batch_of(api, 5, admitted=2)
    await patch(api, batch_id, canary={"percent": 60})
    await admit(api, 3)
    tried = await api.post(f"/batches/{batch_id}/revert?dry_run=true")
    assert counts(tried) == {"reverted": 3}
    back = await api.post(f"/batches/{batch_id}/revert", {"reason": "worse"})
    assert (back["state"], counts(back)) == ("reverted", {"reverted": 3})
    await admit(api)
    assert await nodes_of(api, batch_id) == [OLD] * 5
    assert await revisions(api, batch_id) == [3, 3, 2, 1, 1], "going back is a revision"
    again = await api.post(f"/batches/{batch_id}/revert")
    assert counts(again) == {"reverted": 3} and await revisions(api, batch_id) == [3, 3, 2, 1, 1]
    assert (await api.post(f"/batches/{batch_id}/promote", status=409))["state"] == "reverted"
    assert (await patch(api, batch_id))["number"] == 2
    assert await nodes_of(api, batch_id) == [NEW] * 5


async def test_patches_one_after_the_other(api: Api) -> None:
    """Each is made on what the one before left; a revert leads to that."""
    batch_id = await batch_of(api, 3, admitted=1)
    await patch(api, batch_id)
    await patch(api, batch_id, operations=RENAME)
    await admit(api, 2)
    assert await revisions(api, batch_id) == [3, 1, 0]
    await api.post(f"/batches/{batch_id}/revert")
    await admit(api)
    assert await nodes_of(api, batch_id) == [NEW] * 3
    for run_id in await runs_of(api, batch_id):
        ir = (await api.http.get(f"/runs/{run_id}/ir")).json()
        assert [node["config"]["handler"] for node in ir["workflow"]["nodes"]] == ["greet", "sign", "check"]
    patches = (await api.get(f"/batches/{batch_id}/patches"))["patches"]
    assert [(one["number"], one["state"]) for one in patches] == [(2, "reverted"), (1, "applied")]


async def test_runs_that_do_not_take_it_harm_no_other(api: Api) -> None:
    batch_id = await batch_of(api, 4, admitted=4)
    runs = await runs_of(api, batch_id)
    await api.post(f"/runs/{runs[0]}/patch", {"operations": [{"op": "add", "path": "/nodes/-", "value": CHECK}]})
    await api.post(f"/runs/{runs[1]}/cancel")
    done = await patch(api, batch_id)
    assert counts(done) == {"patched": 2, "refused": 1, "ended": 1}
    (hindered,) = done["hindered"]
    assert (hindered["run_id"], hindered["key"], hindered["reason"]["reason"]) == (runs[0], "n0", "invalid")
    assert hindered["reason"]["errors"][0]["code"] == "duplicate-id"

    page = await api.get(f"/batches/{batch_id}/patches/1?limit=2")
    assert [run["outcome"] for run in page["runs"]] == ["refused", "ended"] and page["operations"] == ADD_CHECK
    page = await api.get(f"/batches/{batch_id}/patches/1?limit=2&after={page['next_after']}")
    assert [(run["run_id"], run["outcome"], run["revision"]) for run in page["runs"]] == [
        (runs[2], "patched", 2), (runs[3], "patched", 2),
    ]  # fmt: skip
    ended = await api.get(f"/batches/{batch_id}/patches/1?outcome=ended")
    assert [run["key"] for run in ended["runs"]] == ["n1"] and ended["next_after"] is None
    await api.get(f"/batches/{batch_id}/patches/2", 404)

    # Taken back: the run that was patched by itself since stays as it is.
    await api.post(f"/runs/{runs[2]}/patch", {"operations": RENAME})
    back = await api.post(f"/batches/{batch_id}/revert")
    assert counts(back) == {"reverted": 1, "kept": 1, "refused": 1, "ended": 1}
    kept = next(run for run in back["hindered"] if run["outcome"] == "kept")
    assert (kept["run_id"], kept["reason"]["reason"]) == (runs[2], "patched_since")
    assert await revisions(api, batch_id) == [2, 1, 3, 3]


async def test_live_tokens_in_the_way(api: Api) -> None:
    """Refused, until they may be cancelled; then promote asks those that refused again."""
    batch_id = await batch_of(api, 2, admitted=2)
    play = await _sign_is_queued(api)
    await admit(api)
    done = await patch(api, batch_id, operations=NO_SIGN)
    assert counts(done) == {"patched": 1, "refused": 1}
    (hindered,) = done["hindered"]
    assert hindered["reason"]["reason"] == "live_tokens"
    assert [token["node_id"] for token in hindered["reason"]["tokens"]] == ["sign"]
    promoted = await api.post(f"/batches/{batch_id}/promote", {"live_tokens": "cancel"})
    assert counts(promoted) in ({"patched": 2}, {"patched": 1, "ended": 1})
    assert promoted["options"] == {"live_tokens": "cancel"}
    assert hindered["run_id"] == play
    assert (await api.get(f"/runs/{play}"))["status"] == "COMPLETED", "nothing was left alive"


async def _sign_is_queued(api: Api) -> str:
    """One run of those that live has come to its second node; its id."""
    play = PlayAll(api.store.redis, HELLO, echo, api.store.keys)
    task = (await play.tasks())[0]
    await play.execute(task)
    await play.settle()
    return task.run_id


async def test_a_filter(api: Api) -> None:
    batch_id = await batch_of(api, 5, admitted=4)
    second = await _sign_is_queued(api)
    runs = await runs_of(api, batch_id)
    done = await patch(api, batch_id, filter={"keys": ["n1", "n4", "who"]})
    assert counts(done) == {"patched": 1} and done["options"] == {"filter": {"keys": ["n1", "n4", "who"]}}
    assert await nodes_of(api, batch_id) == [OLD, NEW, OLD, OLD, ""]
    done = await patch(api, batch_id, operations=RENAME, filter={"nodes": ["sign"]})
    assert counts(done) == {"patched": 1}
    assert await revisions(api, batch_id) == [1 + (run == second) + (n == 1) for n, run in enumerate(runs[:4])] + [0]
    await admit(api)
    assert (await nodes_of(api, batch_id))[4] == OLD, "items that have not started are not filtered"
    assert counts(await api.post(f"/batches/{batch_id}/promote")) == {"patched": 1}, "a filter has chosen once"
    assert counts(await api.post(f"/batches/{batch_id}/revert")) == {"reverted": 1}
    none = await patch(api, batch_id, 422, filter={"keys": ["who"]})
    assert none["errors"][0]["path"] == "/filter"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"operations": [{"op": "remove", "path": "/nodes/none"}]}, "/operations/0/path"),
        ({"operations": [{"op": "remove", "path": "/nodes/greet"}]}, "/workflow/edges/0/from"),
        ({"canary": {}}, "/canary"),
        ({"canary": {"first": 1, "percent": 1}}, "/canary"),
        ({"canary": {"first": 0}}, "/canary/first"),
        ({"canary": {"percent": 101}}, "/canary/percent"),
        ({"filter": {}}, "/filter"),
        ({"filter": {"keys": []}}, "/filter/keys"),
        ({"filter": {"keys": ["n0"]}, "canary": {"first": 1}}, ""),
        ({"live_tokens": "perhaps"}, "/live_tokens"),
        ({"colour": "red"}, "/colour"),
    ],
)
async def test_what_makes_no_sense(api: Api, fields: Any, path: str) -> None:
    batch_id = await batch_of(api, 2, admitted=1)
    refused = await patch(api, batch_id, 422, **fields)
    assert refused["errors"][0]["path"] == path
    assert (await api.get(f"/batches/{batch_id}/patches"))["patches"] == []
    assert await revisions(api, batch_id) == [1, 0]


async def test_refusals_have_the_status_of_those_of_a_run(api: Api) -> None:
    """A failed `test` is a conflict (RFC 5789), and too many bytes are too many."""
    batch_id = await batch_of(api, 2, admitted=1)
    run_id = (await runs_of(api, batch_id))[0]
    large = [{"op": "add", "path": "/description", "value": "x" * LIMITS.patch_bytes}]
    for operations, status in (([{"op": "test", "path": "/id", "value": "other"}], 409), (large, 413)):
        refused = await patch(api, batch_id, status, operations=operations)
        assert refused == await api.post(f"/runs/{run_id}/patch", {"operations": operations}, status)
    assert (await api.get(f"/batches/{batch_id}/patches"))["patches"] == []


@pytest.mark.parametrize(
    ("percent", "total", "size"),
    [
        (1.1, 3_000, 33),
        (0.1, 3_000, 3),
        (2.3, 1_000, 23),
        (10, 5, 1),
        (33.4, 500, 167),
        (1e-5, 100_000, 1),
        (100, 7, 7),
    ],
)
def test_a_canary_of_some_percent_is_not_one_item_too_large(percent: float, total: int, size: int) -> None:
    assert canary_size(Canary(first=None, percent=percent), total) == size


async def test_unknown_batches_and_no_patch(api: Api) -> None:
    await patch(api, "batch_none", 404)
    await api.get("/batches/batch_none/patches", 404)
    batch_id = await batch_of(api, 1)
    for action in ("promote", "revert"):
        await api.post(f"/batches/batch_none/{action}", status=404)
        assert (await api.post(f"/batches/{batch_id}/{action}", status=409))["detail"] == "The batch has no patch."
    await api.post(f"/batches/{batch_id}/cancel")
    await patch(api, batch_id, 409)


async def test_who_may(api: Api) -> None:
    keys = [ApiKey("ada", "operator", hash_key("op")), ApiKey("bob", "reader", hash_key("rd"))]
    batch_id = await batch_of(api, 1, admitted=1)
    app = application(api.store, api.history, keys=keys)
    async with client_of(app, headers={"Authorization": "Bearer rd"}) as reader:
        for action in ("patch", "promote", "revert"):
            answer = await reader.post(f"/batches/{batch_id}/{action}", json={"operations": ADD_CHECK})
            assert answer.status_code == 403
        assert (await reader.get(f"/batches/{batch_id}/patches")).json() == {"patches": []}
    async with client_of(app, headers={"Authorization": "Bearer op"}) as operator:
        answer = await operator.post(f"/batches/{batch_id}/patch", json={"operations": ADD_CHECK})
        assert (answer.status_code, answer.json()["by"]) == (200, "ada")


async def test_a_batch_counts_for_the_version_that_it_was_started_with(
    api: Api, record: Any, database: psycopg.AsyncConnection[Any]
) -> None:
    """What a patched batch has done is done: its keys are skipped, its counts are those of the version."""
    batch_id = await batch_of(api, 2)
    await patch(api, batch_id)
    await admit(api)
    await api.play()
    await record()
    assert (await api.get(f"/batches/{batch_id}"))["state_after"] == {"done": 2, "failed": 0}
    await database.execute("UPDATE batches SET created_at = created_at - interval '2 minutes'")
    body = {"workflow": HELLO, "items": [{"name": "n0"}, {"name": "new"}], "key": "item.name"}
    taken = await api.post("/batches", body, 202)
    assert (taken["accepted"], taken["skipped"]) == (1, 1)
    assert await admit(api) == 1
    assert await nodes_of(api, taken["batch_id"]) == [OLD], "the next batch begins with the version as it was"
