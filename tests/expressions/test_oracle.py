"""The same generated expressions on the same data, here and in the official C++ engine: the same, or both in error."""

from __future__ import annotations

import datetime
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext.ext_strings import ExtStrings
from hypothesis import given, settings

from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression
from schemas.expressions.values import BoolKey, Duration, Timestamp, TypeName, Uint
from tests.expressions.generated import DATA, expressions

ENGINE = cel.NewEnv(variables={"input": cel.Type.DYN}, extensions=[ExtStrings()])
TYPES = {bool: "BOOL", int: "INT", Uint: "UINT", float: "DOUBLE", str: "STRING", bytes: "BYTES"}
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)


def agrees(mine: Any, theirs: Any) -> bool:
    """Whether the engine's value is this one, types included."""
    plain, name = theirs.value(), theirs.type().name()
    match mine:
        case None:
            return name == "NULL"
        case list():
            return isinstance(plain, list) and len(mine) == len(plain) and all(map(agrees, mine, plain))
        case dict():
            # The binding makes a Python dict of the engine's map, in which 1, 1u and true are one key.
            keys = {key.value if isinstance(key, BoolKey) else key: value for key, value in mine.items()}
            if len(keys) < len(mine):
                return isinstance(plain, dict)
            return keys.keys() == plain.keys() and all(agrees(keys[key], plain[key]) for key in keys)
        case Timestamp():
            return name == "TIMESTAMP" and abs((plain - EPOCH) // MICROSECOND - mine.ns // 1000) <= 1
        case Duration():
            return name == "DURATION" and abs(plain // MICROSECOND - mine.ns // 1000) <= 1
        case TypeName():
            return name == "TYPE"
    return name == TYPES[type(mine)] and (mine == plain or (mine != mine and plain != plain))


def compare(text: str, data: dict[str, Any]) -> None:
    theirs = ENGINE.compile(text, disable_check=True).eval(data={"input": data})
    failed = theirs.type().name() in ("ERROR", "UNKNOWN")
    try:
        mine = Expression(text, frozenset({"input"})).value({"input": data})
    except ExpressionError as refused:  # sooner than the engine, which finds `int.a` when it comes to it
        assert failed or refused.code == "unknown-variable", f"{text}: {refused}"
    except EvaluationError as error:
        assert failed, f"{text}: {error} here, {theirs.plain_value()!r} there"
    else:
        assert not failed, f"{text}: {mine!r} here, {theirs.plain_value()} there"
        assert agrees(mine, theirs), f"{text}: {mine!r} here, {theirs.plain_value()!r} there"


@settings(max_examples=250, deadline=None)
@given(expressions(), DATA)
def test_the_official_engine_agrees(text: str, data: dict[str, Any]) -> None:
    compare(text, data)
