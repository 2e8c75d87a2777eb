"""Shares of an engine's time, for any course of requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runner.engine_time import EngineTime

SPANS = st.lists(
    st.tuples(st.floats(0, 1e6, width=32), st.floats(0, 1e3, width=32)).map(lambda one: (one[0], one[0] + one[1])),
    max_size=12,
)


def shares(spans: list[tuple[float, float]]) -> tuple[list[float], EngineTime]:
    time, marks, taken = EngineTime(), {}, [0.0] * len(spans)
    moments = sorted(
        [(begin, 0, number) for number, (begin, _) in enumerate(spans)]
        + [(end, 1, number) for number, (_, end) in enumerate(spans)]
    )
    for at, is_end, number in moments:
        if is_end:
            taken[number] = time.end(marks[number], at)
        else:
            marks[number] = time.begin(at)
    return taken, time


@given(SPANS)
def test_the_shares_are_the_time_that_the_engine_was_busy(spans: list[tuple[float, float]]) -> None:
    taken, time = shares(spans)
    busy, until = 0.0, 0.0
    for begin, end in sorted(spans):
        busy, until = busy + max(end - max(begin, until), 0.0), max(until, end)
    assert time.requests == 0
    assert time.busy_s == pytest.approx(busy, abs=1e-6)
    assert sum(taken) == pytest.approx(busy, abs=1e-6)


@given(SPANS)
def test_a_share_is_at_most_the_time_that_it_was_there_and_at_least_its_part(spans: list[tuple[float, float]]) -> None:
    for share, (begin, end) in zip(shares(spans)[0], spans, strict=True):
        assert (end - begin) / len(spans) - 1e-6 <= share <= end - begin + 1e-6


def test_who_comes_second_halves_what_both_take() -> None:
    assert shares([(0, 3), (1, 2)])[0] == [2.5, 0.5]
