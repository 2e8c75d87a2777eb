"""fold, rule by rule on events written by hand; and that it may stop and go on anywhere."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event
from schemas.fold import BrokenHistory, fold
from schemas.run_state import Reference, RunState, Usage, run_output

RUN = "run_1"
STARTED = {"workflow_id": "demo", "version": 2, "revision": 1, "digest": "sha256-d", "input": {"text": "x"}}


def token(node: str, state: str = "queued", *arrivals: list[Any], **more: Any) -> dict[str, Any]:
    record = {"node": node, "state": state, "attempt": 0, "depth": 0, "lane": "", "since": 5, **more}
    return record | ({"from": list(arrivals)} if arrivals else {})


class Story:
    """Events of one run, numbered as they are told."""

    def __init__(self, **started: Any) -> None:
        self.events: list[Event] = []
        self.tell("run_started", **{**STARTED, **started}, tokens={"t1": token("a")}, live=1)

    def tell(self, kind: str, node: str = "", token_id: str = "", scope: str = "", **data: Any) -> "Story":
        seq = len(self.events) + 1
        self.events.append(Event(RUN, seq, kind, 1_000 + seq, node, token_id, scope, data))
        return self

    @property
    def state(self) -> RunState:
        return fold(self.events)


def diamond() -> Story:
    """a -> b, c -> d (waits), then the end."""
    story = Story()
    story.tell("task_started", "a", "t1", tokens={"t1": token("a", "running", attempt=1)}, live=1)
    story.tell(
        "node_completed", "a", "t1", outputs={"a": 1}, gone=["t1"], live=2,
        tokens={"t2": token("b", "queued", ["a", 0, ""]), "t3": token("c", "queued", ["a", 0, ""])},
    )  # fmt: skip
    story.tell(
        "node_completed", "b", "t2", outputs={"b": 2}, gone=["t2"], live=2,
        tokens={"t4": token("d", "waiting", ["b", 1, ""])},
    )  # fmt: skip
    story.tell(
        "node_completed", "c", "t3", outputs={"c": 3}, gone=["t3"], live=1,
        tokens={"t4": token("d", "queued", ["b", 1, ""], ["c", 1, ""])},
    )  # fmt: skip
    story.tell("node_completed", "d", "t4", outputs={"d": 4}, ends=["d"], gone=["t4"], live=0, tokens={})
    return story.tell("run_completed")


def test_nothing_has_happened_yet() -> None:
    assert fold([]) == RunState()


def test_the_start_says_what_the_run_is() -> None:
    state = Story(batch_id="b1", key="k", labels={"team": "x"}, priority="interactive").state
    assert (state.run_id, state.status, state.seq, state.live) == (RUN, "RUNNING", 1, 1)
    assert (state.workflow_id, state.version, state.revision, state.digest) == ("demo", 2, 1, "sha256-d")
    assert (state.batch_id, state.key, state.labels, state.priority) == ("b1", "k", {"team": "x"}, "interactive")
    assert (state.input, state.created_at, state.ended_at) == ({"text": "x"}, 1_001, None)
    assert state.tokens == {"t1": token("a")}


def test_a_large_input_stays_a_reference() -> None:
    assert Story(stored_input="artifact://sha256-1").state.input == Reference("artifact://sha256-1")


def test_arrivals_lie_with_their_token_until_it_is_consumed() -> None:
    events = diamond().events
    assert fold(events[:3]).arrivals == {"t2": {"a": 1}, "t3": {"a": 1}}
    assert fold(events[:4]).waiting == {"": {"d": "t4"}}
    assert fold(events[:5]).arrivals == {"t4": {"b": 2, "c": 3}}
    assert fold(events[:5]).waiting == {}
    assert fold(events[:6]).arrivals == {}


def test_a_completed_run() -> None:
    state = diamond().state
    assert (state.status, state.live, state.tokens, state.ended_at) == ("COMPLETED", 0, {}, 1_007)
    assert state.outputs == {"": {"a": 1, "b": 2, "c": 3, "d": 4}}
    assert (state.ends, run_output(state)) == ({"": {"d"}}, 4)


@given(st.integers(0, 7), st.integers(0, 7))
def test_fold_goes_on_from_any_state_and_leaves_it_alone(first: int, second: int) -> None:
    events = diamond().events
    first, second = sorted((first, second))
    before = fold(events[:first])
    copy = before.copy()
    assert fold(events[second:], fold(events[first:second], before)) == fold(events)
    assert before == copy


def test_the_output_of_several_ends_names_them() -> None:
    story = Story()
    story.tell("node_completed", "a", "t1", outputs={"a": 1, "b": 2}, ends=["b", "a"], gone=["t1"], live=0)
    assert run_output(story.state) is None
    assert run_output(story.tell("run_completed").state) == {"a": 1, "b": 2}


def test_a_node_that_emits_again_is_no_end_any_more() -> None:
    story = Story()
    story.tell(
        "node_completed", "a", "t1", outputs={"a": 1}, ends=["a"], gone=["t1"], live=1, tokens={"t2": token("a")}
    )
    story.tell("node_completed", "a", "t2", outputs={"a": 2, "b": 3}, ends=["b"], gone=["t2"], live=0)
    assert story.state.ends == {"": {"b"}}
    assert story.state.outputs == {"": {"a": 2, "b": 3}}


def test_large_outputs_stay_references_here_and_where_they_arrive() -> None:
    story = Story()
    story.tell(
        "node_completed", "a", "t1", outputs={}, stored={"a": "artifact://sha256-9"}, gone=["t1"], live=1,
        tokens={"t2": token("b", "queued", ["a", 0, ""])},
    )  # fmt: skip
    large = Reference("artifact://sha256-9")
    assert story.state.outputs == {"": {"a": large}}
    assert story.state.arrivals == {"t2": {"a": large}}
    assert large.name == "sha256-9"


def test_the_highest_execution_counts_not_the_last() -> None:
    story = Story()
    for seq, (value, rank, ends) in enumerate([("high", [3, "01"], ["a"]), ("low", [2, "07"], [])], 1):
        story.tell(
            "node_completed", "a", f"t{seq}", outputs={"a": value}, ends=ends, ranks={"a": rank}, gone=[f"t{seq}"],
            live=1, tokens={f"t{seq + 1}": token("a")},
        )  # fmt: skip
    assert story.state.outputs == {"": {"a": "high"}}
    assert story.state.ranks == {"": {"a": (3, "01"), "ends|a": (3, "01")}}
    assert story.state.ends == {"": {"a"}}
    story.tell("node_completed", "a", "t3", outputs={"a": "same"}, ranks={"a": [3, "01"]}, gone=["t3"], live=0)
    assert story.state.outputs == {"": {"a": "same"}}
    assert story.state.ends == {"": set()}


def test_a_merge_that_lost_keeps_the_value_that_won() -> None:
    """The record still names the older arrival's rank, so the new output of that node did not arrive."""
    story = Story()
    story.tell(
        "node_completed", "a", "t1", outputs={"a": "early"}, gone=["t1"], live=2,
        tokens={"t2": token("a"), "t3": token("j", "waiting", ["a", 4, ""])},
    )  # fmt: skip
    story.tell(
        "node_completed", "a", "t2", outputs={"a": "late"}, gone=["t2"], live=1,
        tokens={"t3": token("j", "queued", ["a", 4, ""])},
    )  # fmt: skip
    assert story.state.arrivals == {"t3": {"a": "early"}}
    story.tell(
        "node_completed", "a", "t9", outputs={"a": "later"}, gone=["t9"], live=1,
        tokens={"t3": token("j", "queued", ["a", 5, ""])},
    )  # fmt: skip
    assert story.state.arrivals == {"t3": {"a": "later"}}


