"""Documents that are accepted, and what is said about them all the same."""

from __future__ import annotations

import pytest

from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from tests.compiler.documents import PIPELINES, Document, agent, branch, cel, closed, flow, join, loop, task, transform

GRADE = agent("grade", response_format=closed(score={"type": "integer"}))
OPEN = agent("open", response_format={"type": "object", "properties": {"score": {"type": "integer"}}})


def reader(text: str, name: str = "r") -> Document:
    return task(name, config={"args": {"x": "{{ " + text + " }}"}})


DIAMOND = "s a, s b, a r, b r"
ACCEPTED = {
    "the smallest": {"id": "w", "nodes": [{"id": "a", "type": "function", "config": {"handler": "h"}}]},
    "descriptions": flow(task("a", description="does it"), description="all of it"),
    "a node without targets": flow(branch("x", ("output.k", []))),
    "a target named twice": flow(branch("x", ("output.k", ["a", "a"])), task("a")),
    "the same edge twice": flow(task("a"), task("b"), edges="a b?, a b"),
    "a loop on one task": flow(task("a"), loop("L", "a", []), edges="a L"),
    "defaults": flow(task("a"), defaults={"timeout_ms": 1, "retry": {"jitter": 0}}),
    "what has met is read": flow(task("s"), task("a"), task("b"), reader("ctx.a.output.k"), edges=DIAMOND),
    "what is before the fork is read": flow(
        task("s"), reader("ctx.s.output", "a"), reader("ctx.s.output", "b"), task("r"), edges=DIAMOND
    ),
    "a later node of a loop, guarded": flow(
        reader("has(ctx.b.output) ? ctx.b.output.k : 0", "a"), task("b"), loop("L", "a", []), edges="a b, b L"
    ),
    "an exclusive node, guarded": flow(
        branch("x", ("output.k", ["a"]), default=["r"]), task("a"), reader("has(ctx.a.output) ? 1 : 2")
    ),
    "merged outputs by predecessor": flow(
        task("s"), GRADE, agent("b"), reader("output.grade.score + size(output.b.text)"),
        edges="s grade, s b, grade r, b r",
    ),
    "one arrival at a node that waits": flow(
        task("s"), GRADE, agent("b"), reader("has(output.score) || has(output.text)"),
        edges="s grade?, s b?, grade r, b r",
    ),
    "the failure of a task": flow(task("a", on_error=["r"]), reader("output.error.message")),
    "a field of a join's output": flow(
        task("s"), GRADE, agent("b"), join("j"), reader("ctx.j.output.grade.score"),
        edges="s grade, s b, grade j, b j, j r",
    ),
    "a transform": flow(transform("t", y="input.y", z="1"), reader("ctx.t.output.y.deep"), edges="t r"),
    "the input": flow(reader("input.a.b"), input_schema=closed(a={"type": "object"})),
    "the run": flow(reader("run.id + run.workflow_id + (has(run.batch_id) ? run.batch_id : '')")),
    "a schema with references": flow(
        agent(
            "t",
            response_format={
                "$ref": "#/$defs/tree",
                "$defs": {"tree": closed(value={}, left={"$ref": "#/$defs/tree"})},
            },
        ),
        reader("ctx.t.output.left.left.value"),
        edges="t r",
    ),
}  # fmt: skip

WARNED = {
    "a field that an open schema does not name": (
        flow(OPEN, reader("ctx.open.output.reason"), edges="open r"),
        "/nodes/1/config/args/x",
        "undeclared-field",
    ),
    "a field that one of two predecessors never has": (
        flow(
            branch("x", ("input.k", ["grade"]), default=["open"]), GRADE, agent("open"), reader("output.score"),
            edges="grade r, open r",
        ),
        "/nodes/3/config/args/x",
        "missing-on-a-path",
    ),
    "a division that loses its fraction": (
        flow(branch("x", ("output.n / 2 > 0.5", []))),
        "/nodes/0/config/rules/0/condition/expression",
        "expression",
    ),
}  # fmt: skip


@pytest.mark.parametrize("document", PIPELINES.values(), ids=PIPELINES)
def test_pipelines(document: Document) -> None:
    compiled = compile_workflow(document)
    assert compiled.warnings == ()
    assert IR.from_json(compiled.ir.text) == compiled.ir


def test_there_are_pipelines() -> None:
    assert len(PIPELINES) >= 8


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(document: Document) -> None:
    assert compile_workflow(document).warnings == ()


@pytest.mark.parametrize(("document", "path", "code"), WARNED.values(), ids=WARNED)
def test_warned(document: Document, path: str, code: str) -> None:
    assert [(warning.path, warning.code) for warning in compile_workflow(document).warnings] == [(path, code)]


def test_has_of_a_field_that_an_open_schema_does_not_name_is_no_warning() -> None:
    document = flow(OPEN, task("b"), edges="open b")
    document["edges"][0]["condition"] = cel("has(output.reason) && output.reason != ''")
    assert compile_workflow(document).warnings == ()
