"""Batches: taken in, admitted, counted; what is skipped and what is refused."""

import asyncio
import time
from typing import Any

import psycopg
import pytest

from history.batches import BatchRefused, NewItem
from history.history import History
from tests.store_postgres.samples import NOW, batch, item, record, run_events


async def admit(history: History, batch_id: str, limit: int = 100) -> list[str]:
    async with history.batches.claim(batch_id, limit) as claimed:
        return [one.run_id for one in claimed.items]


async def counts(history: History, batch_id: str) -> dict[str, Any]:
    row = await history.batches.get(batch_id)
    assert row
    return {name: row[name] for name in ("status", "total", "pending", "running", "done", "failed", "withdrawn")}


async def test_the_life_of_a_batch(history: History, database: psycopg.AsyncConnection) -> None:
    accepted = await history.batches.create(batch(1, [item(1), item(2), item(3)], requested_by="me"))
    assert (accepted.accepted, accepted.skipped) == (3, 0)
    assert [b.batch_id for b in await history.batches.pending()] == ["batch_1"]
    assert await admit(history, "batch_1", 2) == ["run_1", "run_2"]
    assert await history.batch_control.live_runs("batch_1") == ["run_1", "run_2"]
    await record(database, *run_events("run_1", batch_id="batch_1"))
    await record(database, *run_events("run_2", batch_id="batch_1", error={"class": "x"}))
    assert await counts(history, "batch_1") == {
        "status": "RUNNING", "total": 3, "pending": 1, "running": 0, "done": 1, "failed": 1, "withdrawn": 0,
    }  # fmt: skip
    assert await admit(history, "batch_1") == ["run_3"]
    assert await history.batches.pending() == []
    await record(database, *run_events("run_3", batch_id="batch_1"))
    row = await history.batches.get("batch_1")
    assert row and (row["status"], row["done"], row["failed"], row["requested_by"]) == ("COMPLETED", 2, 1, "me")
    assert (row["created_at"], row["ended_at"] is None) == (NOW + 3_600_000, False)
    assert row["state_before"] == {"done": 0, "failed": 0}
    assert row["expected_work"] == {"runs": 3, "skipped": 0}
    assert row["state_after"] == row["delta"] == {"done": 2, "failed": 1}
    assert [b["batch_id"] for b in await history.batches.list("demo")] == ["batch_1"]
    assert await history.batches.list("other") == []


async def test_the_difference_counts_from_what_was_there(history: History, database: psycopg.AsyncConnection) -> None:
    for number in (1, 2):
        await history.batches.create(batch(number, [item(number)]))
        await admit(history, f"batch_{number}")
        await record(database, *run_events(f"run_{number}"))
    row = await history.batches.get("batch_2")
    assert row and row["state_before"] == {"done": 1, "failed": 0}
    assert (row["state_after"], row["delta"]) == ({"done": 2, "failed": 0}, {"done": 1, "failed": 0})


async def test_items_are_claimed_once_and_come_back_if_the_claim_fails(history: History) -> None:
    await history.batches.create(batch(1, [item(n) for n in range(6)]))
    async with history.batches.claim("batch_1", 2) as first, history.batches.claim("batch_1", 2) as second:
        assert [one.run_id for one in (*first.items, *second.items)] == ["run_0", "run_1", "run_2", "run_3"]
    with pytest.raises(OSError, match="died"):
        async with history.batches.claim("batch_1", 9) as third:
            assert len(third.items) == 2
            raise OSError("died")
    assert await admit(history, "batch_1") == ["run_4", "run_5"]
    assert await admit(history, "batch_1") == []


async def test_items_bring_their_key_and_their_large_input(history: History) -> None:
    large = {"text": "x" * 20_000}
    await history.batches.create(batch(1, [item(1, "k1", large), item(2)]))
    async with history.batches.claim("batch_1", 9) as claimed:
        assert [(one.position, one.key) for one in claimed.items] == [(0, "k1"), (1, "1")]
        assert claimed.items[0].artifact == item(1, "k1", large).artifact
        assert claimed.items[1].artifact is None


