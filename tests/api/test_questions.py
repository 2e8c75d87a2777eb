"""GET /ask/...: real runs asked about, and questions that are none."""

from typing import Any

import psycopg
import pytest

from schemas.messages import Failure
from schemas.prices import Prices
from tests.api.conftest import Api, application, client_of

SHAKY: dict[str, Any] = {
    "id": "shaky",
    "nodes": [
        {"id": "prep", "type": "transform", "config": {"set": {"score": "input.n * 3"}}},
        {"id": "pick", "type": "branch", "config": {
            "rules": [{"condition": {"type": "cel", "expression": "input.meta.x > 1"}, "next": ["call"]},
                      {"condition": {"type": "cel", "expression": "output.score < 5"}, "next": ["ask"]}],
            "default": ["call"]}},
        {"id": "ask", "type": "agent", "config": {"model": "m1", "prompt": "{{ output.score }}"}},
        {"id": "call", "type": "function", "config": {"handler": "call"}, "retry": {"max_attempts": 1}},
    ],
    "edges": [{"from": "prep", "to": "pick"}],
}  # fmt: skip


def work(task: Any, started: Any) -> Any:
    return Failure("timeout", "no answer \0", retryable=True) if task.node_id == "call" else {"text": "\0 fine"}


async def played(api: Api, record: Any) -> str:
    """A batch of four items: two go to `ask`, two fail at `call`."""
    body = {"workflow": SHAKY, "items": [{"n": n, "note": "\0"} for n in range(4)], "key": "string(item.n)"}
    batch = str((await api.post("/batches", body, 202))["batch_id"])
    await api.admit()
    await api.play(SHAKY, work)
    await record()
    return batch


async def test_questions_about_real_runs(api: Api, record: Any) -> None:
    batch = await played(api, record)
    listed = await api.get("/ask")
    assert {question["path"] for question in listed["questions"]} == {
        f"/ask/{name}" for name in ("missing", "cost", "conditions", "slowest", "failures", "search")
    }
    missing = await api.get("/ask/missing", params={"node": "ask", "batch_id": batch, "limit": 1})
    assert (missing["total"], missing["missing"], [item["key"] for item in missing["items"]]) == (4, 2, ["2"])
    [reason] = missing["reasons"]
    assert (reason["reason"], reason["node"], reason["detail"], reason["items"]) == ("failed", "call", "timeout", 2)
    more = await api.get("/ask/missing", params={"node": "ask", "batch_id": batch, "cursor": missing["next_cursor"]})
    assert ([item["key"] for item in more["items"]], more["next_cursor"]) == (["3"], None)
    elsewhere = await api.get("/ask/missing", params={"node": "call", "batch_id": batch})
    details = {row["reason"]: row["detail"] for row in elsewhere["reasons"]}
    assert details == {"elsewhere": "rule 1 -> ask", "failed": "timeout"}

    conditions = await api.get("/ask/conditions", params={"batch_id": batch})
    assert [(row["node"], row["count"], row["code"]) for row in conditions["rows"]] == [("pick", 4, "no-such-field")]
    assert conditions["since"] is None, "a batch is asked about as a whole"
    slowest = await api.get("/ask/slowest", params={"workflow_id": "shaky", "limit": 1})
    assert (len(slowest["rows"]), slowest["groups"]) == (1, 2)
    assert slowest["since"] is not None
    failures = await api.get("/ask/failures", params={"by": "node", "since": "1h"})
    assert [(row["name"], row["final"], row["newest"]["class"]) for row in failures["rows"]] == [("call", 2, "timeout")]
    found = await api.get("/ask/search", params=[("input", "n>=1"), ("output", "ask.text~FINE")])
    assert [run["key"] for run in found["runs"]] == ["1"]


async def test_money_where_there_are_prices(api: Api, record: Any) -> None:
    await played(api, record)
    cost = await api.get("/ask/cost")
    assert "money" not in cost["total"]
    app = application(api.store, api.history, prices=Prices.parse('{"gpu_hour": 1}'))
    async with client_of(app) as http:
        answer = (await http.get("/ask/cost", params={"by": "node"})).json()
    assert "money" in answer["total"]


@pytest.mark.parametrize(
    ("question", "asked", "place"),
    [
        ("cost", {"since": "yesterday"}, "/query/since"),
        ("cost", {"since": "1d", "until": "2d"}, "/query/until"),
        ("cost", {"by": "colour"}, "/query/by"),
        ("cost", {"by": "label=a b"}, "/query/by"),
        ("cost", {"cursor": "x"}, "/query/cursor"),
        ("slowest", {"by": "runner"}, "/query/by"),
        ("failures", {"limit": 501}, "/query/limit"),
        ("failures", {"nobody": 1}, "/query/nobody"),
        ("missing", {"batch_id": "b"}, "/query"),
        ("missing", {"batch_id": "b", "node": "no-node"}, "/query/node"),
        ("search", {"input": "a"}, "/query/input"),
        ("search", {"output": "=1"}, "/query/output"),
        ("search", {"error": "\0"}, "/query/error"),
        ("search", {"label": "a"}, "/query/label"),
        ("search", {"cursor": "é"}, "/query/cursor"),
        ("search", {"input": ["a=1"] * 11}, "/query/input"),
    ],
)
async def test_what_is_no_question(api: Api, question: str, asked: dict[str, Any], place: str) -> None:
    answer = await api.get(f"/ask/{question}", 422, params=asked)
    assert [error["path"] for error in answer["errors"]] == [place]


async def test_of_nobody(api: Api) -> None:
    for question in ("missing?node=a&", "cost?", "search?"):
        await api.get(f"/ask/{question}batch_id=nobody", 404)


async def test_items_that_are_done_between_two_pages_move_nothing(
    api: Api, record: Any, database: psycopg.AsyncConnection[Any]
) -> None:
    asked = {"node": "ask", "batch_id": await played(api, record), "limit": 1}
    first = await api.get("/ask/missing", params=asked)
    assert ([item["key"] for item in first["items"]], first["dropped"]) == (["2"], None)
    await database.execute("""UPDATE run_projection SET outputs = '{"ask": 1}' WHERE key = '2'""")
    second = await api.get("/ask/missing", params=asked | {"cursor": first["next_cursor"]})
    assert ([item["key"] for item in second["items"]], second["next_cursor"]) == (["3"], None)
