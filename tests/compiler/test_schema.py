"""JSON Schemas inside a workflow: which are accepted, and that checking against them always ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.compiler.finding import Verdict, find_in_schema
from schemas.compiler.json_schema import schema_problems, schema_validator
from tests.compiler.documents import closed

REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ([], ""),
    "a wrong type": ({"properties": {"a": {"type": "text"}}}, "/properties/a/type"),
    "a remote reference": ({"$ref": "https://example.com/schema"}, "/$ref"),
    "a file": ({"items": {"$ref": "other.json#/x"}}, "/items/$ref"),
    "a reference to nothing": ({"anyOf": [{"$ref": "#/$defs/a"}]}, "/anyOf/0/$ref"),
    "a reference to no schema": ({"$ref": "#/required", "required": ["a"]}, "/$ref"),
    "a reference to itself": ({"$ref": "#"}, ""),
    "references in a ring": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        "",
    ),
    "an unknown dialect": ({"$schema": "https://example.com/mine"}, "/$schema"),
    "a dialect inside": ({"items": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}, "/items/$schema"),
    "a pattern that only backtracking can run": ({"items": {"pattern": "(?=a)b"}}, "/items/pattern"),
    "a broken pattern": ({"pattern": "("}, "/pattern"),
    "patternProperties": ({"patternProperties": {"^a": {}}}, "/patternProperties"),
    "an id": ({"$id": "https://example.com/me"}, "/$id"),
}


@pytest.mark.parametrize(("schema", "path"), REFUSED.values(), ids=REFUSED)
def test_refused(schema: Any, path: str) -> None:
    assert "/here" + path in [problem.path for problem in schema_problems(schema, "/here")]


@pytest.mark.parametrize(
    "schema",
    [
        {},
        closed(**{"$ref": {"type": "string"}, "pattern": {"type": "string"}}),  # names of fields, not keywords
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "definitions": {"a": {}},
            "items": {"$ref": "#/definitions/a"},
        },
        {"properties": {"left": {"$ref": "#"}}},
        {"$defs": {"a/b": {"type": "string"}}, "items": {"$ref": "#/$defs/a~1b"}},
    ],
)
def test_accepted(schema: dict[str, Any]) -> None:
    assert schema_problems(schema, "") == []


def test_patterns_take_linear_time_in_every_dialect() -> None:
    for dialect in ("https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"):
        schema = {"$schema": dialect, "properties": {"x": {"$ref": "#"}, "y": {"pattern": "^(a+)+$"}}}
        assert schema_problems(schema, "") == []
        assert not schema_validator(schema).is_valid({"x": {"y": "a" * 5_000 + "b"}})
        assert schema_validator(schema).is_valid({"x": {"y": "a" * 5_000}})


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["$ref", "type", "properties", "items", "allOf", "$defs", "pattern", "$schema", "a"]), inner
    ),
))  # fmt: skip
def test_no_value_crashes_the_check(schema: Any) -> None:
    problems = schema_problems(schema, "")
    if not problems:
        schema_validator(schema).is_valid({"a": [1]})


def test_references_that_multiply_end_in_an_error() -> None:
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(25)}
    wide = {"$ref": "#/$defs/d0", "$defs": doubling | {"d25": {}}}
    deep = {"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}}
    value: Any = {}
    for _ in range(25):
        value = {"a": value}
    long = {
        "$ref": "#/$defs/d0",
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2_000)} | {"d2000": {}},
    }
    for schema in (wide, deep, long):
        assert schema_problems(schema, "") == []
        faults = [error.message for error in schema_validator(schema).iter_errors(value)]
        assert faults == ["the references of the schema multiply: this value takes too long to check"]
    assert schema_validator(deep).is_valid({"a": {"a": 1}})
    assert find_in_schema(long, ("a",)).verdict == Verdict.OPEN


FIND: list[tuple[Any, str, Verdict]] = [
    (True, "a", Verdict.OPEN),
    ({}, "a.b", Verdict.OPEN),
    (False, "a", Verdict.RULED_OUT),
    ({"type": "string"}, "a", Verdict.RULED_OUT),
    ({"type": ["null", "object"]}, "a", Verdict.OPEN),
    (closed(a={}), "a.b", Verdict.DECLARED),
    (closed(a={}), "b", Verdict.RULED_OUT),
    (closed(a={"type": "integer"}), "a.b", Verdict.RULED_OUT),
    ({"properties": {"a": {}}}, "b", Verdict.UNDECLARED),
    ({"additionalProperties": closed(x={})}, "any.x", Verdict.DECLARED),
    ({"additionalProperties": closed(x={})}, "any.y", Verdict.RULED_OUT),
    ({"anyOf": [closed(a={}), closed(b={})]}, "a", Verdict.DECLARED),
    ({"anyOf": [closed(a={}), closed(b={})]}, "c", Verdict.RULED_OUT),
    ({"oneOf": [closed(a={}), {}]}, "c", Verdict.OPEN),
    ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}, "b", Verdict.DECLARED),
    ({"allOf": [closed(a={}), {"properties": {"b": {}}}]}, "b", Verdict.RULED_OUT),
    ({"$ref": "#/$defs/x", "$defs": {"x": closed(a={})}}, "b", Verdict.RULED_OUT),
    ({"properties": {"a": {}}, "if": {}, "then": {"properties": {"b": {}}}}, "b", Verdict.OPEN),
    ({"properties": {"l": {"$ref": "#"}}, "additionalProperties": False}, ".".join("l" * 500), Verdict.DECLARED),
]


@pytest.mark.parametrize(("schema", "path", "verdict"), FIND)
def test_find(schema: Any, path: str, verdict: Verdict) -> None:
    assert find_in_schema(schema, tuple(path.split("."))).verdict == verdict
