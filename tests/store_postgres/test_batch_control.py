"""Batches paused, resumed, retried and cancelled: what is admitted, what is counted, who asked."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from history.batch_control import BatchBusy
from history.history import History
from tests.store_postgres.samples import batch, entry, item, record, run_events

FAILED = {"class": "handler", "message": "no"}


async def admit(history: History, batch_id: str = "batch_1", limit: int = 100) -> list[str]:
    async with history.batches.claim(batch_id, limit) as claimed:
        return [one.run_id for one in claimed.items]


async def seen(history: History, batch_id: str = "batch_1") -> tuple[Any, ...]:
    """status, pending, running, done, failed, whether it has ended."""
    row = await history.batches.get(batch_id)
    assert row
    return (*[row[name] for name in ("status", "pending", "running", "done", "failed")], row["ended_at"] is not None)


async def test_a_paused_batch_admits_nothing(history: History) -> None:
    await history.batches.create(batch(1, [item(1), item(2)]))
    assert await admit(history, limit=1) == ["run_1"]
    assert await history.batch_control.act("batch_1", "pause", "me", "lunch")
    assert await history.batches.pending() == []
    assert await admit(history) == [], "also not by one who listed it before"
    assert await history.batch_control.live_runs("batch_1") == ["run_1"]
    assert await history.batch_control.act("batch_1", "resume", "you")
    assert await admit(history) == ["run_2"]
    actions = await history.batch_control.actions("batch_1")
    assert [(one["action"], one["by"], one["reason"]) for one in actions] == [
        ("resume", "you", None),
        ("pause", "me", "lunch"),
    ]


async def test_a_pause_waits_for_the_claims_that_are_going_on(
    history: History, database: psycopg.AsyncConnection, wait_until: Callable[..., Any]
) -> None:
    async def waits() -> bool:
        cursor = await database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        row = await cursor.fetchone()
        return bool(row and row[0])

    await history.batches.create(batch(1, [item(1), item(2)]))
    async with history.batches.claim("batch_1", 1) as claimed:
        pausing = asyncio.create_task(history.batch_control.act("batch_1", "pause", "me"))
        await wait_until(waits)
        assert not pausing.done() and [one.run_id for one in claimed.items] == ["run_1"]
    assert await pausing
    assert await history.batch_control.live_runs("batch_1") == ["run_1"]


async def test_a_run_of_a_claim_that_died_is_among_the_live_ones(
    history: History, database: psycopg.AsyncConnection
) -> None:
    await history.batches.create(batch(1, [item(1)]))
    await record(database, *run_events("run_1", batch_id="batch_1")[:2])
    assert await history.batch_control.live_runs("batch_1") == ["run_1"]
    await record(database, *run_events("run_1", batch_id="batch_1"))
    assert await history.batch_control.live_runs("batch_1") == []


async def test_a_batch_that_ends_while_it_is_paused_is_completed(
    history: History, database: psycopg.AsyncConnection
) -> None:
    await history.batches.create(batch(1, [item(1)]))
    await admit(history)
    assert await history.batch_control.act("batch_1", "pause", "me")
    await record(database, *run_events("run_1"))
    assert await seen(history) == ("COMPLETED", 0, 0, 1, 0, True)
    for action in ("pause", "resume", "cancel"):
        assert not await history.batch_control.act("batch_1", action, "me")  # type: ignore[arg-type]
    assert len(await history.batch_control.actions("batch_1")) == 1


async def test_a_retried_run_opens_its_batch_again(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1), item(2)]))
    await admit(history)
    await record(database, *run_events("run_1", batch_id="batch_1"))
    await record(database, *run_events("run_2", batch_id="batch_1", error=FAILED))
    assert await seen(history) == ("COMPLETED", 0, 0, 1, 1, True)
    assert await history.batch_control.failed_runs("batch_1") == ["run_2"]

    assert await history.batch_control.act("batch_1", "retry", "me")
    record_ = {"node": "a", "state": "queued", "attempt": 0, "depth": 0, "lane": "", "since": 1}
    await record(database, entry("run_2", 5, "run_retried", by="me", tokens={"t1": record_}, live=1))
    assert await seen(history) == ("RUNNING", 0, 1, 1, 0, False)
    run = await history.runs.get("run_2")
    assert run and (run["status"], run["ended_at"], run["error"], run["outputs"]) == ("RUNNING", None, None, None)
    assert (await history.batches.get("batch_1") or {})["state_after"] is None

    done = {"outputs": {"a": 2}, "ends": ["a"], "gone": ["t1"], "tokens": {}, "live": 0}
    await record(database, entry("run_2", 6, "node_completed", node="a", token="t1", **done))
    await record(database, entry("run_2", 7, "run_completed"))
    assert await seen(history) == ("COMPLETED", 0, 0, 2, 0, True)
    row = await history.batches.get("batch_1")
    assert row and row["delta"] == {"done": 2, "failed": 0}


async def test_a_page_that_holds_the_failure_the_retry_and_the_next_failure(
    history: History, database: psycopg.AsyncConnection
) -> None:
    await history.batches.create(batch(1, [item(1)]))
    await admit(history)
    again = entry("run_1", 5, "run_retried", by="me", tokens={}, live=1)
    await record(database, *run_events("run_1", error=FAILED), again, entry("run_1", 6, "run_failed", error=FAILED))
    assert await seen(history) == ("COMPLETED", 0, 0, 0, 1, True)
    await record(database, entry("run_1", 7, "run_retried", by="me", tokens={}, live=1))
    await record(database, entry("run_1", 8, "run_failed", error=FAILED))
    assert await seen(history) == ("COMPLETED", 0, 0, 0, 1, True)


async def test_a_paused_run_is_shown_so(history: History, database: psycopg.AsyncConnection) -> None:
    started, *_ = run_events("run_1")
    await record(database, started, entry("run_1", 2, "run_paused", by="me"))
    assert (await history.runs.get("run_1") or {})["status"] == "PAUSED"
    assert [run["run_id"] for run in (await history.runs.list(status="PAUSED"))[0]] == ["run_1"]
    await record(database, entry("run_1", 3, "run_resumed", by="me"))
    assert (await history.runs.get("run_1") or {})["status"] == "RUNNING"


async def test_cancel_withdraws_what_waits(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1), item(2), item(3)]))
    await admit(history, limit=1)
    assert await history.batch_control.act("batch_1", "cancel", "me", "wrong model")
    assert await admit(history) == []
    assert await history.batches.pending() == []
    assert await seen(history) == ("CANCELLED", 0, 1, 0, 0, False)
    cancelled = run_events("run_1")[3]._replace(seq=3, type="run_cancelled")
    await record(database, *run_events("run_1")[:2], cancelled)
    assert await seen(history) == ("CANCELLED", 0, 0, 0, 1, True)
    row = await history.batches.get("batch_1")
    assert row and row["withdrawn"] == 2
    assert not await history.batch_control.act("batch_1", "cancel", "me")
    assert not await history.batch_control.act("nobody", "cancel", "me")


async def test_one_action_at_a_time(history: History) -> None:
    async with history.batch_control.alone("batch_1"), history.batch_control.alone("batch_2"):
        with pytest.raises(BatchBusy):
            async with history.batch_control.alone("batch_1"):
                pass
    async with history.batch_control.alone("batch_1"):
        pass
