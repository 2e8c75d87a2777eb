"""Snapshots: a state by way of them is the state folded from the start, at every event."""

from typing import Any

import orjson
import psycopg
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from history.entry import Entry
from history.events import NotRecorded
from history.history import History
from history.journal import Journal, Page
from history.snapshots import NOTHING, Row, Snapshot, take
from history.tails import Tails
from schemas.fold import fold
from schemas.snapshot import dump_state, load_state
from tests.store_postgres.samples import NOW, entry

START = {"workflow_id": "demo", "version": 1, "revision": 1, "digest": "sha256-demo", "input": 1}


def chain(steps: int, output: Any = None) -> list[Entry]:
    """A run of one node that is executed again and again: two events for each time, and its end."""
    token = {"node": "a", "state": "queued", "attempt": 0, "depth": 0, "lane": "", "since": NOW}
    events = [entry("run_1", 1, "run_started", **START, tokens={"t0": token}, live=1)]
    for number in range(steps):
        last = number == steps - 1
        events.append(entry("run_1", 2 * number + 2, "task_started", node="a", token=f"t{number}", tokens={}, live=1))
        following = {} if last else {f"t{number + 1}": token | {"from": [["a", number, ""]]}}
        done = {"outputs": {"a": output or {"n": number}}, "ends": ["a"] if last else [], "usage": {"load_ms": number}}
        events.append(
            entry("run_1", 2 * number + 3, "node_completed", node="a", token=f"t{number}",
                  **done, gone=[f"t{number}"], tokens=following, live=0 if last else 1)
        )  # fmt: skip
    return [*events, entry("run_1", 2 * steps + 2, "run_completed")]


def restated(seq: int, events: list[Entry]) -> Entry:
    """The whole state after `events`, as Redis tells it under another number."""
    state = orjson.loads(dump_state(fold(one.event() for one in events)))
    return entry("run_1", seq, "run_restated", reason="lost", artifacts=[], state=state)


def pages(events: list[Entry], sizes: list[int]) -> list[list[Entry]]:
    found, first = [], 0
    for size in [*sizes, len(events)]:
        found.append(events[first : first + size])
        first += size
    return [page for page in found if page]


@given(st.integers(1, 12), st.integers(1, 9), st.lists(st.integers(1, 7), max_size=8), st.integers(0, 4_000))
def test_a_state_by_way_of_snapshots_is_the_folded_one(steps: int, every: int, sizes: list[int], kept: int) -> None:
    events = chain(steps)
    rows: list[Row] = []
    states = {}
    tail, after = NOTHING, []
    for page in pages(events, sizes):
        found, tail, after = take([*after, *page], tail, every)
        rows += found
    for row in rows:
        states[row.seq] = load_state(zstandard.decompress(row.packed))
    for seq in range(1, len(events) + 1):
        whole = fold(one.event() for one in events[:seq])
        nearest = max((known for known in states if known <= seq), default=0)
        assert fold((one.event() for one in events[nearest:seq]), states.get(nearest)) == whole
    assert bool(rows) or len(events) < every or sum(len(one.data) for one in events) == 0


def test_large_states_are_taken_less_often() -> None:
    """What the snapshots of a run take is at most some times what its events take."""
    events = chain(40)
    last = Snapshot(fold([]), 10_000)
    rows, _, rest = take(events, Snapshot(last.state, 10_000), 2)
    first = rows[0].seq
    length = sum(len(one.data) for one in events[:first])
    assert length >= 2_500 > sum(len(one.data) for one in events[: first - 1])
    assert len(rows) > 1
    assert len(rest) < 40


async def test_states_and_ends_are_the_same_with_and_without_memory(
    history: History, database: psycopg.AsyncConnection
) -> None:
    """The second journal remembers nothing from one page to the next, and reads everything back."""
    events = chain(9)
    expected = [fold(one.event() for one in events[:seq]) for seq in range(len(events) + 1)]
    for forgetful in (False, True):
        journal = Journal("", snapshot_every=3)
        for page in pages(events, [1, 4, 2, 3]):
            await journal.write(database, Page("1-1", page))
            if forgetful:
                journal.tails.clear()
        cursor = await database.execute("SELECT array_agg(seq ORDER BY seq) FROM run_snapshots")
        row = await cursor.fetchone()
        assert row
        assert row[0] == [3, 6, 9, 12, 15, 18]
        for seq in range(1, len(events) + 1):
            assert await history.events.state("run_1", seq) == expected[seq]
        assert await history.events.state("run_1") == await history.events.state("run_1", 999) == expected[-1]
        assert await history.events.state("run_1", 0) is None
        run = await history.runs.get("run_1")
        assert run and (run["status"], run["output"], run["usage"]["load_ms"]) == ("COMPLETED", {"n": 8}, 36)
        for table in ("execution_events", "run_projection", "run_snapshots", "recorder_positions"):
            await database.execute(f"DELETE FROM {table}")


