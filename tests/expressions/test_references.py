"""What the compiler and the coordinator learn about an expression from its text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.expressions.error import EvaluationError
from schemas.expressions.expression import parse_expression
from schemas.expressions.references import References

S = ("ctx", "a", "output", "s")


def references(text: str) -> References:
    return parse_expression(text).references


def test_paths_nodes_and_variables() -> None:
    found = references('ctx.a.output.s == input.text && ctx["b"].output["two words"].list[0].x > iteration')
    assert found.variables == {"ctx", "input", "iteration"}
    assert found.nodes == {"a", "b"}
    assert found.paths == {
        S,
        ("input", "text"),
        ("ctx", "b", "output", "two words", "list"),
        ("iteration",),
    }
    assert not found.optional_paths and not found.guarded_nodes and not found.whole_ctx


@pytest.mark.parametrize("text", ["size(ctx)", "'a' in ctx", "ctx[input.node]", "ctx.all(node, true)", "ctx == input"])
def test_ctx_as_a_whole(text: str) -> None:
    assert references(text).whole_ctx


def test_names_that_macros_bind_are_not_reported() -> None:
    found = references("input.items.map(ctx, ctx.x + output.y).all(item, item.z == .item.w)")
    assert found.variables == {"input", "output", "item"}
    assert found.paths == {("input", "items"), ("output", "y"), ("item", "w")}
    assert not found.nodes and not found.whole_ctx


def test_types_are_no_variables() -> None:
    assert references("type(output.a) == google.protobuf.Timestamp || type(output.a) == int").variables == {"output"}


@pytest.mark.parametrize(
    ("text", "optional", "required"),
    [
        ("has(ctx.a.output.s)", {S}, set()),
        ("has(ctx.a) ? ctx.a.output.s : 'none'", {("ctx", "a"), S}, set()),
        ("has(ctx.a.output) && ctx.a.output.s == 'x'", {S[:3], S}, set()),
        ("ctx.a.output.s == 'x' && has(ctx.a)", {S[:2], S}, set()),
        ("!has(ctx.a) || ctx.a.output.s == 'x'", {S[:2], S}, set()),
        ("!has(ctx.a) ? 'none' : ctx.a.output.s", {S[:2], S}, set()),
        ("has(ctx.a) || ctx.a.output.s == 'x'", {S[:2]}, {S}),
        ("has(ctx.a) ? 'none' : ctx.a.output.s", {S[:2]}, {S}),
        ("has(ctx.b) && ctx.a.output.s == 'x'", {("ctx", "b")}, {S}),
        ("(has(ctx.a) && ctx.a.output.s == 'x') || ctx.a.output.s == 'y'", {S[:2]}, {S}),
        ("[1].filter(x, has(ctx.a)).map(x, ctx.a.output.s)", {S[:2]}, {S}),
        ("[1].map(x, has(ctx.a), ctx.a.output.s)", {S[:2], S}, set()),
    ],
)
def test_what_has_guards(text: str, optional: set[Any], required: set[Any]) -> None:
    found = references(text)
    assert (found.optional_paths, found.paths) == (optional, required)
    assert found.guarded_nodes == {path[1] for path in optional} - {path[1] for path in required}


NODES = st.sampled_from(["a", "b", "c"])
READS = NODES.map(lambda node: f"ctx.{node}.output.x == 1") | NODES.map(lambda node: f"has(ctx.{node}.output.x)")
CONDITIONS = st.recursive(
    READS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})")
        | inner.map(lambda text: f"!({text})")
        | st.tuples(inner, inner, inner).map(lambda t: f"({t[0]} ? {t[1]} : {t[2]})")
    ),
    max_leaves=6,
)
OUTPUTS = st.dictionaries(NODES, st.integers(0, 2).map(lambda x: {"output": {"x": x}}))


def outcome(text: str, context: dict[str, Any]) -> Any:
    try:
        return parse_expression(text).evaluate({"ctx": context})
    except EvaluationError as error:
        return error.code


@settings(max_examples=120, deadline=None)
@given(CONDITIONS, OUTPUTS)
def test_nodes_that_are_not_referenced_do_not_matter(text: str, context: dict[str, Any]) -> None:
    read = {node: value for node, value in context.items() if node in references(text).nodes}
    assert outcome(text, context) == outcome(text, read)


@settings(max_examples=120, deadline=None)
@given(CONDITIONS, OUTPUTS)
def test_a_guarded_node_that_has_not_run_is_no_error(text: str, context: dict[str, Any]) -> None:
    found = references(text)
    there = {node: {"output": {"x": 1}} for node in found.nodes - found.guarded_nodes} | context
    assert isinstance(outcome(text, there), bool)
