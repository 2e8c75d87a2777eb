"""What an expression promises beyond the language: its errors, its JSON, its speed, its use from many threads."""

from __future__ import annotations

import json
import timeit
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import VARIABLES, Expression, parse_expression

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def evaluate(text: str, **variables: Any) -> Any:
    return parse_expression(text).evaluate(variables)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("80 >= 79.5", True),
        ("output.score >= 79.5", True),
        ("output.score == 80.0", True),
        ("output.score + 0", 80),
        ("output['score'] in [1, 80]", True),
        ("output.verdict in ['good', 'fair']", True),
        ("output.tags.exists(t, t == 'b') && !output.tags.all(t, t == 'b')", True),
        ("output.tags.map(t, t.upperAscii()).join('-')", "A-B"),
        ("output.none == null", True),
        ("ctx.extract.output.summary.size()", 5),
        ("has(ctx.other) || has(ctx.other.output) || has(ctx.other.output.a.b)", False),
        ("has(ctx.extract) && has(ctx.extract.output)", True),
        ("has(ctx.other.output) ? ctx.other.output.x : 'none'", "none"),
        ("ctx.other.output.x == 1 || output.score == 80", True),
        ("[3].map(output, output + .output.score)", [83]),
        ("output.`two words`", 2),
        ("{true: 1, 1: 2}[true]", 1),
        ("timestamp('9999-12-31T23:30:00Z').getFullYear('+01:00')", 10_000),
        ("timestamp('9999-12-31T23:30:00Z').getDayOfWeek('+01:00')", 6),
        ("timestamp('0001-01-01T00:00:00Z').getFullYear('-01:00')", 0),
        ("timestamp('0001-01-01T00:00:00Z').getDayOfYear('-01:00')", 365),
        ("duration('0.5ns0.5ns') == duration('1ns')", True),
        ("''.split('')", [""]),
        ("size({true: 1, 1: 2})", 2),
        ("{'b': b'ab', 't': timestamp(0), 'd': duration('1m30.5s'), 'u': 7u}", None),
        ("string(1234567.0) + ' ' + string(0.1) + ' ' + string(1e21) + ' ' + string(1e20)", None),
    ],
)
def test_values(text: str, value: Any) -> None:
    variables = {
        "output": {"score": 80, "verdict": "good", "tags": ["a", "b"], "none": None, "two words": 2},
        "ctx": {"extract": {"output": {"summary": "short"}}},
    }
    special = {
        "{'b'": {"b": "YWI=", "t": "1970-01-01T00:00:00Z", "d": "90.500s", "u": 7},
        "strin": "1234567 0.1 1e+21 100000000000000000000",
    }
    assert evaluate(text, **variables) == (special[text[:5].rstrip(":")] if value is None else value)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("output.nope", "no-such-field"),
        ("ctx.other.output", "no-such-field"),
        ("item", "no-such-variable"),
        ("output.score.deeper", "no-such-overload"),
        ("output.score + 0.5", "no-such-overload"),
        ("output.score / 0", "division-by-zero"),
        ("9223372036854775807 + 1", "overflow"),
        ("[1][1]", "index-out-of-range"),
        ("int('x')", "bad-conversion"),
        ("timestamp('2024-02-30T00:00:00Z')", "bad-conversion"),
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "out-of-range"),
        ("timestamp(0).getHours('../../etc/passwd')", "bad-conversion"),
        ("'a'.matches('(' + 'a')", "bad-pattern"),
        ("{'a': 1, 'a': 2}", "duplicate-key"),
        ("1.0 / 0.0", "not-json"),
        ("[type(1)]", "not-json"),
        ("type(output.alien)", "not-json"),
    ],
)
def test_errors_have_codes_and_name_their_expression(text: str, code: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        evaluate(text, output={"score": 80, "alien": object()}, ctx={})
    assert caught.value.code == code
    assert caught.value.expression == text


def test_an_error_says_where_a_path_ends_and_shows_no_value() -> None:
    data = {"extract": {"output": {"secret": "s3cr3t"}}}
    with pytest.raises(EvaluationError, match=r"ctx\.extract\.output has no field 'sumary'") as caught:
        evaluate("ctx.extract.output.sumary", ctx=data)
    for text in ("ctx.extract.output.secret + 1", "int(ctx.extract.output.secret)", "ctx[ctx.extract.output.secret]"):
        with pytest.raises(EvaluationError) as caught:
            evaluate(text, ctx=data)
        assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "code", "position"),
    [
        ("", "syntax", 0),
        ("output.score >=", "syntax", 15),
        ("output.score => 80", "syntax", 13),
        ("output.score == 'open", "syntax", 16),
        ("(1 + 2", "syntax", 6),
        ("1 + 2)", "syntax", 5),
        ("a.b", "unknown-variable", 0),
        ("output.score > limit", "unknown-variable", 15),
        ("output.list.all(x, y)", "unknown-variable", 19),
        ("len(output)", "unknown-function", 0),
        ("contains(output.a, 'b')", "unknown-function", 0),
        ("output.a.contains()", "wrong-arguments", 0),
        ("output.a.matches('(')", "bad-pattern", 17),
        ("Message{a: 1}", "unsupported", 0),
        ("has(output)", "syntax", 0),
        ("output.in", "syntax", 7),
        ("'\\q'", "syntax", 0),
        ("'' 'a'", "syntax", 3),
        ("''" + '"a"' + "''", "syntax", 2),
        ("1inr'a'", "syntax", 0),
        ("1 inside", "syntax", 2),
        ("null inb'a'", "syntax", 5),
        ("9223372036854775808", "syntax", 0),
        ("output.a == '\ud800'", "syntax", 13),
    ],
)
def test_what_is_refused_at_submission(text: str, code: str, position: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert (caught.value.code, caught.value.position) == (code, position)


def test_a_condition_gives_a_bool() -> None:
    condition = parse_expression("output.score")
    assert parse_expression("output.score == 1").holds({"output": {"score": 1}}) is True
    for value in (1, 0, None, "true", [], {}):
        with pytest.raises(EvaluationError) as caught:
            condition.holds({"output": {"score": value}})
        assert caught.value.code == "not-a-bool"


def test_expressions_are_equal_by_text_and_parsed_once() -> None:
    assert Expression("1 + 1") == Expression("1 + 1") != Expression("1+1")
    assert len({Expression("1 + 1"), Expression("1 + 1")}) == 1
    assert parse_expression("output.a") is parse_expression("output.a")


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("1 / 3", True),
        ("4 / 2 == 2", False),
        ("output.hits / size(output.all) > 0.5", True),
        ("output.hits / 100 * 100", True),
        ("double(output.hits) / 100.0 > 0.5", False),
        ("output.score / 2.0 > 0.5", False),
        ("output.count / 2 == 3", False),
    ],
)
def test_integer_division_that_loses_a_fraction_is_warned_about(text: str, warned: bool) -> None:
    assert bool(parse_expression(text).warnings) is warned


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        [
            "output.a.b[0] == input || size(output) > index",
            "output.map(x, x + input).size() + index",
            "input < output || input == output || input in output",
            "string(input) + string(output)",
            "[input, output, {'x': input}, output]",
            "int(input) + int(output) / index",
            "output.all(x, x == input) ? output[index] : input[index]",
            "timestamp(input) - duration(output)",
            "input.split(output).join(input)",
            "output.replace(input, input).lowerAscii().trim().substring(index)",
            "double(input) * double(output) - double(index)",
            "timestamp(input).getFullYear(output) % index",
            "input.matches(output)",
            "-input == -output && !index",
        ]
    ),
    JSON,
    JSON,
    JSON,
)
def test_any_json_gives_json_or_an_evaluation_error(text: str, one: Any, two: Any, three: Any) -> None:
    try:
        value = parse_expression(text).evaluate({"input": one, "output": two, "index": three})
    except EvaluationError as error:
        assert error.code and error.message and len(error.message) < 200
    else:
        json.dumps(value)


