"""replay and compare at a terminal: the steps of a run, keys, and what is said of a comparison."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pavane.client import Client
from pavane.comparison_lines import batch_lines, run_lines
from pavane.replay.steps import KEPT_EVERY, Steps
from pavane.replay.view import change_lines, state_lines
from pavane.replay.walk import Walk
from schemas.batch_comparison import ItemSide, Pair, compare_batches
from schemas.comparison import RunSide, compare_runs
from schemas.state_view import shown_state
from tests.events.test_comparison import rule, way
from tests.events.test_fold import Story, diamond

Pavane = Callable[..., Result]


def steps_of(story: Story) -> Steps:
    steps = Steps()
    steps.add([event.as_dict() for event in story.events])
    return steps


def long_story() -> Story:
    """One node over and over."""
    story = Story()
    for number in range(2 * KEPT_EVERY + 5):
        story.tell(
            "node_completed", "a", f"t{number + 1}", outputs={"a": number}, gone=[f"t{number + 1}"], live=1,
            tokens={f"t{number + 2}": {"node": "a", "state": "queued", "attempt": 0}},
        )  # fmt: skip
    return story


LONG = long_story()
LAST = len(LONG.events) - 1


@given(st.lists(st.integers(-1, LAST), max_size=6))
def test_the_state_is_that_of_the_events_up_to_there_in_whatever_order_it_is_asked_for(places: list[int]) -> None:
    steps = steps_of(LONG)
    for place in places:
        state = steps.state(place)
        if place < 0:
            assert state == {}
        else:
            assert (state["seq"], state["outputs"]) == (place + 1, {"a": place - 1} if place else {})


def test_each_step_says_what_moved_and_what_came() -> None:
    steps = steps_of(diamond())
    said = [change_lines(steps.state(place - 1), steps.state(place), 100) for place in range(7)]
    assert said[0] == ["token  + a              queued     in its stream  ."]
    assert said[1] == ["token  > a              running    attempt 1 on a runner  .  (was queued)"]
    assert said[2] == [
        "token  - a              gone  .", "token  + b              queued     in its stream  .",
        "token  + c              queued     in its stream  .", "output + a              1",
    ]  # fmt: skip
    assert "token  + d              waiting    has b; other tokens can still reach it  ." in said[3]
    assert said[6] == ["status   RUNNING -> COMPLETED"]


def test_loops_and_revisions() -> None:
    story = Story()
    story.tell("node_completed", "a", "t1", passes={"again": 1}, tokens={}, gone=[], live=1)
    story.tell("run_patched", revision=2, digest="sha256-e", loops=["again"], tokens={}, gone=[], live=1)
    steps = steps_of(story)
    assert change_lines(steps.state(0), steps.state(1), 100) == ["loop     again pass 0 -> 1"]
    assert change_lines(steps.state(1), steps.state(2), 100) == ["revision 1 -> 2", "loop     again begins anew"]
    assert "loops    again 1 pass" in state_lines(steps.state(1), 100)


def test_the_whole_state() -> None:
    lines = state_lines(shown_state(diamond().state), 100)
    assert lines[0].startswith("run_1  COMPLETED  revision 1") and "tokens   none is live" in lines
    assert "  c              3" in lines and lines[-1] == "output   4"
    assert all(len(line) <= 20 for line in state_lines(shown_state(diamond().state), 20))


@given(st.lists(st.sampled_from(["right", "left", "enter", "home", "end", "back", "x", "0", "1", "7", "9"])))
def test_whatever_is_pressed_a_step_is_shown(keys: list[str]) -> None:
    walk = Walk()
    for key in keys:
        walk = walk.press(key, 7, steps_of(diamond()).place_of)
        assert 0 <= walk.place <= 7 and not walk.over


@pytest.mark.parametrize(
    ("keys", "place", "typed"),
    [
        (["right", "enter"], 2, ""), (["right", "left", "left"], 0, ""), (["5", "enter"], 4, ""),
        (["9", "9", "enter"], 6, ""), (["0", "enter"], 0, ""), (["end", "right"], 6, ""), (["1", "2", "back"], 0, "1"),
        (["4", "home"], 0, ""),
    ],
)  # fmt: skip
def test_keys(keys: list[str], place: int, typed: str) -> None:
    steps = steps_of(diamond())
    walk = Walk()
    for key in keys:
        walk = walk.press(key, 6, steps.place_of)
    assert (walk.place, walk.typed) == (place, typed)
    assert walk.press("quit", 6, steps.place_of).over


def test_on_a_pipe(pavane: Pavane, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event.as_dict() for event in diamond().events]
    monkeypatch.setattr(Client, "events", lambda self, run_id: events)
    told = pavane("replay", "run_1", "--step", "--from", 6).stdout.splitlines()
    assert told[0].split()[0] == "6" and told[-1].strip() == "status   RUNNING -> COMPLETED"
    states = [json.loads(line) for line in pavane("replay", "run_1", "--json").stdout.splitlines()]
    assert [state["seq"] for state in states] == [1, 2, 3, 4, 5, 6, 7]
    assert (states[-1]["event"], states[-1]["output"]) == ("run_completed", 4)
    refused = pavane("replay", "run_1", "--from", 8)
    assert refused.exit_code == 2 and "last event of run_1 is 7" in refused.output
    assert pavane("replay", "run_1", "--at", 3, "--step").exit_code == 2


# -- compare -----------------------------------------------------------------------------------------

A = RunSide("run_a", "COMPLETED", output={"score": 82, "text": "x" * 90}, usage={"gpu_ms": 1_000},
            duration_ms=500, outputs={"quality": 1},
            way=way(("quality", rule(0, "format") | {"true": "output.score >= 80", "values": {"output.score": 82}}),
                    ("format", None)))  # fmt: skip
B = RunSide("run_b", "COMPLETED", output={"score": 71, "text": "y" * 90}, usage={"gpu_ms": 3_000},
            duration_ms=400, outputs={"quality": 2},
            way=way(("quality", rule("default", "improve")), ("improve", None), ("format", None)))  # fmt: skip


def test_two_runs_for_people() -> None:
    lines = run_lines(compare_runs(A, B), 80)
    assert (
        "they part at quality: A rule 1 (output.score >= 80; output.score = 82) -> format, B default -> improve"
        in lines
    )
    assert "  improve  0  1" in lines and "  quality  1  1" not in lines and "quality gave" in lines
    assert "  $.score  82 -> 71  (-11)" in lines
    assert "  GPU time     1 s     3 s      +2 s" in lines
    assert all(len(line) <= 80 for line in lines if not line.startswith("they part"))
    assert run_lines(compare_runs(A, A), 80)[-1] == "the same: input, status, ways and outputs"


def test_two_batches_for_people_and_for_spreadsheets(pavane: Pavane, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ItemSide("run_1", "COMPLETED", {"score": 5}), ItemSide("run_2", "COMPLETED", {"score": 8})
    failed = ItemSide("run_3", "FAILED")
    pairs = [Pair("k", one, other), Pair("f", one, failed), Pair("=left", one, None)]
    found = {"kind": "batches", "a": "batch_a", "b": "batch_b", "matched_by": "key", "not_loaded": 0}
    found |= compare_batches(pairs)
    lines = batch_lines(found, 100)
    assert "2 items in both, by their keys: 0 the same, 2 differ" in lines and "only in A: 1 (=left)" in lines
    assert "1 item went from COMPLETED to FAILED" in lines and "  k  (run_1, run_2)" in lines
    assert "    $.score  5 -> 8  (+3)" in lines
    asked: dict[str, Any] = {}
    monkeypatch.setattr(Client, "get", lambda self, *path, **given: asked.update(given, path=path) or found)
    rows = list(csv.DictReader(io.StringIO(pavane("compare", "batch_a", "batch_b", "--csv").stdout)))
    assert [(row["key"], row["status_b"], row["path"], row["difference"]) for row in rows] == [
        ("f", "FAILED", "", ""), ("k", "COMPLETED", "$.score", "3"),
    ]  # fmt: skip
    assert (asked["path"], asked["a"], asked["b"], asked["limit"]) == (("compare",), "batch_a", "batch_b", 20)
    assert json.loads(pavane("compare", "batch_a", "--canary", "--json").stdout) == found and asked["canary"] == "true"
    assert pavane("compare", "a", "b", "--csv", "--json").exit_code == 2
