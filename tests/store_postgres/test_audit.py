"""The audit: what is skipped and why, what each operation found and left, the states that an audit query gives."""

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from history.audit import Filter, durations_of, warnings_of
from history.audit_query import MAX_COLUMNS, AuditQuery, difference, read_state
from history.audit_states import GIVE_UP_S, LONGEST_WAIT_S, AuditStates, next_try_s
from history.batch_counts import count_items
from history.batches import BatchRefused
from history.history import History
from history.query_errors import QueryFailed
from history.runs import InvalidCursor
from tests.store_postgres.samples import NOW, batch, item, record, run_events
from tests.store_postgres.test_batches import admit

QUERY = AuditQuery("w", "SELECT 1 AS n")
numbers = st.integers(-(2**53), 2**53)
values = st.one_of(numbers, st.text(max_size=5), st.booleans(), st.none())
states = st.dictionaries(st.sampled_from("abcd"), values)
ENDED: dict[str, Any] = {
    "total": 500, "done": 466, "failed": 30, "withdrawn": 4, "skipped": 0, "ended_at": 1, "audit": None, "delta": {},
}  # fmt: skip
FINE = {"failed": 0, "withdrawn": 0, "total": 466, "audit": {"error": None, "waits": False}}
NOTHING = {"total": 0, "done": 0, "failed": 0, "withdrawn": 0, "skipped": 7}
AWAY = {"error": "gone", "waits": True}


# -- pure --------------------------------------------------------------------------------------------
@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(numbers, numbers)))
def test_a_difference_of_numbers_leads_from_one_state_to_the_other(pairs: dict[str, tuple[int, int]]) -> None:
    before, after = ({name: pair[n] for name, pair in pairs.items()} for n in (0, 1))
    changes = difference(before, after)
    assert {name: before[name] + changes[name] for name in before} == after


@given(states, states)
def test_a_difference_tells_all_that_changed(before: dict[str, Any], after: dict[str, Any]) -> None:
    changes = difference(before, after)
    for name in before | after:
        old, new = before.get(name), after.get(name)
        if type(old) is int and type(new) is int:
            assert changes[name] == new - old
        else:
            assert changes.get(name, [old, old]) == [old, new]
    assert not any(isinstance(change, list) for change in difference(after, after).values())


