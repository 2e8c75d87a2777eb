"""Which events follow on what is recorded: case by case, and that it does not matter where a page ends."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from history.entry import Entry
from history.sequence import Content, Known, Place, Sorted, sort, suspects

MADE = datetime(2026, 1, 1, tzinfo=UTC)


def event(seq: int, kind: str = "node_completed", **data: Any) -> Entry:
    return Entry("r", seq, kind, 1_000 + seq, "", "", "", orjson.dumps(data))


@dataclass
class Recorded:
    """What a database has after pages of one run."""

    known: dict[str, Known] = field(default_factory=dict)
    events: dict[Place, Content] = field(default_factory=dict)
    diverged: list[Entry] = field(default_factory=list)
    repeated: list[Entry] = field(default_factory=list)

    def add(self, *entries: Entry) -> Sorted:
        wanted = {(entry.run_id, entry.seq) for entry in suspects(entries, self.known)}
        page = sort(entries, self.known, {place: self.events[place] for place in wanted & self.events.keys()})
        for entry in page.fresh:
            assert (entry.run_id, entry.seq) not in self.events, "recorded twice"
            self.events[entry.run_id, entry.seq] = (entry.type, entry.token_id, entry.data.decode())
        self.diverged += page.diverged
        self.repeated += page.again
        begun = [entry for entry in page.fresh if entry.type in ("run_started", "run_forked", "run_restated")]
        for run_id in {"r"} & (self.known.keys() | {entry.run_id for entry in begun}):
            run = self.known.get(run_id, Known(created_at=MADE))
            diverged = (run.diverged or run_id in page.diverged_runs) and run_id not in page.restored
            broken = None if run_id in page.restated else page.broken.get(run_id, run.broken_at)
            self.known[run_id] = run._replace(seq=page.seqs.get(run_id, run.seq), diverged=diverged, broken_at=broken)
        return page

    @property
    def run(self) -> tuple[int, bool, int | None]:
        run = self.known["r"]
        return run.seq, run.diverged, run.broken_at


@pytest.fixture
def recorded() -> Recorded:
    """A run with three events."""
    recorded = Recorded()
    recorded.add(event(1, "run_started"), event(2, of="b"), event(3, of="c"))
    return recorded


def seqs(entries: list[Entry]) -> list[int]:
    return [entry.seq for entry in entries]


def test_what_follows_is_recorded_and_what_is_known_is_left_out(recorded: Recorded) -> None:
    page = recorded.add(event(2, of="b"), event(3, of="c"), event(4), event(4), event(5))
    assert (seqs(page.fresh), seqs(page.again), page.diverged) == ([4, 5], [2, 3, 4], [])
    assert recorded.run == (5, False, None)


def test_another_content_sets_the_run_apart_until_it_is_restored(recorded: Recorded) -> None:
    page = recorded.add(event(3, of="other"), event(4), event(5))
    assert (page.fresh, seqs(page.diverged), page.diverged_runs) == ([], [3, 4, 5], {"r": 3})
    page = recorded.add(event(4, "run_recovered", from_seq=2), event(5), event(4, "run_recovered", from_seq=3))
    assert (seqs(page.diverged), seqs(page.fresh), page.restored) == ([4, 5], [4], {"r"})
    assert recorded.run == (4, False, None)
    assert seqs(recorded.add(event(5)).fresh) == [5]
    page = recorded.add(event(3, of="other"), event(4, "run_recovered", from_seq=3), event(5), event(6))
    assert (seqs(page.diverged), seqs(page.again), seqs(page.fresh)) == ([3], [4, 5], [6])  # the stream was read again
    assert recorded.run == (6, False, None)


def test_a_restoration_with_the_wrong_number_restores_nothing(recorded: Recorded) -> None:
    recorded.add(event(3, of="other"))
    page = recorded.add(event(5, "run_recovered", from_seq=3), event(4, from_seq=3))
    assert (seqs(page.diverged), recorded.run) == ([5, 4], (3, True, None))


def test_a_gap_breaks_the_run_until_it_is_restated(recorded: Recorded) -> None:
    page = recorded.add(event(6), event(7))
    assert (seqs(page.fresh), page.broken) == ([6, 7], {"r": 3})
    assert recorded.run == (7, False, 3)
    page = recorded.add(event(9), event(5))  # another gap; one of the missing ones after all
    assert (seqs(page.fresh), page.broken, recorded.run) == ([9, 5], {}, (9, False, 3))
    page = recorded.add(event(12, "run_restated", state={}), event(13))
    assert (seqs(page.fresh), page.restated, recorded.run) == ([12, 13], {"r"}, (13, False, None))


def test_an_unknown_run_that_does_not_begin_is_broken() -> None:
    for first in (event(1), event(2, "run_started"), event(7)):
        recorded = Recorded()
        page = recorded.add(first, event(8))
        assert (seqs(page.fresh), page.broken) == ([first.seq, 8], {"r": 0})
    page = recorded.add(event(9, "run_restated"), event(10))
    assert (page.broken, recorded.run) == ({}, (10, False, None))


entries = st.builds(
    lambda seq, kind, content, of: event(seq, kind, of=content, from_seq=of),
    st.integers(1, 6),
    st.sampled_from(["node_completed", "node_completed", "run_recovered", "run_restated"]),
    st.sampled_from("ab"),
    st.integers(0, 6),
)


@given(st.lists(entries, max_size=14), st.sets(st.integers(0, 14)))
def test_it_does_not_matter_where_pages_end(stream: list[Entry], cuts: set[int]) -> None:
    whole, parts = Recorded(), Recorded()
    begin = [event(1, "run_started"), event(2, of="b")]
    whole.add(*begin, *stream)
    parts.add(*begin)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    for first, last in pairwise(bounds):
        parts.add(*stream[first:last])
    assert whole == parts


@given(st.lists(entries, max_size=14))
def test_every_event_has_one_place_and_a_diverged_run_does_not_move(stream: list[Entry]) -> None:
    recorded = Recorded()
    recorded.add(event(1, "run_started"), event(2, of="b"))
    for entry in stream:
        before = recorded.run
        page = recorded.add(entry)
        assert len(page.fresh) + len(page.again) + len(page.diverged) == 1
        if before[1] and recorded.run[1]:
            assert recorded.run[0] == before[0]
            assert not page.fresh
