"""The reference interpreter held against traces and values written by hand from routing.md."""

from collections import Counter
from typing import Any

import pytest

from tests.reference import orders
from tests.reference.comparison import execution
from tests.reference.golden import (
    DO_WHILE,
    DO_WHILE_PASSES,
    GOLDEN,
    INPUT,
    REFUSED,
    SHAPE_1,
    SHAPE_2,
    WHILE,
    WHILE_PASSES,
    Golden,
    Workflow,
    branch,
    flow,
    loop,
    says,
    step,
    task,
)  # fmt: skip
from tests.reference.golden_maps import GOLDEN_MAPS
from tests.reference.graph import Graph, refused
from tests.reference.interpreter import Choose, Completed, Failed, Result, judge, run


def traced(result: Result) -> str:
    return " ".join(step(one) for one in result.trace)


def arrived(result: Result, node: str) -> list[str]:
    return [one.output for one in result.trace if one.node == node]


@pytest.mark.parametrize("golden", (GOLDEN | GOLDEN_MAPS).values(), ids=GOLDEN | GOLDEN_MAPS)
def test_golden(golden: Golden) -> None:
    assert refused(golden.workflow) == []
    assert traced(run(golden.workflow, INPUT, golden.outcome_of, golden.choose)) == golden.trace
    for choose in orders.many(seed=1, count=12):
        result = run(golden.workflow, INPUT, golden.outcome_of, choose)
        assert Counter(traced(result).split()) == Counter(golden.trace.split())
        assert (result.status, result.output) == ("COMPLETED", golden.output)
        assert result.loop_counts == golden.loop_counts


@pytest.mark.parametrize(("rule", "workflow"), REFUSED.values(), ids=REFUSED)
def test_refused(rule: int, workflow: Workflow) -> None:
    assert rule in refused(workflow)


def test_shape_1_blockers_take_no_back_edge_of_the_own_loop() -> None:
    graph = Graph(SHAPE_1)
    assert graph.blockers["j1"] == {"h", "b1", "c1"}
    assert graph.blockers["L"] == set(graph.nodes) - {"L", "end"}
    assert graph.bodies["L"] == set(graph.nodes) - {"end"}


def test_shape_2_the_newest_of_what_left_early_arrives() -> None:
    result = run(SHAPE_2, INPUT, says(arm=lambda i: Failed("too_large", f"pass {i}")), orders.last)
    error = '{"error": {"attempts": 1, "class": "too_large", "message": "pass 1", "node": "arm"}}'
    assert arrived(result, "sorry") == [error]
    assert "arm" not in result.outputs


def test_shape_4_the_entry_sees_the_input_and_then_what_comes_back() -> None:
    golden = next(golden for name, golden in GOLDEN.items() if name.startswith("4"))
    result = run(golden.workflow, INPUT, golden.outcome_of, orders.first)
    assert arrived(result, "draft") == ['{"long": false, "text": "t"}', '{"again": true}']


def test_shape_7_is_accepted_where_every_edge_has_a_condition() -> None:
    edges = ("x?output.out", "L?!output.out")
    workflow = flow(task("a", *edges), task("x"), loop("L", back="a", done="end"), task("end"))
    assert refused(workflow) == []
    outcome_of = says(a=lambda i: {"out": i == 1, "again": True})
    assert traced(run(workflow, INPUT, outcome_of, orders.first)) == "a:0 L:1 a:1 x:0"


@pytest.mark.parametrize(("passes", "trace"), DO_WHILE_PASSES)
def test_iteration_of_a_do_while(passes: list[bool | None], trace: str) -> None:
    result = run(DO_WHILE, INPUT, says(h=lambda i: {"again": passes[i]}), orders.first)
    assert traced(result) == trace
    assert result.loop_counts == {"L": len(passes)}
    assert dict(result.condition_errors) == ({("L", len(passes)): 1} if passes[-1] is None else {})