def test_true_is_no_number() -> None:
    assert difference({"a": True, "b": 1}, {"a": False, "b": True}) == {"a": [True, False], "b": [1, True]}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no row"),
        ([{"a": 1}, {"a": 2}], "several rows"),
        ([{}], "0 columns"),
        ([{f"c{n}": n for n in range(MAX_COLUMNS + 1)}], "17 columns"),
        ([{"a": [1]}], "'a' is a list"),
        ([{"a": {"b": 1}}], "'a' is a list or an object"),
        ([{"a": "x" * 5_000}], "over 4096 bytes"),
    ],
)
def test_what_is_no_state(rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(QueryFailed, match=says) as failed:
        read_state(rows)
    assert not failed.value.retryable
    assert read_state([{"a": 1, "b": 1.5, "c": "x", "d": None, "e": True}])["c"] == "x"


@pytest.mark.parametrize(
    ("batch_is", "says"),
    [
        ({}, "466 of 500 expected runs are done: 30 failed, 4 withdrawn"),
        ({"ended_at": None, "withdrawn": 0}, "466 of 500 expected runs are done so far: 30 failed"),
        (NOTHING, "nothing ran: all 7 items were skipped, their keys were done or running before"),
        (FINE | {"skipped": 34}, "34 of 500 items were skipped"),
        (FINE | {"delta": {"audit": {"n": 0}}}, "466 runs are done, and nothing changed in what the audit query gives"),
        (FINE | {"delta": {"audit": {"n": 1}}}, None),
        (FINE | {"audit": AWAY}, "the audit query gave no state after: gone; it is asked again"),
        (FINE | {"audit": AWAY, "ended_at": None}, None),
    ],
)
def test_what_is_warned_of(batch_is: dict[str, Any], says: str | None) -> None:
    assert warnings_of(ENDED | batch_is) == ([says] if says else [])


@given(st.integers(1, 100), st.floats(0, 2 * GIVE_UP_S))
def test_a_query_is_asked_again_until_a_day_has_passed(tries: int, waited_s: float) -> None:
    again_s = next_try_s(tries, waited_s)
    assert (again_s is None) == (waited_s + min(2.0**tries, LONGEST_WAIT_S) >= GIVE_UP_S)
    assert again_s is None or 1 <= again_s <= LONGEST_WAIT_S


# -- skips -------------------------------------------------------------------------------------------
async def test_each_skipped_item_names_the_run_that_did_it(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1, "done"), item(2, "failed"), item(3, "running")]))
    await admit(history, "batch_1")
    await history.batches.create(batch(9, [item(9, "done")], force=True))  # on its way again: done all the same
    await record(database, *run_events("run_1"), *run_events("run_2", error={"class": "x"}))
    again = [item(11, "done"), item(12, "failed"), item(13), item(14, "failed"), item(15, "running"), item(16)]
    async with history.pool.connection() as connection:  # another batch may run besides, once it is forced
        await connection.execute("UPDATE batches SET ended_at = now()")
    second = batch(2, again, created_at=NOW + 20 * 3_600_000)
    taken = await history.batches.create(second)
    assert (taken.accepted, taken.skipped) == (3, 3)
    found = await history.audit.items("batch_2", "skipped", 10)
    assert [(one["position"], one["key"], one["reason"], one["run_id"], one["batch_id"]) for one in found] == [
        (0, "done", "done", "run_1", "batch_1"),
        (3, "failed", "twice", "run_12", "batch_2"),
        (4, "running", "running", "run_3", "batch_1"),
    ]
    assert found[0]["status"] == "COMPLETED" and found[0]["ended_at"] and found[2]["status"] is None
    assert [one["position"] for one in await history.audit.items("batch_2", "skipped", 1, after=0)] == [3]
    assert await history.audit.skips("batch_2") == {"done": 1, "running": 1, "twice": 1}
    failed = await history.audit.items("batch_1", "failed", 10)
    assert [(one["key"], one["run_id"], one["status"], one["error"]) for one in failed] == [
        ("failed", "run_2", "FAILED", {"class": "x"})
    ]


async def test_a_batch_that_did_nothing_holds_up_no_other(history: History, database: psycopg.AsyncConnection) -> None:
    hour = 3_600_000
    await history.batches.create(batch(1, [item(1, "k")]))
    await admit(history, "batch_1")
    await record(database, *run_events("run_1"))
    await history.batches.create(batch(2, [item(2, "k")]))
    soon = NOW + 2 * hour + 1_000
    assert (await history.batches.create(batch(3, [item(3, "new")], created_at=soon))).accepted == 1
    await admit(history, "batch_3")
    await record(database, *run_events("run_3"))
    with pytest.raises(BatchRefused, match="batch_3"):
        await history.batches.create(batch(4, [item(4, "newer")], created_at=soon + 1_000))


