"""What holds over random workflows, as the reference has routing.md; and the reference's own parts."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import generator, orders
from tests.reference.comparison import ProductResult, compare
from tests.reference.expressions import ExpressionError, condition, evaluate
from tests.reference.graph import Graph, every_node, refused
from tests.reference.interpreter import Result, judge, run


def as_product(result: Result) -> ProductResult:
    """A run of the reference in one order, looked at as if the product had made it."""
    error = result.error or {}
    return ProductResult(
        status=result.status,
        executions=result.trace,
        outputs=result.outputs,
        output=result.output,
        error_node=error.get("node"),
        error_class=error.get("class"),
        loop_counts=result.loop_counts,
        condition_errors=dict(result.condition_errors),
    )


def check_every_order(case: generator.Case, seed: int) -> Result:
    judged = judge(case.workflow, case.input, case.outcome_of)
    for choose in orders.many(seed, count=8):
        assert compare(judged, as_product(run(case.workflow, case.input, case.outcome_of, choose))) == []
    return judged


@given(generator.cases(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_no_order_of_completions_shows(case: generator.Case, seed: int) -> None:
    check_every_order(case, seed)


def test_no_order_of_completions_shows_in_hundreds_that_use_every_construct() -> None:
    seen: set[str] = set()
    for seed in range(250):
        case = generator.case(random.Random(seed))
        graph = Graph(case.workflow)
        judged = check_every_order(case, seed)
        seen |= {judged.status, *(graph.type(one.node) for one in judged.trace)}
        seen |= {form for form, _ in graph.cores.values()}
        seen |= {"nested"} if any(graph.inner.values()) else set()
        seen |= {"any"} if any(graph.is_any(one.node) for one in judged.trace) else set()
        seen |= {"on_error"} if any('"error": {' in one.output for one in judged.trace) else set()
        seen |= {"retried"} if any(one.attempts > 1 for one in judged.trace) else set()
    assert {"function", "transform", "join", "branch", "loop", "COMPLETED", "FAILED"} <= seen
    assert {"do-while", "while", "other", "nested", "any", "on_error", "retried"} <= seen


def test_no_order_of_completions_shows_in_hundreds_with_maps() -> None:
    seen: set[str] = set()
    for seed in range(150):
        case = generator.whole_case(random.Random(seed), mortal=0.1)
        judged = check_every_order(case, seed)
        types = {node["id"]: node["type"] for node in every_node(case.workflow)}
        seen |= {judged.status, *(types[one.node] for one in judged.trace)}
        for one in judged.trace:
            seen |= {f"level {one.path.count('-')}", *re.findall(r'^{"error": "(\w+)"}', one.result)}
            seen |= {"collected"} if types[one.node] == "map" and '"error": {' in one.result else set()
        seen |= {"cut"} if judged.extra else set()
    assert {"map", "human", "wait", "workflow", "http", "sql", "COMPLETED", "FAILED"} <= seen
    assert {"level 0", "level 1", "level 2", "collected", "cut"} <= seen
    assert {"item", "invalid_input", "deadline", "rejected", "child_failed", "expression"} <= seen


def test_a_run_that_is_retried_ends_as_if_it_had_not_failed() -> None:
    mended = 0
    for seed in range(150):
        case = generator.whole_case(random.Random(seed), mortal=0.3)
        retried = judge(case.workflow, case.input, case.outcome_of, case.outcome_of.value)
        if judge(case.workflow, case.input, case.outcome_of).status == "FAILED" and retried.status == "COMPLETED":
            mended += 1
    assert mended > 20


@given(generator.cases())
@settings(max_examples=40, deadline=None)
def test_generated_workflows_are_accepted(case: generator.Case) -> None:
    assert refused(case.workflow) == []
    assert 3 <= len(case.workflow["nodes"]) <= generator.MAX_NODES


@pytest.mark.parametrize(
    "change",
    [
        {"status": "FAILED"},
        {"executions": "twice"},
        {"executions": "none"},
        {"output": None},
        {"outputs": {}},
        {"loop_counts": {"n0": 9}},
        {"condition_errors": {("n0", 9): 1}},
    ],
    ids=str,
)
def test_compare_sees_a_difference(change: dict[str, object]) -> None:
    case = generator.case(random.Random(0))
    judged = judge(case.workflow, case.input, case.outcome_of)
    product = as_product(judged)
    assert compare(judged, product) == []
    executions = {"twice": judged.trace * 2, "none": []}.get(str(change.get("executions")))
    change |= {} if executions is None else {"executions": executions}
    assert compare(judged, ProductResult(**(vars(product) | change)))


def test_expressions() -> None:
    names = {"output": {"k": 2, "ok": True, "s": "x"}, "iteration": 1, "ctx": {"a": {"output": {"k": 2}}}}
    hold = ["output.k == 2", "output.k<3", "output.ok", "ctx.a.output.k == output.k", "has(output.k)"]
    hold += ["output.s == 'x'", "output.ok != 1", "output.ok == true", "iteration < 2"]
    assert all(condition(text, names) for text in hold)
    assert not condition("has(output.j)", names) and not condition("!output.ok", names)
    assert evaluate("iteration + 1", names) == 2


@pytest.mark.parametrize("text", ["output.j == 1", "ctx.b.output.k == 1", "output.k", "output.k < 'x'", "output.k.t"])
def test_expressions_without_a_value(text: str) -> None:
    with pytest.raises(ExpressionError):
        condition(text, {"output": {"k": 2}, "ctx": {}})
