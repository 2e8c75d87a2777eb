"""Explanations and costs of runs, over HTTP."""

from typing import Any

from tests.api.conftest import Api
from tests.scripts.workflows import DIAMOND, LOOP

ADDED = [
    {"op": "add", "path": "/nodes/-", "value": {"id": "e", "type": "function", "config": {"handler": "echo"}}},
    {"op": "add", "path": "/edges/-", "value": {"from": "d", "to": "e"}},
]


async def test_a_node_is_explained_whatever_is_recorded(api: Api, record: Any) -> None:
    run_id = await api.start(DIAMOND)
    play = await api.play(DIAMOND)
    told = await api.get(f"/runs/{run_id}/nodes/d/explain")
    (one,) = told["executions"]
    assert (one["state"], one["released"]["node"] in "bc", len(one["arrivals"])) == ("completed", True, 2)
    assert told["sentences"][0][-1] == "Its path ends here."
    await record()
    assert await api.get(f"/runs/{run_id}/nodes/d/explain") == told
    assert play.executed


async def test_a_run_that_was_patched_is_explained_by_the_graph_of_each_moment(api: Api, record: Any) -> None:
    run_id = await api.start(DIAMOND)
    await api.post(f"/runs/{run_id}/patch", {"operations": ADDED})
    await api.play(DIAMOND)
    added = await api.get(f"/runs/{run_id}/nodes/e/explain")
    assert [(one["revision"], one["arrivals"][0]["source"]) for one in added["executions"]] == [(2, "d")]
    await record()
    assert (await api.get(f"/runs/{run_id}/nodes/e/explain"))["executions"] == added["executions"]


async def test_what_there_is_not(api: Api) -> None:
    run_id = await api.start(LOOP)
    problem = await api.get(f"/runs/{run_id}/nodes/nowhere/explain", 404)
    assert problem["detail"] == f"{run_id} has no node nowhere; its nodes are work, again, last."
    assert (await api.get("/runs/run_none/nodes/a/explain", 404))["detail"] == "There is no run run_none."
    await api.get("/runs/run_none/cost", 404)
    for query in ("item=-1", "limit=0", "limit=9999", "more=1"):
        await api.get(f"/runs/{run_id}/nodes/work/explain?{query}", 422)
    assert (await api.get(f"/runs/{run_id}/nodes/work/explain?item=3"))["executions"] != []


async def test_what_a_run_cost(api: Api) -> None:
    run_id = await api.start(DIAMOND)
    assert await api.get(f"/runs/{run_id}/cost") == {"run_id": run_id, "cost": None, "models": []}