WORDS = r"""input output .a [ 0 ] ( ) { } 'x' "y" ' " r'\' : , ? && || ! - + * == in has( .map(x, .size()
    1u 1.5 null b'\xff' `a` .`a` // inb . 0x1F as int x ''' \ é"""
TOKENS = st.sampled_from(WORDS.split())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TOKENS, max_size=12).map("".join)
    | st.text(alphabet="ab.()[]{}\"'\\,?:|&!=<>+-*/% 019urx\n`input", max_size=60)
)
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        assert error.position is None or 0 <= error.position <= len(text)
    else:
        assert expression.references.variables <= set(VARIABLES)


def test_threads_share_an_expression() -> None:
    text = "input.items.filter(i, i % output.n == 0).map(i, [i, i * 2]).size() + input.items.map(x, x).size()"
    expression = parse_expression(text)

    def many(n: int) -> set[int]:
        variables = {"input": {"items": list(range(60))}, "output": {"n": n}}
        return {expression.evaluate(variables) for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        for n, values in enumerate(pool.map(many, range(1, 9)), start=1):
            assert values == {len(range(0, 60, n)) + 60}


def test_threads_parse_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda n: Expression(f"{n} + {n}").evaluate({}), range(64)))
    assert values == [2 * n for n in range(64)]


@pytest.mark.parametrize("kilobytes", [1, 50])
def test_a_condition_takes_a_few_microseconds_whatever_the_context(kilobytes: int) -> None:
    variables = {
        "output": {"score": 85, "text": "x" * 1024 * kilobytes},
        "ctx": {"enrich": {"output": {"revenue": 200_000, "rows": [{"n": n} for n in range(kilobytes * 20)]}}},
    }
    condition = parse_expression("output.score >= 80 && ctx.enrich.output.revenue > 100000")
    best = min(timeit.repeat(lambda: condition.holds(variables), number=2000, repeat=5)) / 2000
    assert best < 5e-6
