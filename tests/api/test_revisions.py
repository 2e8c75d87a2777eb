"""Revisions: listed, shown and compared, live and long after the run has ended, whoever had recorded what by then."""

from typing import Any

import jsonpatch
import pytest

from orchestrator_api.document_diff import MOST_LINES, document_diff
from schemas.ir import IR
from schemas.revision import ir_after
from tests.api.conftest import Api
from tests.api.test_patches import ADD_ARGS, LAST, patch
from tests.api.workflows import HELLO

SIGNED = jsonpatch.apply_patch(HELLO, [{**ADD_ARGS, "path": "/nodes/1/config/args"}])


async def revisions(api: Api, run_id: str, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get(f"/runs/{run_id}/revisions{query}"))["revisions"]
    return found


async def three(api: Api) -> str:
    run_id = await api.start()
    await patch(api, run_id, [ADD_ARGS], description="signed", headers={"Pavane-User": "ada"})
    await patch(api, run_id, LAST)
    return run_id


async def test_revisions_are_listed(api: Api) -> None:
    run_id = await three(api)
    await api.post(f"/runs/{run_id}/rollback", {"revision": 2})
    first, second, third, fourth = await revisions(api, run_id)
    started, *_ = (await api.get(f"/runs/{run_id}/events"))["events"]
    assert first == {
        "revision": 1, "digest": started["digest"], "at": started["at"], "by": None, "description": None,
        "operations": [], "added": [], "removed": [], "changed": [],
    }  # fmt: skip
    assert (second["by"], second["description"], second["operations"]) == ("ada", "signed", [ADD_ARGS])
    assert (second["changed"], second["added"]) == (["sign"], [])
    assert (third["by"], third["description"], third["added"]) == ("api", None, ["last"])
    assert (fourth["rollback_to"], fourth["removed"], fourth["digest"]) == (2, ["last"], second["digest"])
    assert "rollback_to" not in third


async def test_pages(api: Api) -> None:
    run_id = await three(api)
    page = await api.get(f"/runs/{run_id}/revisions?limit=2")
    assert ([one["revision"] for one in page["revisions"]], page["next_after"]) == ([1, 2], 2)
    last = await api.get(f"/runs/{run_id}/revisions?limit=2&after=2")
    assert ([one["revision"] for one in last["revisions"]], last["next_after"]) == ([3], None)
    assert await api.get(f"/runs/{run_id}/revisions?after=3") == {"revisions": [], "next_after": None}
    for wrong in ("limit=0", "limit=101", "after=-1", "after=x", "cursor=1"):
        await api.get(f"/runs/{run_id}/revisions?{wrong}", 422)
    await api.get("/runs/run_nobody/revisions", 404)


async def test_a_revision_with_its_document(api: Api) -> None:
    run_id = await three(api)
    assert (await api.get(f"/runs/{run_id}/revisions/1"))["workflow"] == HELLO
    second = await api.get(f"/runs/{run_id}/revisions/2")
    assert second.pop("workflow") == SIGNED and second == (await revisions(api, run_id))[1]
    newest = await api.get(f"/runs/{run_id}/revisions/3")
    assert newest["workflow"] == (await api.get(f"/runs/{run_id}/ir"))["workflow"]
    for number, status in (("4", 404), ("2000000000", 404), ("0", 422), ("x", 422), ("99999999999", 422)):
        await api.get(f"/runs/{run_id}/revisions/{number}", status)
    await api.get("/runs/run_nobody/revisions/1", 404)


@pytest.mark.parametrize("recorded", ["nothing", "first", "all"])
async def test_wherever_the_events_are(api: Api, record: Any, recorded: str) -> None:
    run_id = await api.start()
    if recorded == "first":
        await record()
    await patch(api, run_id, [ADD_ARGS])
    await patch(api, run_id, LAST)
    if recorded == "all":
        await record()
    assert [one["revision"] for one in await revisions(api, run_id)] == [1, 2, 3]
    assert [one["revision"] for one in await revisions(api, run_id, "?after=1&limit=1")] == [2]
    assert (await api.get(f"/runs/{run_id}/revisions/2"))["workflow"] == SIGNED


