"""The same generated expressions on the same data, here and in the official C++ engine: the same, or both in error."""

from __future__ import annotations

from typing import Any

from cel_expr_python import cel
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression
from schemas.expressions.values import Uint

ENGINE = cel.NewEnv(variables={"input": cel.Type.DYN})

TEXTS = st.sampled_from(["", "a", "b", "ab", "Ab", "banana", "ÿ", "🐱", "1", "-7", "true", "1.5", "a.b"])
INTS = st.sampled_from([0, 1, 2, -1, 3, 7, -5, 100, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
DOUBLES = st.sampled_from([0.0, -0.0, 1.0, 1.5, -2.5, 79.5, 1e18, 2.0**53, 1e300, float("inf"), float("nan")])
SCALARS = st.one_of(INTS, DOUBLES, TEXTS, st.booleans(), st.none())
DATA = st.fixed_dictionaries(
    {
        "i": INTS,
        "j": INTS,
        "d": DOUBLES,
        "s": TEXTS,
        "t": TEXTS,
        "b": st.booleans(),
        "n": st.none(),
        "list": st.lists(SCALARS, max_size=4),
        "ints": st.lists(INTS, max_size=4),
        "map": st.dictionaries(st.sampled_from(["a", "b", "c"]), SCALARS, max_size=3),
    }
)


def literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower() if value is not None else "null"
    if isinstance(value, float):
        return repr(value) if abs(value) < 1e301 else "(1.0 / 0.0)" if value > 0 else "(0.0 / 0.0)"
    if isinstance(value, int):
        return str(value) if value >= 0 else f"({value})"
    return '"' + value + '"'


LEAVES = st.one_of(
    st.sampled_from([f"input.{name}" for name in ("i", "j", "d", "s", "t", "b", "n", "list", "ints", "map")]),
    st.sampled_from(["input.map.a", "input.nope", "has(input.map.a)", "has(input.i)", "1u", "0u", "7u", "[]", "{}"]),
    st.sampled_from(["duration('90s')", "timestamp(90)", "timestamp('2009-02-13T23:31:30Z')", "b'a'", "int", "x"]),
    SCALARS.map(literal),
)


def grow(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    binary = st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||", "&&", "||"])
    unary = st.sampled_from(["!({})", "-({})", "({}).size()", "size({})", "type({})", "dyn({})", "has(({}).a)"])
    converted = st.sampled_from(["int({})", "uint({})", "double({})", "bool({})", "bytes({})", "string(int({}))"])
    part = st.sampled_from(["({}).getHours()", "({}).getFullYear()", "({}).getDayOfYear('+02:00')", "({}).a"])
    pairs = st.sampled_from(
        [
            "({}).contains({})",
            "({}).startsWith({})",
            "({}).endsWith({})",
            "({})[{}]",
            "[{}, {}]",
            '{{"a": {}, "b": {}}}',
            "({}).exists(x, {})",
            "({}).all(x, {})",
            "({}).exists_one(x, {})",
            "({}).filter(x, {})",
            "({}).map(x, {})",
        ]
    )
    return st.one_of(
        st.tuples(parts, binary, parts).map(lambda term: f"({term[0]}) {term[1]} ({term[2]})"),
        st.tuples(st.one_of(unary, converted, part), parts).map(lambda term: term[0].format(term[1])),
        st.tuples(pairs, parts, parts).map(lambda term: term[0].format(*term[1:])),
        st.tuples(parts, parts, parts).map(lambda term: f"({term[0]}) ? ({term[1]}) : ({term[2]})"),
    )


EXPRESSIONS = st.recursive(LEAVES, grow, max_leaves=8)
TYPES = {bool: "BOOL", int: "INT", Uint: "UINT", float: "DOUBLE", str: "STRING", bytes: "BYTES"}


def ours(text: str, data: Any) -> Any:
    return Expression(text, frozenset({"input", "x"})).value({"input": data})


def agrees(mine: Any, theirs: Any) -> bool:
    """Whether the engine's value is this one, types included."""
    plain = theirs.value()
    if mine is None:
        return theirs.type().name() == "NULL"
    if isinstance(mine, list):
        return isinstance(plain, list) and len(mine) == len(plain) and all(map(agrees, mine, plain))
    if isinstance(mine, dict):
        return (
            isinstance(plain, dict)
            and mine.keys() == plain.keys()
            and all(agrees(mine[key], plain[key]) for key in mine)
        )
    name = TYPES.get(type(mine))
    if name is None:  # timestamps, durations and types: the engine's name says enough here
        return theirs.type().name() in ("TIMESTAMP", "DURATION", "TYPE")
    return theirs.type().name() == name and (mine == plain or (mine != mine and plain != plain))


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, DATA)
def test_the_official_engine_agrees(text: str, data: dict[str, Any]) -> None:
    theirs = ENGINE.compile(text, disable_check=True).eval(data={"input": data})
    failed = theirs.type().name() == "ERROR"
    try:
        mine = ours(text, data)
    except (EvaluationError, ExpressionError) as error:
        assert failed, f"{text}: {error} here, {theirs.plain_value()!r} there"
    else:
        assert not failed, f"{text}: {mine!r} here, {theirs.plain_value()} there"
        assert agrees(mine, theirs), f"{text}: {mine!r} here, {theirs.plain_value()!r} there"