async def test_a_run_that_ends_before_its_claim_does_counts_once(
    history: History, database: psycopg.AsyncConnection
) -> None:
    """The claim of a coordinator that died came back; its run had started, and has ended since."""
    await history.batches.create(batch(1, [item(1), item(2)]))
    await record(database, *run_events("run_1"))
    assert await admit(history, "batch_1") == ["run_2"]
    assert (await counts(history, "batch_1"))["done"] == 1


async def test_keys_that_are_done_or_on_their_way_are_skipped(
    history: History, database: psycopg.AsyncConnection
) -> None:
    await history.batches.create(batch(1, [item(1, "done"), item(2, "failed"), item(3)]))
    await admit(history, "batch_1")
    await record(database, *run_events("run_1"), *run_events("run_2", error={"class": "x"}), *run_events("run_3"))
    again = [item(11, "done"), item(12, "failed"), item(13), item(14, "failed")]
    accepted = await history.batches.create(batch(2, again))
    assert (accepted.accepted, accepted.skipped) == (2, 2)
    assert await admit(history, "batch_2") == ["run_12", "run_13"]
    forced = await history.batches.create(batch(3, [item(21, "done"), item(22, "failed")], force=True))
    assert forced.skipped == 0
    other = await history.batches.create(batch(4, [item(31, "done")], digest="sha256-other", workflow_id="demo2"))
    assert other.skipped == 0


async def test_a_batch_of_which_all_is_skipped_has_ended(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1, "k")]))
    await admit(history, "batch_1")
    await record(database, *run_events("run_1"))
    await history.batches.create(batch(2, [item(2, "k")]))
    row = await history.batches.get("batch_2")
    assert row and (row["status"], row["total"], row["skipped"]) == ("COMPLETED", 0, 1)


async def test_one_batch_of_a_workflow_at_a_time_and_one_a_minute(
    history: History, database: psycopg.AsyncConnection
) -> None:
    await history.batches.create(batch(1, [item(1)]))
    with pytest.raises(BatchRefused) as refused:
        await history.batches.create(batch(2, [item(2)]))
    assert (refused.value.reason, refused.value.other) == ("running", "batch_1")
    await history.batches.create(batch(3, [item(3)], workflow_id="other"))
    await record(database, *run_events("run_1"))
    soon = NOW + 3_600_000 + 20_000
    with pytest.raises(BatchRefused) as refused:
        await history.batches.create(batch(4, [item(4)], created_at=soon))
    assert (refused.value.reason, refused.value.retry_after_s) == ("rate", 40)
    await history.batches.create(batch(5, [item(5)], created_at=soon, force=True))


async def test_two_at_once_see_each_other(history: History) -> None:
    made = await asyncio.gather(
        *[history.batches.create(batch(n, [item(n)])) for n in range(3)], return_exceptions=True
    )
    assert sum(isinstance(one, BatchRefused) for one in made) == 2


@pytest.mark.parametrize("key", ["k" * 513, "a\0b"])
async def test_a_key_that_can_not_be_kept_names_its_item(history: History, key: str) -> None:
    with pytest.raises(ValueError, match="item 1"):
        await history.batches.create(batch(1, [item(0), item(1, key)]))
    assert await history.batches.get("batch_1") is None


async def test_two_thousand_items_are_taken_in_fast(history: History) -> None:
    items = [NewItem(f"run_{n}", f"key {n}", '{"text":"' + "x" * 1_000 + '"}') for n in range(2_000)]
    began = time.perf_counter()
    await history.batches.create(batch(1, items))
    assert time.perf_counter() - began < 1
    began = time.perf_counter()
    assert len(await admit(history, "batch_1", 500)) == 500
    assert time.perf_counter() - began < 0.5