async def test_what_postgres_lost_is_told_of_and_begins_anew(
    history: History, database: psycopg.AsyncConnection
) -> None:
    events = chain(9)
    journal = Journal("", snapshot_every=4)
    await journal.write(database, Page("1-1", events[:6]))
    written = await journal.write(database, Page("1-2", events[9:11]))  # 7 to 9 are missing
    assert written.gaps == {"run_1"}
    assert (await journal.write(database, Page("1-3", events[11:12]))).gaps == set()  # told once
    assert (await journal.wrong_runs(database)) == ({"run_1"}, set())
    assert await history.events.state("run_1", 6) == fold(one.event() for one in events[:6])
    for seq in (7, 9, 10, 12, None):
        with pytest.raises(NotRecorded, match=r"events 7 to 9 of run_1 are not recorded"):
            await history.events.state("run_1", seq)
    run = await history.runs.get("run_1")
    assert run and (run["broken_at"], run["status"], run["seq"]) == (6, "RUNNING", 12)
    again = restated(13, events[:12])
    assert (await journal.write(database, Page("1-4", [again]))).gaps == set()
    later = [one._replace(seq=one.seq + 1) for one in events[12:]]
    await journal.write(database, Page("1-5", later))
    state = await history.events.state("run_1")
    assert state and (state.status, state.seq, state.outputs) == ("COMPLETED", 21, {"": {"a": {"n": 8}}})
    assert (await history.events.state("run_1", 13)) == fold([again.event()])
    with pytest.raises(NotRecorded):
        await history.events.state("run_1", 12)
    run = await history.runs.get("run_1")
    assert run and (run["broken_at"], run["status"], run["output"]) == (None, "COMPLETED", {"n": 8})


async def test_a_run_that_postgres_never_knew_comes_into_being(
    history: History, database: psycopg.AsyncConnection
) -> None:
    events = chain(3)
    journal = Journal("")
    written = await journal.write(database, Page("1-1", events[3:4]))
    assert (await journal.write(database, Page("1-1", events[4:5]))).gaps == set()  # told once
    assert (written.gaps, await history.runs.get("run_1")) == ({"run_1"}, None)
    await journal.write(database, Page("1-2", [restated(6, events[:5])]))
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"], run["workflow_id"], run["input"]) == ("RUNNING", 6, "demo", 1)
    assert run["created_at"] == NOW + 1
    journal = Journal("")
    await journal.write(database, Page("1-3", [one._replace(seq=one.seq + 1) for one in events[5:]]))
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["output"]) == ("COMPLETED", {"n": 2})


async def test_an_ended_run_that_postgres_never_knew(history: History, database: psycopg.AsyncConnection) -> None:
    events = chain(3)
    await Journal("").write(database, Page("1-1", [restated(9, events)]))
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["output"], run["ended_at"]) == ("COMPLETED", {"n": 2}, NOW + 8)


async def test_a_run_that_can_not_be_folded_is_recorded_all_the_same(
    history: History, database: psycopg.AsyncConnection, caplog: pytest.LogCaptureFixture
) -> None:
    events = chain(6)
    events[3] = events[3]._replace(data=b'{"tokens":[1]}')
    journal = Journal("", snapshot_every=2)
    for one in events:
        await journal.write(database, Page("1-1", [one]))
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"], run["outputs"]) == ("COMPLETED", len(events), {})
    assert caplog.text.count("can not be folded") == 1


def test_memory_is_bounded() -> None:
    tails = Tails(500, kept_bytes=5_000)
    for number in range(20):
        run_id = f"run_{number}"
        tails.add(run_id, [one._replace(run_id=run_id) for one in chain(1)])
        assert tails.size <= 5_000
    large = chain(1, "x" * 9_000)
    tails.add("large", [one._replace(run_id="large") for one in large[:2]])
    assert tails.add("large", [one._replace(run_id="large") for one in large[2:]])  # the newest one stays
    tails.add("run_1", chain(1))
    assert tails.size <= 5_000
    tails.drop("run_1")
    assert tails.size == 0
