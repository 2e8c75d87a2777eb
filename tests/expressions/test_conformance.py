"""The CEL specification's own cases for the core language, and for the string extensions that we have."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.expression import Expression
from schemas.expressions.temporal import parse_duration, parse_timestamp
from schemas.expressions.values import TypeName, Uint, map_key

CASES = json.loads((Path(__file__).parent / "cases.json").read_text())["cases"]
ROUTING = (
    *("basic", "comparisons", "logic", "fields", "lists", "macros", "string", "integer_math", "fp_math"),
    *("conversions", "timestamps"),
)
"""The files of the core language that conditions stand on."""
EXCEPTIONS = frozenset(
    {
        *("unbound_is_runtime_error", "qualified_ident", "map_field_select"),
        *("qualified_identifier_resolution_unchecked", "ident_with_longest_prefix_check"),
    }
)
"""Each is named in docs/expressions.md, with its reason."""


def value_of(typed: dict[str, Any]) -> Any:
    """A case's typed value as an expression holds it."""
    kind, value = typed["t"], typed["v"]
    match kind:
        case "int" | "uint" | "double" | "type":
            return {"int": int, "uint": Uint, "double": float, "type": TypeName}[kind](value)
        case "bytes":
            return base64.b64decode(value)
        case "list":
            return [value_of(item) for item in value]
        case "map":
            return {map_key(value_of(key)): value_of(item) for key, item in value}
        case "timestamp":
            return parse_timestamp(value)
        case "duration":
            return parse_duration(value)
    return value


def identical(one: Any, other: Any) -> bool:
    """Equal and of the same types throughout; NaN is identical to NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(identical, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    return one == other or (one != one and other != other)


def passes(case: dict[str, Any]) -> bool:
    bindings = {name: value_of(typed) for name, typed in case.get("bindings", {}).items()}
    try:
        result = Expression(case["expr"], frozenset(bindings)).value(bindings)
    except (EvaluationError, ExpressionError):
        return "expect" not in case
    return "expect" in case and identical(result, value_of(case["expect"]))


def test_the_cases_are_there() -> None:
    routing = [case for case in CASES if case["file"] in ROUTING]
    assert len(routing) > 870
    exceptions = [case for case in routing if case["name"] in EXCEPTIONS]
    assert len(exceptions) < 0.01 * len(routing)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['file']}-{case['section']}-{case['name']}")
def test_case(case: dict[str, Any]) -> None:
    assert passes(case) is (case["name"] not in EXCEPTIONS)


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_exceptions_are_documented(name: str) -> None:
    assert f"`{name}`" in (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
