"""Runs as Postgres knows them: one, pages of them, the results of a batch, their events and states."""

from typing import Any

import psycopg
import pytest

from history.history import History
from history.runs import InvalidCursor
from schemas.values import encode_value
from tests.store_postgres.samples import NOW, batch, item, record, run_events

LARGE = {"text": "x" * 20_000}


def artifacts(value: Any) -> dict[str, bytes]:
    artifact = encode_value(value)[1]
    assert artifact
    return {artifact.name: artifact.packed}


async def test_a_completed_run(history: History, database: psycopg.AsyncConnection) -> None:
    stored = encode_value(LARGE)[0]
    events = run_events("run_1", LARGE, stored_input=stored, labels={"team": "x", "nul": "\0"}, key="k")
    await record(database, *events, artifacts=artifacts(LARGE))
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"], run["version"], run["key"]) == ("COMPLETED", 4, 1, "k")
    assert (run["input"], run["outputs"], run["output"]) == (LARGE, {"a": LARGE}, LARGE)
    assert (run["created_at"], run["ended_at"], run["error"]) == (NOW + 1, NOW + 4, None)
    assert (run["usage"]["prompt_tokens"], run["usage"]["tasks"]) == (3, 1)
    assert run["labels"]["team"] == "x"


async def test_a_run_that_is_going_on_and_one_that_failed(history: History, database: psycopg.AsyncConnection) -> None:
    await record(database, *run_events("run_1")[:2])
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"], run["ended_at"]) == ("RUNNING", 2, None)
    assert (run["outputs"], run["output"], run["usage"]) == (None, None, None)
    await record(database, *run_events("run_2", error={"class": "handler", "message": "no"}))
    run = await history.runs.get("run_2")
    assert run and (run["status"], run["error"]["class"], run["output"]) == ("FAILED", "handler", None)
    assert await history.runs.get("nobody") is None


async def test_pages_and_filters(history: History, database: psycopg.AsyncConnection) -> None:
    for number in range(7):
        labels = {"parity": "even"} if number % 2 == 0 else {}
        error = {"class": "x"} if number == 3 else None
        at = NOW + number // 2  # pairs of the same time
        await record(database, *run_events(f"run_{number}", at=at, labels=labels, error=error, batch_id="b"))
    await record(database, *run_events("other", workflow_id="other"))
    found, cursor = [], None
    while True:
        page, cursor = await history.runs.list(workflow_id="demo", limit=3, cursor=cursor)
        found += [run["run_id"] for run in page]
        if cursor is None:
            break
    assert found == [f"run_{number}" for number in range(6, -1, -1)]

    async def ids(**filters: Any) -> list[str]:
        return sorted(run["run_id"] for run in (await history.runs.list(**filters))[0])

    assert await ids(status="FAILED") == ["run_3"]
    assert await ids(batch_id="b", labels={"parity": "even"}, status="COMPLETED") == [
        "run_0",
        "run_2",
        "run_4",
        "run_6",
    ]
    assert await ids(workflow_id="other") == ["other"]
    assert await ids(labels={"parity": "odd"}) == []


@pytest.mark.parametrize("cursor", ["?", "bm9uZQ", "LTEgeA", "é", "OTk5OTk5OTk5OTk5OTk5OTk5OSB4"])
async def test_a_cursor_of_somebody_else(history: History, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        await history.runs.list(cursor=cursor)


async def test_results_come_in_the_order_of_the_items(history: History, database: psycopg.AsyncConnection) -> None:
    items = [item(n, key="k" if n == 0 else None) for n in range(230)]
    await history.batches.create(batch(1, items))
    async with history.batches.claim("batch_1", 220):
        pass
    for number in (0, 1, 219):
        output = LARGE if number == 219 else {"n": number}
        more = artifacts(LARGE) if number == 219 else {}
        await record(database, *run_events(f"run_{number}", output), artifacts=more)
    await record(database, *run_events("run_2", error={"class": "x"}))
    results = [result async for result in history.runs.results("batch_1")]
    assert [result["run_id"] for result in results] == [f"run_{n}" for n in range(230)]
    assert results[0] == {"key": "k", "run_id": "run_0", "status": "COMPLETED", "output": {"n": 0}, "error": None}
    assert (results[1]["key"], results[1]["output"]) == ("1", {"n": 1})
    assert (results[2]["status"], results[2]["output"], results[2]["error"]) == ("FAILED", None, {"class": "x"})
    assert (results[3]["status"], results[219]["output"], results[220]["status"]) == ("RUNNING", LARGE, "PENDING")
    assert [result async for result in history.runs.results("nobody")] == []


async def test_events_and_the_state_at_any_of_them(history: History, database: psycopg.AsyncConnection) -> None:
    await record(database, *run_events("run_1", "done \0 \\ \n"))
    events = await history.events.after("run_1")
    assert [(event.seq, event.type, event.at) for event in events][:2] == [
        (1, "run_started", NOW + 1), (2, "task_started", NOW + 2),
    ]  # fmt: skip
    assert [event.seq for event in await history.events.after("run_1", 1, limit=2)] == [2, 3]
    assert await history.events.after("nobody") == []
    state = await history.events.state("run_1")
    assert state and (state.status, state.outputs) == ("COMPLETED", {"": {"a": "done \0 \\ \n"}})
    early = await history.events.state("run_1", 2)
    assert early and (early.status, early.seq, early.outputs) == ("RUNNING", 2, {})
    assert await history.events.state("nobody") is None


async def test_artifacts(history: History) -> None:
    artifact = encode_value(LARGE)[1]
    assert artifact
    for _ in range(2):
        await history.artifacts.add([artifact])
    assert await history.artifacts.get(artifact.name) == artifact.packed
    assert await history.artifacts.get_many([artifact.name, "sha256-none"]) == {artifact.name: artifact.packed}