@pytest.mark.parametrize("recorded_before", [False, True])
async def test_long_after_the_end(api: Api, record: Any, recorded_before: bool) -> None:
    """The first IR is kept, though the run was patched before the recorder came to it."""
    run_id = await api.start()
    if recorded_before:
        await record()
    await patch(api, run_id, [ADD_ARGS])
    await patch(api, run_id, LAST)
    await api.play()
    listed, ir = await revisions(api, run_id), await api.get(f"/runs/{run_id}/ir")
    difference = await api.get(f"/runs/{run_id}/diff")
    await record()
    await api.store.redis.flushdb()
    assert await revisions(api, run_id) == listed
    shown = [(await api.get(f"/runs/{run_id}/revisions/{number}"))["workflow"] for number in (1, 2, 3)]
    assert shown == [HELLO, SIGNED, ir["workflow"]]
    answer = await api.http.get(f"/runs/{run_id}/ir")
    assert (answer.json(), answer.headers["etag"]) == (ir, '"3"')
    assert await api.get(f"/runs/{run_id}/diff") == difference


async def test_every_run_that_is_patched_early(api: Api, record: Any) -> None:
    """Two runs of one workflow, of which only one has its first IR still."""
    one, other = await api.start(), await api.start()
    await patch(api, one, LAST)
    await record()
    await api.store.redis.delete(api.store.keys.run(other), api.store.keys.first_ir(one), api.store.keys.ir(one))
    await api.store.redis.delete(api.store.keys.run(one))
    assert (await api.get(f"/runs/{one}/revisions/1"))["workflow"] == HELLO


async def test_the_first_ir_goes_with_the_run(api: Api) -> None:
    run_id = await three(api)
    keys = api.store.keys
    assert await api.store.redis.exists(keys.first_ir(run_id))
    assert await api.store.redis.ttl(keys.first_ir(run_id)) == -1
    await api.play()
    assert (
        0
        < await api.store.redis.pttl(keys.first_ir(run_id))
        == pytest.approx(await api.store.redis.pttl(keys.ir(run_id)), abs=5_000)
    )


async def test_the_difference_of_two_revisions(api: Api) -> None:
    run_id = await three(api)
    found = await api.get(f"/runs/{run_id}/diff?from=1&to=2")
    assert (found["from"], found["to"]) == (1, 2)
    assert jsonpatch.apply_patch(HELLO, found["operations"]) == SIGNED
    assert found["changes"][:2] == ["--- revision 1", "+++ revision 2"]
    assert [line for line in found["changes"][2:] if line[0] in "+-"] == ["+    args:", "+      by: '{{ input.name }}'"]
    back = await api.get(f"/runs/{run_id}/diff?from=2&to=1")
    assert jsonpatch.apply_patch(SIGNED, back["operations"]) == HELLO
    newest = await api.get(f"/runs/{run_id}/diff")
    assert (newest["from"], newest["to"], len(newest["operations"])) == (2, 3, 2)
    assert newest == await api.get(f"/runs/{run_id}/diff?from=2")
    before = await api.get(f"/runs/{run_id}/diff?to=1")
    assert (before["from"], before["changes"]) == (1, [])
    assert await api.get(f"/runs/{run_id}/diff?from=2&to=2") == {"from": 2, "to": 2, "operations": [], "changes": []}
    for query, status in (("from=9", 404), ("to=9", 404), ("from=0", 422), ("from=x", 422), ("a=1", 422)):
        await api.get(f"/runs/{run_id}/diff?{query}", status)
    await api.get("/runs/run_nobody/diff", 404)


def test_a_difference_reads_as_text() -> None:
    one = {"id": "w", "prompt": "Be kind.\nSay hello.\n", "same": [1, 2, 3]}
    other = one | {"prompt": "Be kind.\nSay goodbye.\n"}
    changes = document_diff(one, other, "a", "b")
    assert [line for line in changes if line[0] in "+-"] == ["--- a", "+++ b", "-  Say hello.", "+  Say goodbye."]
    assert document_diff(one, one, "a", "b") == []
    assert document_diff(one, one | {"more": 1}, "a", "b")[-1] == "+more: 1"
    assert document_diff(one, {"id": "w"}, "a", "b")[-1] == "-- 3"


def test_a_difference_of_what_is_large() -> None:
    one = {"id": "w", "rows": [*range(MOST_LINES)], "end": 1}
    other = {"id": "w", "rows": [*range(MOST_LINES, 0, -1)], "end": 1}
    changes = document_diff(one, other, "a", "b")
    assert len(changes) == 3 + 2 * MOST_LINES and changes[2] == f"@@ -3,{MOST_LINES} +3,{MOST_LINES} @@"
    assert len(document_diff(one, one | {"end": 2}, "a", "b")) < 10


async def test_the_events_give_the_ir_that_redis_holds(api: Api) -> None:
    run_id = await three(api)
    first = (await api.store.redis.get(api.store.keys.first_ir(run_id))).decode()
    events = await api.app.state.services.log.after(run_id)
    assert ir_after(IR.from_json(first), events).text == await api.store.ir_text(run_id)
