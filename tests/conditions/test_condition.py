"""Conditions of the three types: what they ask, what an error means, what is refused in a workflow."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from schemas.compiler.compiler import compile_workflow, validate
from schemas.conditions.condition import Condition
from schemas.conditions.jsonpath import MAX_SEGMENTS
from schemas.expressions.error import EvaluationError
from tests.compiler.documents import cel, flow, task

OUTPUT: dict[str, Any] = {"score": 81, "rows": [{"ok": True, "name": "x"}], "deep": {"a": {"b": 1}}}
VARIABLES: dict[str, Any] = {"output": OUTPUT, "input": {"limit": 80}, "ctx": {"a": {"output": {"n": [1, 2]}}}}
SCHEMA: dict[str, Any] = {"type": "object", "required": ["score"], "properties": {"score": {"minimum": 80}}}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (cel("output.score > input.limit"), "output.score > input.limit"),
        ({"type": "json_schema", "schema": SCHEMA}, "json_schema of output"),
        ({"type": "json_schema", "schema": {"minItems": 2}, "of": "ctx.a.output.n"}, "json_schema of ctx.a.output.n"),
        ({"type": "jsonpath", "path": "$.rows[?match(@.name, 'x')]"}, "$.rows[?match(@.name, 'x')]"),
        ({"type": "jsonpath", "path": "$[?@ > 1]", "of": "ctx.a.output.n"}, "$[?@ > 1] of ctx.a.output.n"),
        ({"type": "jsonpath", "path": "$", "of": "output.score + 1"}, "$ of output.score + 1"),
        ({"type": "json_schema", "schema": {"type": "string"}, "of": "timestamp(0)"}, "json_schema of timestamp(0)"),
    ],
    ids=str,
)  # fmt: skip
def test_what_holds(source: dict[str, Any], text: str) -> None:
    condition, inverted = Condition(source), Condition(source | {"invert": True})
    assert condition.holds(VARIABLES) is True and inverted.holds(VARIABLES) is False
    assert (condition.text, inverted.text) == (text, f"not ({text})")
    assert Condition(source | {"invert": False}).holds(VARIABLES) is True


@pytest.mark.parametrize(
    "source",
    [
        cel("output.score < 80"),
        {"type": "json_schema", "schema": {"required": ["nope"]}},
        {"type": "jsonpath", "path": "$.nope"},
    ],
    ids=str,
)
def test_what_does_not(source: dict[str, Any]) -> None:
    assert Condition(source).holds(VARIABLES) is False
    assert Condition(source | {"invert": True}).holds(VARIABLES) is True


MANY = {"output": {"list": list(range(400_000)), "text": "ab" * 500_000}}
ERRORS = [
    (cel("output.nope"), "no-such-field"),
    (cel("output.list"), "not-a-bool"),
    (cel("output.list.map(x, x + 1) == []"), "budget"),
    ({"type": "json_schema", "schema": {}, "of": "output.nope"}, "no-such-field"),
    ({"type": "json_schema", "schema": {"properties": {"list": {"items": {"type": "integer"}}}}}, "budget"),
    ({"type": "jsonpath", "path": "$", "of": "input"}, "no-such-variable"),
    ({"type": "jsonpath", "path": "$..[?@ == $]"}, "budget"),
    ({"type": "jsonpath", "path": "$[?search(@, '((a{0,30}){0,30})z')]"}, "budget"),
]


@pytest.mark.parametrize(("source", "code"), ERRORS, ids=str)
@pytest.mark.parametrize("invert", [False, True])
def test_an_error_is_not_inverted(source: dict[str, Any], code: str, invert: bool) -> None:
    condition = Condition(source | {"invert": invert})
    tracemalloc.start()
    try:
        with pytest.raises(EvaluationError) as caught:
            condition.holds(MANY)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.code == code
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    "source",
    [
        {"type": "json_schema", "schema": {"items": {"$ref": "#"}}},
        {"type": "jsonpath", "path": "$[?@ == $[1]]"},
    ],
    ids=str,
)
def test_data_nested_too_deep_are_an_error(source: dict[str, Any]) -> None:
    one: Any = []
    other: Any = []
    for _ in range(20_000):
        one, other = [one], [other]
    with pytest.raises(EvaluationError) as caught:
        Condition(source).holds({"output": [one, other]})
    assert caught.value.code in ("too-deep", "budget")


def with_condition(condition: Any) -> dict[str, Any]:
    document = flow(task("a"), task("b"), edges="a b")
    document["edges"][0]["condition"] = condition
    return document


@pytest.mark.parametrize(
    ("condition", "path", "code"),
    [
        ({}, "", "missing-field"),
        ({"type": "jq", "expression": "x"}, "/type", "bad-value"),
        (cel("output.a >"), "/expression", "syntax"),
        (cel("true") | {"invert": 1}, "/invert", "wrong-type"),
        (cel("true") | {"of": "output"}, "/of", "unknown-field"),
        ({"type": "cel"}, "", "missing-field"),
        ({"type": "jsonpath"}, "", "missing-field"),
        ({"type": "jsonpath", "path": 1}, "/path", "wrong-type"),
        ({"type": "jsonpath", "path": "$["}, "/path", "syntax"),
        ({"type": "jsonpath", "path": "$[?match(@, '\\\\d')]"}, "/path", "bad-pattern"),
        ({"type": "jsonpath", "path": "$" + ".a" * (MAX_SEGMENTS + 1)}, "/path", "too-deep"),
        ({"type": "jsonpath", "path": "$", "expression": "true"}, "/expression", "unknown-field"),
        ({"type": "jsonpath", "path": "$", "of": "ctx.nowhere.output"}, "/of", "unknown-node"),
        ({"type": "json_schema"}, "", "missing-field"),
        ({"type": "json_schema", "schema": True}, "/schema", "wrong-type"),
        ({"type": "json_schema", "schema": {"type": "objekt"}}, "/schema/type", "bad-schema"),
        ({"type": "json_schema", "schema": {"not": {"pattern": "(?=a)"}}}, "/schema/not/pattern", "bad-schema"),
        ({"type": "json_schema", "schema": {"pattern": "(a{0,99}){0,99}"}}, "/schema/pattern", "bad-schema"),
        ({"type": "json_schema", "schema": {"$ref": "https://example.org/x"}}, "/schema/$ref", "bad-schema"),
        ({"type": "json_schema", "schema": {"$ref": "#/x", "x": {"type": 1}}}, "/schema/$ref", "bad-schema"),
        ({"type": "json_schema", "schema": {"unevaluatedItems": False}}, "/schema/unevaluatedItems", "bad-schema"),
        ({"type": "json_schema", "schema": {}, "of": "output.a +"}, "/of", "syntax"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_the_compiler_refuses(condition: Any, path: str, code: str) -> None:
    found = [(problem.path, problem.code) for problem in validate(with_condition(condition))]
    assert (f"/edges/0/condition{path}", code) in found


def test_what_a_condition_reads_is_surveyed() -> None:
    """`of` is read as an expression is: what rules it out is an error, and the coordinator loads it."""
    document = flow(task("a"), task("b"), task("c"), edges="a b, b c")
    schema = {"type": "object", "additionalProperties": False, "properties": {"n": {}}}
    document["input_schema"] = schema
    document["edges"][1]["condition"] = {"type": "jsonpath", "path": "$.x", "of": "ctx.a.output"}
    assert compile_workflow(document).ir.nodes["b"].analysis.route_reads == ("a",)
    document["edges"][1]["condition"] = {"type": "json_schema", "schema": {}, "of": "ctx.c.output"}
    document["edges"][0]["condition"] = {"type": "json_schema", "schema": {}, "of": "input.m"}
    found = [(problem.path, problem.code) for problem in validate(document)]
    assert found == [("/edges/0/condition/of", "no-such-field"), ("/edges/1/condition/of", "not-run-before")]


def test_the_ir_holds_the_conditions() -> None:
    source = {"type": "jsonpath", "path": "$.rows[?@.ok]", "invert": True}
    ir = compile_workflow(with_condition(source)).ir
    edge = ir.nodes["a"].edges[0]
    assert edge.condition == Condition(source) and hash(edge.condition) == hash(Condition(source))
    assert edge.condition != Condition(source | {"invert": False})
    assert type(ir).from_json(ir.text).nodes["a"].edges[0] == edge
