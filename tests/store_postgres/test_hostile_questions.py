"""Questions where what is recorded is strange, large or gone: maps that failed, absurd numbers, dropped events."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from history.history import History
from history.questions.questions import AT_ONCE
from history.questions.scope import Scope
from history.questions.search import Search
from history.questions.whereabouts import Moved, Trail, items_around, live_records, place_of
from history.retention import Retention
from tests.store_postgres.test_questions import BATCH, IR, NOW, Told, tell, token, usage


def in_item(run: str, place: str, state: str = "running") -> dict[str, Any]:
    record = {"node": "inner", "state": state, "attempt": 1, "since": NOW, "scope": place.rpartition(".")[0]}
    return {f"{run}.{place}": record}


async def test_tokens_of_items_that_are_over_are_nowhere(history: History, database: psycopg.AsyncConnection) -> None:
    """No event names them: they are forgotten with their item, with its map, or when the map begins anew."""

    def mapping(run: str) -> Told:
        told = Told(run).add("map_started", "a", 1, total=2, tokens=token(run, 1, "a", "mapping", NOW + 5, map=True))
        return told.add("items_started", "a", 1, first=0, count=2, tokens=in_item(run, "1-0.1") | in_item(run, "1-1.1"))

    follows = token("failed", 2, "short", "queued", NOW + 9)
    failed = mapping("failed").fails("node_failed", "a", 1, "item", gone=["failed.1"], tokens=follows)
    one = mapping("one").add("item_completed", "a", 1, index=0, result=1)
    both = mapping("both").add("item_completed", "a", 1, index=0, result=1)
    both.add("item_completed", "a", 1, index=1, result=1)
    anew = mapping("anew").add("task_queued", "a", 1, tokens=token("anew", 1, "a", "queued", NOW + 7))
    await tell(history, database, failed, one, both, anew)
    answer = await history.questions.missing("b", "long")
    assert answer is not None
    found = {item.run_id: (item.place.node, item.place.detail) for item in answer[0]}
    del found["wait_0"], found["wait_1"]
    assert found == {
        "failed": ("short", "queued"), "one": ("inner", "running"), "both": ("a", "mapping"), "anew": ("a", "queued"),
    }  # fmt: skip


def test_items_around_a_token() -> None:
    """Ids of runs may have dashes and dots in them."""
    assert items_around("r-1.2", "r-1.2.7") == []
    assert items_around("r-1.2", "r-1.2.1-3.2-5.7") == [("r-1.2.1", "3"), ("r-1.2.1-3.2", "5")]
    inner, outer = Moved(5, 0, {"node": "inner"}), Moved(4, 2, {"node": "outer"})
    tokens = {"r.1-3.2": inner, "r.1": outer}
    assert live_records("r", tokens, {"r.1-2": 9, "r.1-3": 4}) == [inner.record, outer.record]
    assert live_records("r", tokens, {"r.1-3": 5}) == [outer.record]
    assert live_records("r", {"r.1-3.2": inner}, {}) == []


async def test_one_absurd_number_fails_no_sum(history: History, database: psycopg.AsyncConnection) -> None:
    absurd = {"prompt_tokens": 1e300, "gpu_ms": -1.7e308, "load_ms": 1.7e308}
    runs = [
        Told(run).starts("a", 1).completes("a", 1, usage=usage("m1", 1, **absurd) | {"execution_time_ms": 1.7e308})
        for run in ("one", "two")
    ]
    await tell(history, database, *runs)
    [row], total, _ = await history.questions.costs(BATCH, "model")
    assert (row["tasks"], row["prompt_tokens"], total["gpu_s"]) == (2, 2 * 10**12, -2e9)
    [slow] = await history.questions.durations(BATCH, "node")
    assert (slow["tasks"], slow["total_s"]) == (2, 2e9)


async def test_what_came_of_failures_and_who_had_begun_them(
    history: History, database: psycopg.AsyncConnection
) -> None:
    """Also where what came of them, or who began, lies outside of the time that is asked about."""
    told = Told("one").starts("a", 1).fails("task_retried", "a", 1, "timeout")
    told.add("task_started", "a", 1, attempt=2, runner="gpu-2", tokens={}).fails("task_retried", "a", 1, "handler")
    told.add("task_started", "a", 1, attempt=3, runner="gpu-3", tokens={}).completes("a", 1)
    await tell(history, database, told)
    second = Scope(since=NOW + 5_000, until=NOW + 6_000)  # the event that failed again, and nothing else
    [row] = await history.questions.failures(second, "runner")
    assert (row["name"], row["attempts"], row["recovered"]) == ("gpu-2", 1, 1)
    rows = await history.questions.failures(BATCH, "runner")
    assert {row["name"]: row["attempts"] for row in rows} == {"gpu-1": 1, "gpu-2": 1}


async def test_after_a_retention_an_answer_says_what_it_lacks(
    history: History, database: psycopg.AsyncConnection, database_url: str, tmp_path: Path
) -> None:
    await database.execute("SELECT create_event_partitions('2025-10-05', 0)")
    has = Told("has").completes("a", 1).completes("long", 2).add("run_completed")
    decisions = [{"node": "pick", "rule": "default", "next": ["short"]}]
    other = Told("other").completes("a", 1, decisions=decisions, usage=usage()).add("run_completed")
    failed = Told("failed").fails("node_failed", "a", 1, "timeout")
    failed.add("run_failed", error={"class": "timeout", "node": "a"})
    await tell(history, database, has, other, failed)

    async def asked() -> tuple[Any, Any, Any]:
        found = await history.questions.missing("b", "long")
        assert found is not None
        search = await history.questions.search(Scope(), Search(error="timeout"), limit=9, cursor=None)
        _, total, _ = await history.questions.costs(BATCH, "model")
        return [(one.run_id, one.status, one.place.reason) for one in found[0]], search, total["tasks"]

    before = await asked()
    assert await history.questions.dropped(BATCH) is None
    retention = Retention(lambda: psycopg.AsyncConnection.connect(database_url), tmp_path)
    await retention.apply(datetime(2025, 12, 1, tzinfo=UTC), "test")
    items, search, tasks = await asked()
    assert (items, search) == before[:2], "what projections tell stays"
    assert (before[2], tasks) == (1, 0), "what events tell is gone"
    said = {"events": 10, "until": 1761955200000, "exports": ["execution_events_2025_10.ndjson.gz"]}
    for scope in (BATCH, Scope(since=NOW), Scope(workflow_id="demo")):
        assert await history.questions.dropped(scope) == said
    for scope in (Scope(until=NOW - 31 * 86_400_000), Scope(since=1761955200000), Scope(workflow_id="other")):
        assert await history.questions.dropped(scope) is None
    gone = await history.questions.missing("b", "long")
    assert gone and "dropped" in str(next(one.place.message for one in gone[0] if one.run_id == "other"))


def test_of_a_map_without_events_nothing_is_known() -> None:
    ended = Trail("done", "COMPLETED", kept=False, settled=False)
    assert place_of("long", ended, IR).reason == "not kept"
    assert place_of("long", Trail("done", "FAILED", {"class": "x"}, kept=False), IR).reason == "failed"


@pytest.mark.timeout(60)
async def test_questions_leave_connections_to_others(
    history: History, database_url: str, database: psycopg.AsyncConnection
) -> None:
    """Many that take long together: whoever else asks this pool is served meanwhile."""
    async with AsyncConnectionPool(database_url, min_size=1, max_size=AT_ONCE + 1, open=False) as pool:
        questions = History(pool).questions
        async with database.transaction():
            await database.execute("LOCK TABLE run_projection IN ACCESS EXCLUSIVE MODE")
            asked = [asyncio.create_task(questions.conditions(Scope())) for _ in range(3 * AT_ONCE)]
            others = await asyncio.gather(pool.getconn(timeout=5), return_exceptions=True)
        assert await asyncio.gather(*asked) == [[]] * len(asked)
        assert not isinstance(others[0], BaseException), others
        await pool.putconn(others[0])
