"""The tools of an agent: what is accepted, and what is refused with which code and where."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.compiler.compiler import compile_workflow, validate
from tests.compiler.documents import Document, agent, closed, flow

WORD = {**closed(word={"type": "string"}), "required": ["word"]}
CHILD = {"id": "child", "nodes": [{"id": "n", "type": "transform", "config": {"set": {"x": "1"}}}]}


def with_tools(*tools: Any, **config: Any) -> Document:
    return flow(agent("x", tools=list(tools), **config))


def http(**changed: Any) -> Document:
    tool = {"name": "look", "description": "d", "parameters": WORD, "method": "GET", "url": "http://a.example/x"}
    return {"http": {**tool, **changed}}


def child(**config: Any) -> Document:
    return {"workflow": {"name": "child", "description": "d", **config}}


def test_every_kind_is_accepted() -> None:
    document = with_tools(
        {"handler": "add"},
        {"handler": "sub", "description": "d", "parameters": {"type": "object"}},
        http(url="http://a.example/{{ args.word }}", query={"n": [1, "{{ args.word }}"]}, auth="words",
             headers={"x-a": "{{ args.word }}"}, body={"w": ["{{ args }}"]}, expect_status=[200, 404]),
        child(workflow_id="w", version=3),
        {"mcp": "files"},
        {"mcp": "files", "tools": ["read.file"]},
        {"patch_workflow": {"max_operations": 100, "max_nodes": 0, "max_model_calls": 0, "max_depth": 8, "allow": []}},
        max_rounds=3,
        max_calls=4,
    )  # fmt: skip
    assert validate(document) == []
    compiled = compile_workflow(document)
    assert compiled.warnings == ()
    assert compiled.ir.nodes["x"].analysis.pool == compile_workflow(flow(agent("x"))).ir.nodes["x"].analysis.pool


def test_a_document_inside_is_compiled_with_it() -> None:
    assert validate(with_tools(child(document=CHILD))) == []
    broken = {"id": "child", "nodes": [{"id": "n", "type": "transform", "config": {"set": {"x": "1 +"}}}]}
    (problem,) = validate(with_tools(child(document=broken)))
    assert (problem.path, problem.code) == ("/nodes/0/config/tools/0/workflow/document/nodes/0/config/set/x", "syntax")


@pytest.mark.parametrize(
    ("document", "path", "code"),
    [
        (with_tools(), "", "out-of-range"),
        (with_tools(*[{"handler": f"h{n}"} for n in range(65)]), "", "out-of-range"),
        (flow(agent("x", tools={"handler": "h"})), "", "wrong-type"),
        (with_tools("h"), "/0", "wrong-type"),
        (with_tools({}), "/0", "missing-field"),
        (with_tools({"handler": "h", "mcp": "m"}), "/0/mcp", "exclusive-fields"),
        (with_tools({"patch_workflow": True}), "/0/patch_workflow", "wrong-type"),
        (with_tools({"patch_workflow": {"max_node": 3}}), "/0/patch_workflow/max_node", "unknown-field"),
        (with_tools({"patch_workflow": {"max_operations": 101}}), "/0/patch_workflow/max_operations", "out-of-range"),
        (with_tools({"patch_workflow": {"max_operations": 0}}), "/0/patch_workflow/max_operations", "out-of-range"),
        (with_tools({"patch_workflow": {"max_nodes": 1_001}}), "/0/patch_workflow/max_nodes", "out-of-range"),
        (with_tools({"patch_workflow": {"max_model_calls": -1}}), "/0/patch_workflow/max_model_calls", "out-of-range"),
        (with_tools({"patch_workflow": {"max_depth": 9}}), "/0/patch_workflow/max_depth", "out-of-range"),
        (with_tools({"patch_workflow": {"allow": ["agent", "nodes"]}}), "/0/patch_workflow/allow/1", "bad-value"),
        (with_tools({"patch_workflow": {}}, {"patch_workflow": {}}), "/1", "duplicate-tool"),
        (with_tools({"patch_workflow": {}}, {"handler": "read_workflow"}), "/1", "duplicate-tool"),
        (with_tools({"handler": "h", "name": "n"}), "/0/name", "unknown-field"),
        (with_tools({"handler": "a.b"}), "/0/handler", "bad-name"),
        (with_tools({"handler": "h"}, {"handler": "h"}), "/1", "duplicate-tool"),
        (with_tools({"handler": "look"}, http()), "/1", "duplicate-tool"),
        (with_tools({"handler": "h", "parameters": {"type": "objekt"}}), "/0/parameters/type", "bad-schema"),
        (with_tools({"handler": "h", "parameters": {"type": "array"}}), "/0/parameters", "bad-schema"),
        (with_tools(http(name="look it up")), "/0/http/name", "bad-name"),
        (with_tools(http(url="ftp://a.example")), "/0/http/url", "bad-url"),
        (with_tools(http(url="http://a.example/{{ input.x }}")), "/0/http/url", "unknown-variable"),
        (with_tools(http(body={"a": ["{{ args.wrod }}"]})), "/0/http/body/a/0", "no-such-field"),
        (with_tools(http(headers={"a/b": "x"})), "/0/http/headers/a~1b", "bad-name"),
        (with_tools(http(method="BREW")), "/0/http/method", "bad-value"),
        (with_tools(child()), "/0/workflow", "missing-field"),
        (with_tools(child(document=CHILD, workflow_id="w")), "/0/workflow/document", "exclusive-fields"),
        (with_tools(child(document=CHILD, version=1)), "/0/workflow/version", "needs-field"),
        (with_tools(child(document=3)), "/0/workflow/document", "wrong-type"),
        (with_tools({"mcp": "two words"}), "/0/mcp", "bad-name"),
        (with_tools({"mcp": "m", "tools": []}), "/0/tools", "out-of-range"),
    ],
)
def test_what_is_refused(document: Document, path: str, code: str) -> None:
    assert [(problem.path, problem.code) for problem in validate(document)] == [("/nodes/0/config/tools" + path, code)]


@pytest.mark.parametrize(("name", "high"), [("max_rounds", 100), ("max_calls", 1_000)])
def test_bounds_of_the_loop(name: str, high: int) -> None:
    for value in (1, high):
        assert validate(with_tools({"handler": "h"}, **{name: value})) == []
    for value in (0, high + 1):
        (problem,) = validate(with_tools({"handler": "h"}, **{name: value}))
        assert (problem.path, problem.code) == (f"/nodes/0/config/{name}", "out-of-range")


def test_a_field_that_open_parameters_do_not_name_is_a_warning() -> None:
    parameters = {"type": "object", "properties": {"word": {"type": "string"}}}
    tool = http(parameters=parameters, url="http://a.example/{{ args.wrod }}")
    (warning,) = compile_workflow(with_tools(tool)).warnings
    assert (warning.path, warning.code) == ("/nodes/0/config/tools/0/http/url", "undeclared-field")