# -- operations --------------------------------------------------------------------------------------
async def test_what_each_operation_found_and_left(history: History, database: psycopg.AsyncConnection) -> None:
    control = history.batch_control
    labels = {"team": "red"}
    await history.batches.create(
        batch(1, [item(1), item(2), item(3)], requested_by="ada", by="ops", labels=labels, created_at=NOW)
    )
    await admit(history, "batch_1", 2)
    pausing = await control.act("batch_1", "pause", "alan", "lunch")
    assert pausing
    await control.finish(pausing, {"paused": 2}, 2)
    await control.act("batch_1", "resume", "alan")  # and dies before its runs go on
    await record(database, *run_events("run_1", batch_id="batch_1"))
    cancelling = await control.act("batch_1", "cancel", "ada")
    assert cancelling
    await control.finish(cancelling, {"cancelled": 1, "nothing": 0}, 1)
    await record(database, *run_events("run_2", batch_id="batch_1", error={"class": "x"}))

    run, pause, resume, cancel = await history.audit.of_batch("batch_1")
    assert (run["action"], run["by"], run["key"], run["at"], run["touched"]) == ("run", "ada", "ops", NOW, 3)
    assert run["state_before"] == {"done": 0, "failed": 0} and run["delta"] == {"done": 1, "failed": 1}
    assert run["counts"] == {"done": 1, "failed": 1, "withdrawn": 1, "skipped": 0}
    assert run["warnings"] == ["1 of 3 expected runs are done: 1 failed, 1 withdrawn"]
    waiting = {"pending": 1, "running": 2, "done": 0, "failed": 0, "withdrawn": 0}
    assert (pause["by"], pause["reason"], pause["touched"], pause["counts"]) == ("alan", "lunch", 2, {"paused": 2})
    assert pause["state_before"] == {"status": "RUNNING", **waiting}
    assert pause["state_after"] == {"status": "PAUSED", **waiting}
    assert pause["delta"]["status"] == ["RUNNING", "PAUSED"] and pause["took_ms"] is not None
    assert (resume["action"], resume["done_at"], resume["state_after"]) == ("resume", None, None)
    assert (cancel["touched"], cancel["counts"]) == (2, {"withdrawn": 1, "cancelled": 1})
    assert cancel["state_before"]["pending"] == 1 and cancel["state_after"]["withdrawn"] == 1

    found = await history.batches.get("batch_1")
    assert found
    durations = durations_of(found)
    assert durations["waited_ms"] and durations["took_ms"] and durations["took_ms"] > durations["waited_ms"]
    assert found["paused_ms"] >= 0 and await _paused_since(history) is None


async def _paused_since(history: History) -> Any:
    async with history.pool.connection() as connection:
        row = await (await connection.execute("SELECT paused_at FROM batches")).fetchone()
    return row and row[0]


async def test_paused_time_adds_up(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1)]))
    await admit(history, "batch_1")
    for end in ("resume", "end"):
        await history.batch_control.act("batch_1", "pause", "me")
        async with history.pool.connection() as connection:
            await connection.execute("UPDATE batches SET paused_at = paused_at - interval '10 s'")
        found = await history.batches.get("batch_1")
        assert found and found["paused_ms"] // 1_000 == (10 if end == "resume" else 20)
        if end == "resume":
            await history.batch_control.act("batch_1", "resume", "me")
            assert await _paused_since(history) is None
    await record(database, *run_events("run_1"))
    found = await history.batches.get("batch_1")
    assert found and found["status"] == "COMPLETED" and found["paused_ms"] // 1_000 == 20
    assert await _paused_since(history) is None  # or it would go on growing


async def test_operations_are_filtered_and_come_in_pages(history: History) -> None:
    for number, (who, team) in enumerate([("ada", "red"), ("alan", "red"), ("ada", "blue")]):
        await history.batches.create(
            batch(number, [item(number)], requested_by=who, by="ops", labels={"team": team}, workflow_id=f"w{number}")
        )
    await history.batch_control.act("batch_0", "pause", "alan")

    async def asked(**fields: Any) -> list[tuple[str, str]]:
        found, following = await history.audit.operations(Filter(**fields), 10)
        assert following is None
        return [(one["batch_id"], one["action"]) for one in found]

    all_of_them = [("batch_0", "pause"), ("batch_2", "run"), ("batch_1", "run"), ("batch_0", "run")]
    assert await asked() == all_of_them
    assert await asked(by="ada") == [("batch_2", "run"), ("batch_0", "run")]
    assert await asked(by="alan") == [("batch_0", "pause"), ("batch_1", "run")]
    assert await asked(by="ops", action="run") == all_of_them[1:]
    assert await asked(labels={"team": "red"}, action="run") == [("batch_1", "run"), ("batch_0", "run")]
    assert await asked(workflow_id="w0") == [("batch_0", "pause"), ("batch_0", "run")]
    assert await asked(status="PAUSED") == [("batch_0", "pause"), ("batch_0", "run")]
    hour = 3_600_000
    assert await asked(since=NOW + hour, until=NOW + 2 * hour) == [("batch_1", "run")]
    pages, cursor = [], None
    while True:
        page, cursor = await history.audit.operations(Filter(), 1, cursor)
        pages += [(one["batch_id"], one["action"]) for one in page]
        if cursor is None:
            break
    assert pages == all_of_them
    for bad in ("?", "AAAA", "MSAyIGJhdGNo" * 3):
        with pytest.raises(InvalidCursor):
            await history.audit.operations(Filter(), 1, bad)