def test_on_error_passes_the_error_on_and_sets_no_output() -> None:
    error = {"class": "handler", "message": "no"}
    story = Story()
    story.tell(
        "node_failed", "a", "t1", outputs={"t": 7}, error=error, gone=["t1"], live=1, ends=["t"],
        tokens={"t2": token("sorry", "queued", ["a", 0, ""])},
    )  # fmt: skip
    assert story.state.arrivals == {"t2": {"a": {"error": error}}}
    assert story.state.outputs == {"": {"t": 7}}
    assert story.state.ends == {"": {"t"}}
    assert story.state.status == "RUNNING"


def test_a_failed_run_keeps_its_tokens_and_outputs() -> None:
    error = {"class": "handler", "message": "no"}
    story = diamond()
    del story.events[4:]
    held = {"t3": token("c", "dead", ["a", 0, ""]), "t4": token("d", "held", ["b", 1, ""], held="waiting")}
    usage = {"prompt_tokens": 2}
    story.tell("node_failed", "c", "t3", error=error, tokens=held, live=0, usage=usage)
    state = story.tell("run_failed", error=error, usage=usage).state
    assert (state.status, state.live, state.error) == ("FAILED", 0, error)
    assert state.tokens == held
    assert state.waiting == {"": {"d": "t4"}}
    assert state.arrivals == {"t3": {"a": 1}, "t4": {"b": 2}}
    assert state.outputs == {"": {"a": 1, "b": 2}}
    assert state.usage.prompt_tokens == 2


