"""Parts of the stream: how a page is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coordinator.stream import ARTIFACTS_IN_PART, Part, RawEntry, continues, middle, named, parts
from history.entry import Entry
from schemas.events import CONTINUING

KINDS = st.sampled_from([*sorted(CONTINUING), "node_completed", "task_started"])
EVENTS = st.lists(st.tuples(st.sampled_from("ab"), KINDS, st.sampled_from([0, 1, 40])), min_size=1, max_size=40)


def stream(events: list[tuple[str, str, int]]) -> list[RawEntry]:
    return [
        (f"1-{n}".encode(), {b"run": run.encode(), b"type": kind.encode(), b"body": b"artifact://" * artifacts})
        for n, (run, kind, artifacts) in enumerate(events, 1)
    ]


@given(EVENTS)
def test_a_page_is_cut_between_steps(events: list[tuple[str, str, int]]) -> None:
    raw = stream(events)
    cut = [part.raw for part in parts(Part(raw, None))]
    assert [entry for part in cut for entry in part] == raw
    for before, after in pairwise(cut):
        assert not continues(after[0], before[-1])
        assert sum(fields[b"body"].count(b"artifact://") for _, fields in before) >= ARTIFACTS_IN_PART
    for part in cut:  # no longer than it must be
        names = 0
        for number, (_, fields) in enumerate(part[:-1], 1):
            names += fields[b"body"].count(b"artifact://")
            assert names < ARTIFACTS_IN_PART or continues(part[number], part[number - 1])


@given(EVENTS)
def test_what_is_halved_is_halved_between_steps(events: list[tuple[str, str, int]]) -> None:
    raw = stream(events)
    if len(raw) > 1:
        cut = middle(raw)
        several = any(not continues(raw[n], raw[n - 1]) for n in range(1, len(raw)))
        assert 0 < cut < len(raw) and (not several or not continues(raw[cut], raw[cut - 1]))


def test_a_step_goes_on_with_the_same_run_and_a_type_that_continues() -> None:
    first, second, other, began = stream(
        [("a", "node_completed", 0), ("a", "run_completed", 0), ("b", "run_completed", 0), ("b", "task_started", 0)]
    )
    assert continues(second, first)
    assert not continues(other, first) and not continues(began, other)
    assert not continues((b"1-1", {b"type": b"run_failed"}), (b"1-2", {}))


def test_every_event_may_name_artifacts() -> None:
    data = b'{"artifacts":["artifact://sha256-1"],"answer":{"stored_result":"artifact://sha256-1"}}'
    assert named(Entry("run_1", 2, "node_answered", 1, "n1", "t1", "", data)) == ["sha256-1"]
