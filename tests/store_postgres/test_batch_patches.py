"""Batch patches: what items begin with, what came of the runs, who asked."""

from typing import Any

import pytest
from psycopg import errors

from history.batch_patches import ALL, Asked, BatchPatch, Result
from history.history import History
from schemas.ir import IR
from tests.store_postgres.samples import batch, ir, item

FIRST, SECOND, THIRD = ir(), ir(description="second"), ir(description="third")


async def create(history: History, items: int = 4, **more: Any) -> None:
    await history.workflows.add_ir(FIRST)
    await history.batches.create(batch(1, [item(n) for n in range(items)], digest=FIRST.digest, **more))


def asked(after: IR, before: IR = FIRST, through: int | None = ALL, **options: Any) -> Asked:
    return Asked("ada", "better", [{"op": "test"}], options, through, before.digest, after)


async def claim(history: History, limit: int) -> list[tuple[str, str, str]]:
    async with history.batches.claim("batch_1", limit) as claimed:
        return [(one.run_id, one.digest, one.batch_patch) for one in claimed.items]


async def start(history: History, *given: Any, **more: Any) -> BatchPatch:
    return await history.batch_patches.start("batch_1", asked(*given, **more))


async def test_items_begin_with_the_newest_patch_that_reaches_to_them(history: History) -> None:
    await create(history)
    assert await claim(history, 1) == [("run_0", FIRST.digest, "")]
    first = await start(history, SECOND)
    assert (first.number, first.state, first.done, first.by, first.description) == (
        1,
        "applied",
        False,
        "ada",
        "better",
    )
    assert await history.batch_patches.begins_with("batch_1") == SECOND.digest
    assert await claim(history, 1) == [("run_1", SECOND.digest, f"1 1 {FIRST.digest}")]
    await start(history, THIRD, SECOND, 2, canary={"first": 3})
    assert await history.batch_patches.begins_with("batch_1") == SECOND.digest, "a canary is no base"
    assert await claim(history, 9) == [
        ("run_2", THIRD.digest, f"2 1 {SECOND.digest}"), ("run_3", SECOND.digest, f"1 1 {FIRST.digest}"),
    ]  # fmt: skip


async def test_a_promoted_one_reaches_to_all_a_reverted_one_to_none(history: History) -> None:
    await create(history)
    canary = await start(history, SECOND, through=0, canary={"first": 1})
    assert canary.state == "canary"
    promoted = await history.batch_patches.change(canary, "applied", "bob", "well", {"live_tokens": "cancel"})
    assert (promoted.state, promoted.through, promoted.options) == ("applied", ALL, {"live_tokens": "cancel"})
    assert [digest for _, digest, _ in await claim(history, 2)] == [SECOND.digest] * 2
    reverted = await history.batch_patches.change(promoted, "reverted", "bob", None, promoted.options)
    assert [digest for _, digest, _ in await claim(history, 9)] == [FIRST.digest] * 2
    assert (reverted.state, reverted.done) == ("reverted", False)
    actions = await history.batch_control.actions("batch_1")
    assert [(one["action"], one["by"], one["reason"]) for one in actions] == [
        ("revert", "bob", None), ("promote", "bob", "well"), ("patch", "ada", "better"),
    ]  # fmt: skip


async def test_a_filter_reaches_to_no_item_that_has_not_started(history: History) -> None:
    await create(history)
    patch = await history.batch_patches.start("batch_1", asked(SECOND, through=None, filter={"keys": ["0"]}), [0])
    assert [digest for _, digest, _ in await claim(history, 9)] == [FIRST.digest] * 4
    assert await history.batch_patches.chosen(patch) == {0}
    promoted = await history.batch_patches.change(patch, "applied", "bob", None, patch.options)
    assert promoted.through is None
    assert (await history.batch_patches.counts(promoted))["waiting"] == 1
    finished = await history.batch_patches.finish(promoted)
    assert finished.done and (await history.batch_patches.counts(finished))["ended"] == 1


async def test_what_came_of_the_runs(history: History) -> None:
    await create(history)
    await claim(history, 3)
    patch = await start(history, SECOND)
    reason = {"reason": "live_tokens", "message": "no"}
    await history.batch_patches.keep_results(
        patch, [Result(0, "patched", 2), Result(1, "refused", 1, reason), Result(2, "ended")]
    )
    await history.batch_patches.keep_results(patch, [])
    found = await history.batch_patches.counts(patch)
    assert found == {"patched": 1, "reverted": 0, "refused": 1, "kept": 0, "ended": 1, "waiting": 0, "begin": 1}
    rows = await history.batch_patches.runs(patch)
    assert [(row["run_id"], row["key"], row["outcome"], row["revision"], row["reason"]) for row in rows] == [
        ("run_0", "0", "patched", 2, None), ("run_1", "1", "refused", 1, reason), ("run_2", "2", "ended", None, None),
    ]  # fmt: skip
    assert [row["run_id"] for row in await history.batch_patches.runs(patch, ["refused"])] == ["run_1"]
    assert [row["run_id"] for row in await history.batch_patches.runs(patch, [], 1, 1)] == ["run_2"]
    await history.batch_patches.keep_results(patch, [Result(1, "patched", 3)])
    assert (await history.batch_patches.counts(patch))["patched"] == 2
    assert await history.batch_patches.newest("batch_2") is None


async def test_items_that_are_taken_out_of_a_claim_wait_again(history: History) -> None:
    await create(history)
    async with history.batches.claim("batch_1", 3) as claimed:
        del claimed.items[1]
    found = [(one.run_id, one.admitted) for one in await history.batch_patches.open_items("batch_1")]
    assert found == [("run_0", True), ("run_1", False), ("run_2", True), ("run_3", False)]


async def test_the_irs_of_a_patch_are_recorded(history: History) -> None:
    """What an item begins with can be read, and so can what it goes back to."""
    await create(history)
    with pytest.raises(errors.ForeignKeyViolation):
        await start(history, SECOND, THIRD)
    await start(history, SECOND)
    assert await history.workflows.ir(SECOND.digest) == SECOND.text