async def test_single_runs_and_who_asked(history: History, database: psycopg.AsyncConnection) -> None:
    await record(database, *run_events("run_1", by="a%a"), *run_events("run_2", at=NOW + 10, by="aba"))
    await record(database, *run_events("run_3", at=NOW + 20, input={"by": "a%a"}), *run_events("run_4", batch_id="b"))
    found = await history.audit.runs(Filter(), 10)
    assert [(run["run_id"], run["by"]) for run in found] == [("run_3", None), ("run_2", "aba"), ("run_1", "a%a")]
    assert [run["run_id"] for run in await history.audit.runs(Filter(by="a%a"), 10)] == ["run_1"]
    assert [run["run_id"] for run in await history.audit.runs(Filter(since=NOW + 10, until=NOW + 20), 10)] == ["run_2"]


# -- states of the author's query ----------------------------------------------------------------------
async def ended_batch(history: History, database: psycopg.AsyncConnection) -> None:
    await history.batches.create(batch(1, [item(1), item(2)], audit=QUERY, state={"n": 1, "t": "a"}))
    await admit(history, "batch_1")
    assert await AuditStates(history.pool).take() is None  # it has not ended
    await record(database, *run_events("run_1", batch_id="batch_1"))
    await record(database, *run_events("run_2", batch_id="batch_1", error={"class": "x"}))


async def test_the_state_after_comes_when_the_batch_has_ended(
    history: History, database: psycopg.AsyncConnection
) -> None:
    states = AuditStates(history.pool)
    await ended_batch(history, database)
    due = await states.take()
    assert due and (due.batch_id, due.audit, due.before, due.tries) == ("batch_1", QUERY, {"n": 1, "t": "a"}, 1)
    assert await states.take() is None  # nobody else asks meanwhile
    await states.fail(due, "away", 0)
    found = await history.batches.get("batch_1")
    assert found and found["audit"]["error"] == "away" and found["audit"]["waits"]
    due = await states.take()
    assert due and due.tries == 2
    assert await states.keep(due, {"n": 5, "t": "b"})
    found = await history.batches.get("batch_1")
    assert found and found["state_after"] == {"done": 1, "failed": 1, "audit": {"n": 5, "t": "b"}}
    assert found["delta"] == {"done": 1, "failed": 1, "audit": {"n": 4, "t": ["a", "b"]}}
    assert (found["audit"]["waits"], found["audit"]["error"]) == (False, None)
    assert await states.take() is None


async def test_a_state_of_a_batch_that_goes_on_again_is_of_no_use(
    history: History, database: psycopg.AsyncConnection
) -> None:
    states = AuditStates(history.pool)
    await ended_batch(history, database)
    due = await states.take()
    assert due
    await states.fail(due, "away", 0)
    async with history.pool.connection() as connection:  # a run was retried
        await count_items(connection, {"run_2": "admitted"})
    assert not await states.keep(due, {"n": 9})
    await states.fail(due, "away", 0)
    found = await history.batches.get("batch_1")
    assert found and found["state_after"] is None and found["audit"]["error"] is None
    assert await states.take() is None
    async with history.pool.connection() as connection:
        await count_items(connection, {"run_2": "done"})
    again = await states.take()
    assert again and again.tries == 1 and again.ended_at > due.ended_at


async def test_a_query_that_is_given_up_leaves_its_error(history: History, database: psycopg.AsyncConnection) -> None:
    states = AuditStates(history.pool)
    await ended_batch(history, database)
    due = await states.take()
    assert due
    await states.fail(due, "no such table", None)
    found = await history.batches.get("batch_1")
    assert found and (found["audit"]["error"], found["audit"]["waits"]) == ("no such table", False)
    assert await states.take() is None
