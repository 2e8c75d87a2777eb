"""decide, case by case, without a server."""

from typing import Any

import pytest

from coordinator.decide import Done, Fail, Move, TryAgain, View, decide
from schemas.compiler.compiler import compile_workflow
from schemas.messages import Failure
from tests.scripts.workflows import cel, edges, task


def view(node: str, **more: Any) -> View:
    given = {
        "attempt": 1, "iteration": 0, "depth": 0, "lane": "", "failures": 0, "scope": "", "input": {}, "run": {},
    }  # fmt: skip
    return View(node_id=node, **given | more)


def done(value: Any) -> Done:
    return Done(value, "1")


def move(ir: Any, at: View, outcome: Any) -> Move:
    decision = decide(ir, at, outcome, 0.0)
    assert isinstance(decision, Move), decision
    return decision


def compiled(nodes: list[Any], *arrows: str, more_edges: tuple[Any, ...] = ()) -> Any:
    return compile_workflow({"id": "w", "nodes": nodes, "edges": [*edges(*arrows), *more_edges]}).ir


GRADED = compiled(
    [
        task("grade"),
        {
            "id": "quality",
            "type": "branch",
            "config": {
                "rules": [
                    {"condition": cel("output.score >= 80"), "next": ["good"]},
                    {"condition": cel("output.score >= 50"), "next": ["better"]},
                ],
                "default": ["bad"],
            },
        },
        task("good"),
        task("better"),
        task("bad"),
    ],
    "grade > quality",
)


@pytest.mark.parametrize(
    ("score", "target", "rule"), [(80, "good", 0), (79.9, "better", 1), (0, "bad", "default"), (None, "bad", "default")]
)
def test_the_first_true_rule_wins(score, target, rule):
    decision = move(GRADED, view("grade"), done({"score": score}))
    assert [arrival.node for arrival in decision.plan.fires] == [target]
    (told,) = decision.facts["decisions"]
    texts = ["output.score >= 80", "output.score >= 50"]
    missed = texts if rule == "default" else texts[:rule]
    holds = {} if rule == "default" else {"true": texts[rule]}
    assert told == {
        "node": "quality", "rule": rule, "next": [target], "values": {"output.score": score}, **holds,
        **({"false": missed} if missed else {}),
    }  # fmt: skip
    assert [output.node for output in decision.plan.outputs] == ["grade", "quality"]


def test_an_error_in_a_condition_counts_as_false_and_is_told():
    decision = move(GRADED, view("grade"), done({"points": 3}))
    assert [arrival.node for arrival in decision.plan.fires] == ["bad"]
    errors = decision.facts["condition_errors"]
    assert [(e["node"], e["rule"], e["expression"]) for e in errors] == [
        ("quality", 0, "output.score >= 80"), ("quality", 1, "output.score >= 50"),
    ]  # fmt: skip
    assert "points" not in str(errors)


def looping(condition: str = "output.again", **config: Any) -> Any:
    again = {
        "id": "again",
        "type": "loop",
        "config": {
            "condition": cel(condition), "loop_back_to": "work", "max_iterations": 3, "break_path": ["out"], **config,
        },
    }  # fmt: skip
    return compiled([task("work"), again, task("out"), task("late")], "work > again", "out > late")


@pytest.mark.parametrize(
    ("passes", "again", "target", "result"),
    [(0, True, "work", "back"), (1, True, "work", "back"), (2, True, "out", "timeout"), (0, False, "out", "break")],
)
def test_a_loop_counts_its_passes(passes, again, target, result):
    decision = move(looping(), view("work", passes={"again": passes}), done({"again": again}))
    assert [arrival.node for arrival in decision.plan.fires] == [target]
    assert decision.plan.passes == {"again": passes + 1}
    (told,) = decision.facts["decisions"]
    assert (told["result"], told["pass"], told["max"], told["values"]) == (
        result,
        passes + 1,
        3,
        {"output.again": again},
    )
    assert told["true" if again else "false"] == "output.again"


def test_a_loop_whose_condition_errs_breaks():
    decision = move(looping("output.missing == 1"), view("work"), done({}))
    assert [arrival.node for arrival in decision.plan.fires] == ["out"]
    assert decision.facts["condition_errors"]


def test_a_timeout_path_is_taken_when_there_is_one():
    ir = looping(timeout_path=["late"], break_path=["out"])
    decision = move(ir, view("work", passes={"again": 2}), done({"again": True}))
    assert [arrival.node for arrival in decision.plan.fires] == ["late"]


FAILURE = Failure("timeout", "slow", retryable=True)


@pytest.mark.parametrize(("failures", "delay"), [(0, 100), (1, 200), (2, 400)])
def test_backoff_grows(failures, delay):
    ir = compiled([task("a", retry={"max_attempts": 4, "backoff_ms": 100, "backoff_multiplier": 2.0, "jitter": 0})])
    assert decide(ir, view("a", failures=failures), FAILURE, 0.9).delay_ms == delay