@pytest.mark.parametrize(("kind", "status"), [("run_cancelled", "CANCELLED"), ("run_timed_out", "TIMED_OUT")])
def test_an_end_from_outside_clears_the_tokens(kind: str, status: str) -> None:
    story = diamond()
    del story.events[4:]
    state = story.tell(kind, by="me", reason="enough").state
    assert (state.status, state.live, state.tokens, state.arrivals) == (status, 0, {}, {})
    assert state.error == {"by": "me", "reason": "enough"}
    assert run_output(state) is None


def test_loops() -> None:
    story = Story()
    story.tell("node_completed", "a", "t1", passes={"outer": 1, "inner": 3}, gone=["t1"], live=1)
    story.tell("node_completed", "a", "t2", passes={"outer": 2}, restarted=["inner", "never"], gone=["t2"], live=1)
    assert story.state.passes == {"": {"outer": 2}}


def test_scopes_are_apart() -> None:
    story = Story()
    story.tell("node_completed", "a", "t1", "map/3", outputs={"a": 1}, ends=["a"], passes={"l": 1}, gone=["t1"], live=1)
    state = story.state
    assert (state.outputs, state.ends, state.passes) == (
        {"map/3": {"a": 1}}, {"map/3": {"a"}}, {"map/3": {"l": 1}},
    )  # fmt: skip
    assert run_output(story.tell("run_completed").state) == {}


def test_usage_adds_up_and_what_is_no_number_is_left_out() -> None:
    story = Story()
    story.tell("task_started", "a", "t1").tell("task_retried", "a", "t1").tell("task_started", "a", "t1")
    used = {"prompt_tokens": 5, "completion_tokens": 7, "execution_time_ms": 1.5, "load_ms": 2, "llm_model": "m"}
    story.tell("node_completed", "a", "t1", usage=used, gone=["t1"], live=1)
    story.tell("node_completed", "a", "t2", usage={"prompt_tokens": "many", "load_ms": None}, gone=["t2"], live=1)
    assert story.state.usage == Usage(5, 7, 1.5, 0, 2, 2)


def test_a_gap_another_run_and_a_missing_value_are_refused() -> None:
    events = diamond().events
    with pytest.raises(BrokenHistory, match="event 3 of run_1 after event 1"):
        fold([events[0], events[2]])
    with pytest.raises(BrokenHistory, match="event 2 of run_1 after event 0"):
        fold(events[1:])
    with pytest.raises(BrokenHistory, match="event 2 of other"):
        fold([Event("other", 2, "task_queued", 1)], fold(events[:1]))
    story = Story().tell(
        "node_completed", "a", "t1", gone=["t1"], tokens={"t2": token("b", "queued", ["z", 0, ""])}, live=1
    )
    with pytest.raises(BrokenHistory, match="no value of z for t2"):
        assert story.state
