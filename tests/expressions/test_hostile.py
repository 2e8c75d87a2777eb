"""Expressions that want to hang, crash or bloat a process: refused when submitted, or stopped by their budget.

What is asserted is the error and what was spent; the deadline is so generous that only a real hang misses it.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.expressions.budget import SIZE, STEPS, Budget, BudgetExceededError
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression, parse_expression
from schemas.expressions.functions import GLOBALS, METHODS
from schemas.expressions.parser import MAX_DEPTH
from schemas.expressions.template import parse_template
from schemas.limits import LIMITS

DEADLINE_S = 60.0  # a hang, and no slow machine: what bounds the work is counted in steps and sizes
TEN = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]"
DATA: dict[str, Any] = {
    "input": {
        "many": list(range(1_000_000)),
        "some": list(range(1000)),
        "text": "ab" * 2_000_000,
        "same": "ab" * 2_000_000 + "c",
        "names": [f"x{n}" for n in range(20_000)],
        "patterns": ["\\pL{500}" + str(n) for n in range(20_000)],
        "random": "".join("abx"[n * n % 7 % 3] for n in range(200_000)),
    },
    "output": {"left": ["x" * 1000] * 8000, "right": ["x" * 1000] * 7999 + [1]},
}


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < DEADLINE_S


def nested(depth: int) -> str:
    text = "x0"
    for level in range(depth):
        text = f"{TEN}.map(x{level}, {text})"
    return text


SPENDTHRIFTS = [
    nested(6),
    nested(8),
    "input.many.map(x, x + 1)",
    "input.many.filter(x, x > 5)",
    "input.many.exists(x, x == 0)",
    "input.some.all(x, input.some.all(y, input.some.all(z, true)))",
    "input.some.map(x, input.text)",
    "input.some.map(x, input.text + 'a')",
    "input.some.map(x, input.many + [x])",
    "input.some.map(x, [input, input, input])",
    "input.some.all(x, output.left == output.right || true)",
    "input.some.all(x, input.text < input.same)",
    "input.some.all(x, !(-1 in input.many))",
    "input.some.all(x, !input.text.contains('zz'))",
    "input.some.map(x, input.text.replace('a', 'bbbbbbbb'))",
    "input.some.map(x, input.text.split('a'))",
    "input.text.split('')",
    "input.some.map(x, input.names.join(','))",
    "input.patterns.exists(x, 'a'.matches(x))",
    "input.some.all(x, !input.random.matches('[ab]*a[abx]{40}z'))",
    "input.random.matches('((a{0,30}){0,30})z')",
    "input.names.exists(x, timestamp(0).getHours('Nowhere/' + x) == 1)",
    "input.many.map(x, duration('1h1m1s1ms1us1ns'))",
    "input.many.all(x, 1 / 0 > 0)",
    "['a']" + ".map(a, a + a + a + a)" * 14,
    "['a']" + ".map(a, [a, a])" * 30,
]


@pytest.mark.parametrize("text", SPENDTHRIFTS, ids=lambda text: text[:60])
def test_the_budget_ends_it(text: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        parse_expression(text).evaluate(DATA)
    assert caught.value.code == "budget"


@pytest.mark.parametrize(
    "text",
    [
        "{} || true",
        "!({} && false)",
        "[1].exists(x, {} || true)",
        "![1].all(x, {} && false)",
        "[1, 2].exists(x, x == 2 || {})",
        "({} ? true : false) || true",
        "[{}].size() > 0 || true",
        "has({{'a': {}}}.a) || true",
    ],
)
def test_nothing_masks_the_budget(text: str) -> None:
    spender = "input.some.all(x, input.some.all(y, input.some.all(z, true)))"
    with pytest.raises(EvaluationError) as caught:
        parse_expression(text.replace("{{", "{").replace("}}", "}").replace("{}", spender)).holds(DATA)
    assert caught.value.code == "budget"


def test_a_budget_is_spent_exactly() -> None:
    budget = Budget(steps=3, size=3)
    budget.spend(3)
    budget.allocate(3)
    for charge in (budget.spend, budget.allocate):
        with pytest.raises(BudgetExceededError):
            charge(1)


def test_what_is_spent_depends_on_the_sizes_alone() -> None:
    """The same cost for the same shape, whatever the order and outcome: an expression does not fail by chance."""

    def spent(items: list[int]) -> tuple[int, int]:
        budget = Budget()
        Expression("input.exists(x, x == 3) || input.all(x, x > 5)").value({"input": items}, budget)
        return STEPS - budget.steps, SIZE - budget.size

    assert spent([0] * 50 + [4]) == spent([4] + [0] * 50) == spent([9] * 51)


def test_ordinary_work_on_a_large_input_fits() -> None:
    items = [{"score": n % 100, "name": f"item {n}"} for n in range(100_000)]
    assert len(parse_expression("input.filter(i, i.score > 89)").evaluate({"input": items})) == 10_000
    assert len(parse_expression("input.map(i, i.name)").evaluate({"input": items[:50_000]})) == 50_000
    text = "word " * 100_000
    found = parse_expression("input.contains('nothing') || input.matches('(?i)needle|nadel')")
    assert found.evaluate({"input": text}) is False


def test_the_memory_of_an_evaluation_is_bounded() -> None:
    DATA["input"]["umlauts"] = "ü" * 4_000_000
    expressions = [Expression(text) for text in (*SPENDTHRIFTS, "input.umlauts.lowerAscii() + 'x'")]
    tracemalloc.start()
    try:
        for expression in expressions[6:16] + expressions[-3:]:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            with pytest.raises(EvaluationError):
                expression.evaluate(DATA)
            assert tracemalloc.get_traced_memory()[1] - before < 50_000_000, expression.text
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x" * (LIMITS.expression_bytes + 1), "too-long"),
        ("ü" * LIMITS.expression_bytes, "too-long"),
        ("1+" * 1000 + "1", "too-long"),
        ("-" * 3000 + "1", "too-long"),
        ("(" * 4000, "too-deep"),
        ("[" * 4000, "too-deep"),
        ("{1:" * 1300, "too-deep"),
        ("input.a(" * 500, "too-deep"),
        ("!" * 1000 + "true", "too-deep"),
        ("1 ? " * 300 + "1" + " : 1" * 300, "syntax"),
        ("1 ? 1 : " * 300 + "1", "too-deep"),
        ("1+" * 700 + "1", "too-deep"),
        ("input" + ".a" * 500, "too-deep"),
        ('"' + "\\\\" * 2000, "syntax"),
        ('"' + "\\101" * 1000, "syntax"),
        ("'''" + '"' * 4000, "syntax"),
        ("/" * 4000, "syntax"),
        ("'a'.matches('" + "(a*)*" * 300 + "')", "bad-pattern"),
        ("'a'.matches('((a{100}){100}){100}')", "bad-pattern"),
        ("9" * 4000, "syntax"),
        ("1e" + "9" * 4000, "syntax"),
    ],
    ids=lambda value: value[:20],
)
def test_refused_when_submitted(text: str, code: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert caught.value.code == code
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("duration('" + "1.1h" * 900 + "x')", "bad-conversion"),
        ("duration('" + "1" * 4000 + "s')", "bad-conversion"),
        ("duration(input.text)", "bad-conversion"),
        ("timestamp(input.text)", "bad-conversion"),
        ("int(input.text)", "bad-conversion"),
        ("double('" + "1" * 4000 + "')", "bad-conversion"),
        ("timestamp(9223372036854775807)", "out-of-range"),
        ("timestamp(0).getHours('" + "A/" * 2000 + "')", "bad-conversion"),
    ],
    ids=lambda value: value[:30],
)
def test_conversions_of_hostile_text_end_at_once(text: str, code: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        parse_expression(text).evaluate(DATA)
    assert caught.value.code == code


def test_integers_beyond_64_bits_in_the_data_are_only_errors() -> None:
    data = {"input": 10**4000, "output": -(10**400)}
    assert parse_expression("input > output && input > 1.5 && output < 2 && input == input").evaluate(data)
    for text in ("input + 1", "input * input", "-input", "int(input)", "double(input)", "string(input)", "uint(input)"):
        with pytest.raises(EvaluationError) as caught:
            parse_expression(text).evaluate(data)
        assert caught.value.code == "overflow"


def test_data_nested_too_deep_are_an_error() -> None:
    deep: Any = 1
    other: Any = 1
    for _ in range(20_000):
        deep, other = [deep], [other]
    with pytest.raises(EvaluationError) as caught:
        parse_expression("input == output").evaluate({"input": deep, "output": other})
    assert caught.value.code == "too-deep"
    with pytest.raises(EvaluationError) as caught:
        parse_expression("[input]").evaluate({"input": deep})
    assert caught.value.code == "too-deep"


def test_the_deepest_expression_evaluates() -> None:
    assert parse_expression("!" * (MAX_DEPTH - 2) + "true").evaluate({}) is True
    assert parse_expression("true && " * 500 + "true").evaluate({}) is True


def test_the_expressions_of_a_template_share_one_budget() -> None:
    expensive = "{{ input.some.all(x, input.some.all(y, y < x || true)) }}"
    template = parse_template("{{ input.some.size() }} " + expensive * 50)
    with pytest.raises(ValueError, match="too many steps"):
        template.render({"input": {"some": list(range(150))}})
    with pytest.raises(ExpressionError):
        parse_template("{{ " + "[" * 1_000_000)


BIG: dict[str, Any] = {
    "list": list(range(60_000)),
    "texts": [f"{n}s" for n in range(40_000)],
    "maps": [{"a": n, "b": [n, "x"]} for n in range(30_000)],
    "deep": [[[[n] * 8] * 8] * 8 for n in range(200)],
    "text": "ab1.5s" * 300_000,
    "wide": "ü🐱" * 300_000,
    "floats": [n * 1.1 for n in range(50_000)],
    "times": ["2024-02-29T23:59:59.5+01:00"] * 20_000,
    "map": {f"k{n}": [n] for n in range(30_000)},
}
THINGS = st.one_of(
    st.sampled_from([f"input.{name}" for name in BIG]),
    st.sampled_from(
        ["x", "y", "x.a", "x[0]", "0", "7", "1.5", "''", "'a'", "'ab1'", "'(a*)*b'", "'([ab]{0,30}){0,30}'", "1u"]
    ),
    st.sampled_from(
        ["duration('1h1m1s1ms1us1ns')", "timestamp(0)", "b'a'", "null", "'Nowhere/' + string(x)", "[]", "input"]
    ),
)
MACROS = ("all", "exists", "exists_one", "filter", "map")
OPERATORS = ("+", "+", "-", "*", "/", "%", "==", "<", ">=", "in", "&&", "||", "||")
SHAPES = [
    *(f"{name}({{}})" for name in GLOBALS if name != "matches"),
    *(f"({{}}).{name}({', '.join(['{}'] * count)})" for name, known in METHODS.items() for count in known.counts),
    *(f"({{}}).{macro}({name}, {{}})" for macro in MACROS for name in "xy"),
    *("({}).map(x, {}, {})", "[{}, {}]", "{{'a': {}, 'b': {}}}", "{{{}: {}}}", "({})[{}]"),
    *("has(({}).a)", "({}) ? {} : {}"),
    *(f"({{}}) {operator} ({{}})" for operator in OPERATORS),
]
AROUND = ["{}", "({}) || true", "[1].map(z, {})", "input.list.map(x, {})", "[1, 2].all(x, {})"]


def wrapped(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.sampled_from(SHAPES).flatmap(
        lambda shape: st.tuples(*[parts] * shape.replace("{{", "").count("{}")).map(lambda inner: shape.format(*inner))
    )


HOSTILE = st.recursive(THINGS, wrapped, max_leaves=10)


@settings(max_examples=150, deadline=None)
@given(HOSTILE, st.sampled_from(AROUND))
def test_random_hostile_shapes_are_bounded(text: str, around: str) -> None:
    """Each ends with a value or an error, within 50 MB, and what spends the budget is never absorbed."""
    names = frozenset({"input", "x", "y"})
    try:
        expression = Expression(around.format(text), names)
    except ExpressionError:
        return
    variables = {"input": BIG, "x": BIG["maps"][1], "y": "k7"}
    tracemalloc.start()
    budget = Budget()
    try:
        expression.evaluate_within(budget, variables)
    except EvaluationError as error:
        assert (error.code == "budget") >= (min(budget.steps, budget.size) < 0)
    else:
        assert min(budget.steps, budget.size) >= 0
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 50_000_000
