"""One recorded run routed again: what holds still, what would be needed, and what is never guessed."""

import json
from collections import Counter

import pytest

from pavane.whatif.play import changed
from pavane.whatif.recorded import NotWhole, Run, read_recorded
from pavane.whatif.tally import Before, Tally
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event
from tests.whatif.histories import events_of, grading, recorded_of, route_again

IR = grading()


def test_a_lower_threshold_skips_a_node() -> None:
    recorded = recorded_of(IR, 75)
    played = route_again(recorded, grading("output.score >= 70"))
    assert (recorded.path, played.path) == (
        ["grade", "quality", "improve", "publish"],
        ["grade", "quality", "publish"],
    )
    assert changed(recorded, played) == ["path"]
    assert played.output == {"text": "publish 0"}


def test_what_nobody_recorded_is_not_guessed() -> None:
    played = route_again(recorded_of(IR, 85), grading("output.score >= 90"))
    assert [(node, why) for node, why, _ in played.needed] == [("improve", "not_executed")]
    assert (played.status, played.path, played.output) == ("RUNNING", ["grade", "quality"], None)
    assert played.reachable == {"improve", "publish"}


@pytest.mark.parametrize(
    ("prompt", "why"), [("Grade {{ input.text }}", "changed"), ("{{ input.text }}", None)], ids=["other", "same"]
)
def test_another_prompt_has_no_recorded_output(prompt: str, why: str | None) -> None:
    played = route_again(recorded_of(IR, 75), grading(prompt=prompt))
    assert [reason for _, reason, _ in played.needed] == ([why] if why else [])


def test_another_input_has_none_either() -> None:
    """publish is given what arrives: of `improve` before, of `quality` then."""
    ir = grading(published="{{ output }}")
    played = route_again(recorded_of(ir, 75), grading("output.score >= 70", published="{{ output }}"))
    assert [(node, why) for node, why, _ in played.needed] == [("publish", "other_input")]


def test_one_and_true_are_not_the_same_input() -> None:
    ir = grading("output.score >= 80", published="{{ ctx.grade.output.score }}")
    recorded = recorded_of(ir, 85)
    one = recorded.find(((), "publish", 0), 0)
    assert one is not None
    one.ctx = {"grade": {"score": 85.0}}
    assert [why for _, why, _ in route_again(recorded, ir).needed] == ["other_input"]


def test_a_run_that_goes_on_is_followed_as_far_as_it_had_come() -> None:
    recorded = recorded_of(IR, 85, ended=False)
    played = route_again(recorded, IR)
    assert (played.status, played.path, played.needed) == ("RUNNING", ["grade", "quality"], [])
    assert changed(recorded, played) == []
    assert [node for node, _, _ in route_again(recorded, grading("output.score >= 90")).needed] == ["improve"]


def test_a_failure_is_replayed_as_a_failure() -> None:
    error = {"class": "invalid_output", "message": "no JSON", "attempts": 3, "node": "grade"}
    events = [events_of(IR, 85)[0], Event("run_0", 2, "node_failed", 0, "grade", "run_0.1", "", {"error": error})]
    recorded = read_recorded(Run("run_0", "", "FAILED", error, {}), events, {IR.digest: IR}.get)
    played = route_again(recorded, IR)
    assert (played.status, played.error, changed(recorded, played)) == ("FAILED", error, [])
    document = json.loads(json.dumps(IR.workflow))
    document["nodes"][0]["on_error"] = ["publish"]
    handled = route_again(recorded, compile_workflow(document).ir)
    assert handled.path == ["grade"]
    assert [(node, why) for node, why, _ in handled.needed] == [("publish", "not_executed")]


@pytest.mark.parametrize(
    ("kind", "seq", "says"),
    [("run_started", 7, "not kept"), ("run_forked", 1, "fork"), ("run_restated", 9, "restated")],
)
def test_a_history_without_its_beginning_is_left_out(kind: str, seq: int, says: str) -> None:
    first = events_of(IR, 85)[0]
    events = [Event("run_0", seq, kind, 0, data=first.data)]
    with pytest.raises(NotWhole, match=says):
        read_recorded(Run("run_0", "", "COMPLETED", None, {}), events, {IR.digest: IR}.get)


def test_gpu_time_that_is_saved_and_added() -> None:
    before, tally = Before(), Tally()
    ir = grading("output.score >= 70")
    for number, score in enumerate((60, 75, 85)):
        recorded = recorded_of(IR, score, number)
        before.add(recorded)
        tally.add(recorded, route_again(recorded, ir))
    assert (tally.unchanged, tally.changed, tally.gpu.saved_ms, before.gpu_ms) == (2, 1, 1_000, 8_000)
    assert (tally.skipped, tally.reached, tally.gpu.added) == (Counter(improve=1), Counter(), Counter())
    assert before.decisions == {("quality", "default"): 2, ("quality", "0"): 1}
    assert tally.decisions == {("quality", "default"): 1, ("quality", "0"): 2}
    stricter = Tally()
    stricter.add(recorded, route_again(recorded, grading("output.score >= 90")))
    # `publish` may still come after `improve`, so nothing is said to be saved.
    assert (stricter.undecided, stricter.gpu.saved_ms, stricter.gpu.added) == (1, 0, Counter(improve=1))