@pytest.mark.parametrize(("passes", "trace"), WHILE_PASSES)
def test_iteration_of_a_while(passes: list[bool | None], trace: str) -> None:
    outcome_of = says(start=lambda i: {"again": passes[0]}, h=lambda i: {"again": passes[i + 1]})
    result = run(WHILE, INPUT, outcome_of, orders.first)
    assert traced(result) == trace
    assert result.loop_counts.get("L", 0) == len(passes) - 1


# Values


def test_a_waiting_node_gets_one_value_or_a_map() -> None:
    workflow = flow(task("a", "b?output.go", "c"), task("b", "d"), task("c", "d"), task("d"))
    both = run(workflow, {}, says(a=lambda i: {"go": True}, b=lambda i: 1, c=lambda i: 2), orders.first)
    assert arrived(both, "d") == ['{"b": 1, "c": 2}']
    alone = run(workflow, {}, says(a=lambda i: {"go": False}, c=lambda i: 2), orders.first)
    assert arrived(alone, "d") == ["2"]


@pytest.mark.parametrize("choose", [orders.first, orders.last])
def test_join_any_fires_for_every_arrival_and_keeps_the_highest(choose: Choose) -> None:
    def names(node: str, attempt: int, iteration: int, output: Any) -> Completed:
        return Completed([node, output])

    workflow = flow(task("a", "b", "c"), task("b", "d"), task("c", "d"), task("d", join="any"))
    result = run(workflow, {}, names, choose)
    from_b, from_c = ["b", ["a", {}]], ["c", ["a", {}]]
    args = [{"node": "d", "output": value, "iteration": 0} for value in (from_b, from_c)]
    assert result.executions[execution("d", 0, from_b, ["d", from_b], args=args[0])] == 1
    assert result.executions[execution("d", 0, from_c, ["d", from_c], args=args[1])] == 1
    assert result.output == ["d", from_c]  # c stands after b in the document


def test_the_output_of_several_ends_is_a_map() -> None:
    workflow = flow(task("a", "b", "c"), task("b"), task("c"))
    assert run(workflow, {}, says(b=lambda i: 1, c=lambda i: 2), orders.first).output == {"b": 1, "c": 2}


def test_edges_whose_condition_errs_or_is_false_end_the_path() -> None:
    workflow = flow(task("a", "b?output.missing == 1", "c?output.k > 1"), task("b"), task("c"))
    result = run(workflow, {}, says(a=lambda i: {"k": 1}), orders.first)
    assert (traced(result), result.output) == ("a:0", {"k": 1})
    assert dict(result.condition_errors) == {("a", 0): 1}


# Failure


@pytest.mark.parametrize(("max_attempts", "status", "attempts"), [(3, "COMPLETED", 3), (2, "FAILED", 2)])
def test_a_retriable_failure_is_tried_again(max_attempts: int, status: str, attempts: int) -> None:
    def third_time(node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
        return Completed("late") if attempt == 3 else Failed("connection", "no", retryable=True)

    workflow = flow(task("a", retry={"max_attempts": max_attempts}))
    result = run(workflow, {}, third_time, orders.first)
    assert (result.status, result.trace[0].attempts) == (status, attempts)
    error = {"class": "connection", "message": "no", "attempts": 2, "node": "a"}
    assert result.error == (error if status == "FAILED" else None)


def test_a_branch_without_a_way_fails_the_run() -> None:
    result = run(flow(branch("b", "input.missing", ["c"]), task("c")), {}, says(), orders.first)
    assert (result.status, result.failures) == ("FAILED", {("b", "no_branch")})


def test_after_a_failure_nothing_more_happens_and_judge_says_what_could_have() -> None:
    workflow = flow(task("a", "b", "c"), task("b"), task("c", "d"), task("d"))
    fails = says(b=lambda i: Failed("x"), d=lambda i: Failed("y"))
    assert traced(run(workflow, {}, fails, orders.first)) == "a:0 b:0"
    judged = judge(workflow, {}, fails)
    assert judged.failures == {("b", "x"), ("d", "y")}
    assert traced(judged) == "a:0 b:0 c:0 d:0"