def test_jitter_spreads_it():
    ir = compiled([task("a", retry={"max_attempts": 4, "backoff_ms": 100, "jitter": 0.5})])
    assert [decide(ir, view("a"), FAILURE, chance).delay_ms for chance in (0.0, 0.5, 0.99)] == [100, 125, 149]


def test_the_last_attempt_fails_and_a_permanent_failure_at_once():
    ir = compiled([task("a", retry={"max_attempts": 2})])
    assert isinstance(decide(ir, view("a"), FAILURE, 0), TryAgain)
    last = decide(ir, view("a", failures=1), FAILURE, 0)
    assert isinstance(last, Fail)
    assert last.error == {"class": "timeout", "message": "slow", "attempts": 2, "node": "a"}
    assert isinstance(decide(ir, view("a"), Failure("not_found", "no model", retryable=False), 0), Fail)


def test_on_error_takes_over_with_the_error_as_output():
    ir = compiled([task("a", on_error=["sorry"]), task("sorry"), task("b")], "a > b")
    decision = move(ir, view("a"), Failure("not_found", "no model", retryable=False))
    (arrival,) = decision.plan.fires
    assert (arrival.node, arrival.value) == (
        "sorry", '{"error":{"class":"not_found","message":"no model","attempts":1,"node":"a"}}',
    )  # fmt: skip
    assert decision.plan.outputs[0].value is None
    assert decision.facts["error"]["class"] == "not_found"
    assert decision.facts["taken_over"] == {"path": "on_error", "next": ["sorry"]}
    assert (decision.facts["max_attempts"], decision.facts["retryable"]) == (3, False)


def test_a_branch_that_knows_no_way_says_what_was_false():
    branch = {"id": "q", "type": "branch", "config": {"rules": [{"condition": cel("output.n > 1"), "next": ["b"]}]}}
    ir = compiled([task("a"), branch, task("b")], "a > q")
    passing = move(ir, view("a"), done({"n": 0}))
    assert [arrival.node for arrival in passing.plan.fires] == ["q"] and "undecided" not in passing.facts
    failed = decide(ir, view("q", arrived={"a": {"n": 0}}), None, 0)
    assert isinstance(failed, Fail) and failed.error["class"] == "no_branch"
    assert failed.facts["undecided"] == {"node": "q", "false": ["output.n > 1"], "values": {"output.n": 0}}


def test_a_passing_node_that_fails_becomes_a_token_of_its_own():
    shape = {"id": "shape", "type": "transform", "config": {"set": {"x": "output.missing"}}}
    ir = compiled([task("a"), shape], "a > shape")
    decision = move(ir, view("a"), done({}))
    assert [arrival.node for arrival in decision.plan.fires] == ["shape"]
    failed = decide(ir, view("shape", arrived={"a": {}}), None, 0)
    assert isinstance(failed, Fail)
    assert failed.error["class"] == "expression"
    assert "shape.set.x" in failed.error["message"]


def test_a_loop_without_a_task_takes_a_step_a_pass():
    count = {"id": "count", "type": "transform", "config": {"set": {"n": "iteration"}}}
    again = {
        "id": "again", "type": "loop",
        "config": {"condition": cel("iteration < 5"), "loop_back_to": "count", "max_iterations": 9, "break_path": []},
    }  # fmt: skip
    ir = compiled([task("a"), count, again], "a > count > again")
    decision = move(ir, view("a"), done({}))
    assert [output.node for output in decision.plan.outputs] == ["a", "count", "again"]
    assert [arrival.node for arrival in decision.plan.fires] == ["count"]
    assert decision.plan.passes == {"again": 1}


def test_a_target_named_twice_counts_once_and_edges_that_do_not_hold_end_the_path():
    more = (
        {"from": "a", "to": "b", "condition": cel("output.go")},
        {"from": "a", "to": "b", "condition": cel("true")},
        {"from": "a", "to": "c", "condition": cel("output.go")},
    )
    ir = compiled([task("a"), task("b"), task("c")], more_edges=more)
    decision = move(ir, view("a"), done({"go": True}))
    assert [arrival.node for arrival in decision.plan.fires] == ["b", "c"]
    (told,) = decision.facts["decisions"]
    assert told["true"] == [["b", "output.go"], ["b", "true"], ["c", "output.go"]] and "false" not in told
    ended = move(ir, view("a"), done({"go": False}))
    assert [arrival.node for arrival in ended.plan.fires] == ["b"]


def test_large_values_of_passing_nodes_are_artifacts():
    big = {"id": "big", "type": "transform", "config": {"set": {"x": "output.text + output.text"}}}
    ir = compiled([task("a"), big], "a > big")
    decision = move(ir, view("a"), done({"text": "y" * 10_000}))
    (artifact,) = decision.plan.artifacts
    assert decision.plan.outputs[1].value == artifact.reference
