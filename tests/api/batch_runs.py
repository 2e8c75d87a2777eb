"""Batches that the tests patch, and how their runs are looked at."""

from typing import Any

from coordinator.admission import Admission
from tests.api.conftest import Api
from tests.api.workflows import HELLO

CHECK = {"id": "check", "type": "function", "config": {"handler": "check"}}
ADD_CHECK = [
    {"op": "add", "path": "/nodes/-", "value": CHECK},
    {"op": "replace", "path": "/edges", "value": [{"from": "greet", "to": "check"}, {"from": "check", "to": "sign"}]},
]
NO_SIGN = [{"op": "remove", "path": "/nodes/sign"}, {"op": "replace", "path": "/edges", "value": []}]
RENAME = [{"op": "replace", "path": "/nodes/sign/config/handler", "value": "autograph"}]


async def batch_of(api: Api, number: int, admitted: int = 0) -> str:
    """A batch of which the first items are admitted."""
    items = [{"name": f"n{n}"} for n in range(number)]
    body = {"workflow": HELLO, "items": items, "key": "item.name", "force": True}
    batch_id = (await api.post("/batches", body, 202))["batch_id"]
    if admitted:
        await admit(api, admitted)
    return str(batch_id)


async def admit(api: Api, per_gpu: int = 500) -> int:
    return await Admission(api.store, api.history.pool, per_gpu=per_gpu).admit()


async def runs_of(api: Api, batch_id: str) -> list[str]:
    answer = await api.http.get(f"/batches/{batch_id}/results", params={"format": "csv"})
    return [line.split(",")[1] for line in answer.text.splitlines()[1:]]


async def nodes_of(api: Api, batch_id: str) -> list[str]:
    """For each item the nodes of its run's workflow, "" before it has one."""
    found = []
    for run_id in await runs_of(api, batch_id):
        answer = await api.http.get(f"/runs/{run_id}/ir")
        nodes = [node["id"] for node in answer.json()["workflow"]["nodes"]] if answer.status_code == 200 else []
        found.append(" ".join(nodes))
    return found


async def revisions(api: Api, batch_id: str) -> list[int]:
    runs = await runs_of(api, batch_id)
    found = [await api.store.redis.hget(api.store.keys.run(run_id), "revision") for run_id in runs]
    return [int(revision or 0) for revision in found]


def counts(answer: Any) -> dict[str, int]:
    return {name: count for name, count in answer["counts"].items() if count}


async def patch(api: Api, batch_id: str, status: int = 200, query: str = "", **fields: Any) -> Any:
    return await api.post(f"/batches/{batch_id}/patch{query}", {"operations": ADD_CHECK, **fields}, status)


OLD, NEW = "greet sign", "greet sign check"
