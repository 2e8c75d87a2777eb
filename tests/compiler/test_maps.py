"""Maps: sub-graphs that are analysed alone, what may be read across their bounds, and what is refused of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.compiler.compiler import compile_workflow, validate
from schemas.errors import InvalidDocument
from schemas.ir import IR, Analysis
from schemas.limits import Limits
from tests.compiler.documents import (
    Document,
    agent,
    branch,
    cel,
    flow,
    join,
    loop,
    mapped,
    opened,
    task,
    transform,
    wild,
)

A, B = task("a"), task("b")
INNER = "/nodes/0/config/nodes"


def reader(text: str, name: str = "r") -> Document:
    return task(name, config={"args": {"x": "{{ " + text + " }}"}})


def problems(document: Document, limits: Limits | None = None) -> list[tuple[str, str]]:
    return [(problem.path, problem.code) for problem in validate(document, limits or Limits())]


def messages(document: Document) -> str:
    return " ".join(problem.message for problem in validate(document))


def nested(depth: int) -> Document:
    document = mapped("m0", A)
    for level in range(1, depth):
        document = mapped(f"m{level}", document)
    return flow(document)


def with_edges(node: Document, *edges: tuple[str, str]) -> Document:
    return node | {"config": node["config"] | {"edges": [{"from": source, "to": target} for source, target in edges]}}


REFUSED: dict[str, tuple[Document, str, str]] = {
    # the config
    "no items": (flow({"id": "m", "type": "map", "config": {"nodes": [A]}}), "/nodes/0/config", "missing-field"),
    "items of a wrong kind": (flow(mapped("m", A, items=["x"])), "/nodes/0/config/items", "wrong-type"),
    "bad CEL": (flow(mapped("m", A, items="input.")), "/nodes/0/config/items", "syntax"),
    "no nodes": (flow(mapped("m")), "/nodes/0/config", "missing-field"),
    "empty nodes": (flow(mapped("m") | {"config": {"items": "[]", "nodes": []}}), INNER, "out-of-range"),
    "nodes of a wrong kind": (flow(mapped("m") | {"config": {"items": "[]", "nodes": {}}}), INNER, "wrong-type"),
    "max_parallel": (flow(mapped("m", A, max_parallel=1_001)), "/nodes/0/config/max_parallel", "out-of-range"),
    "on_item_error": (flow(mapped("m", A, on_item_error="skip")), "/nodes/0/config/on_item_error", "bad-value"),
    "a field of the map": (flow(mapped("m", A, concurrency=3)), "/nodes/0/config/concurrency", "unknown-field"),
    "retry of a map": (flow(mapped("m", A) | {"retry": {}}), "/nodes/0/retry", "task-only"),
    "timeout of a map": (flow(mapped("m", A) | {"timeout_ms": 5}), "/nodes/0/timeout_ms", "task-only"),
    # what lies inside has the places of the inside
    "a fault inside": (flow(mapped("m", A, agent("x", 1), edges="a x")), f"{INNER}/1/config/prompt", "wrong-type"),
    "a fault two maps deep": (
        flow(mapped("m", mapped("n", transform("t", y="1 +")))),
        f"{INNER}/0/config/nodes/0/config/set/y",
        "syntax",
    ),
    "a cycle inside": (flow(mapped("m", A, B, edges="a b, b a")), f"{INNER}/0", "forward-cycle"),
    "a loop inside that does not lead back": (
        flow(mapped("m", A, loop("L", "a", []), edges="")),
        f"{INNER}/1/config/loop_back_to",
        "loop-does-not-lead-back",
    ),
    "a side exit inside": (
        flow(mapped("m", A, task("x"), loop("L", "a", ["x"]), edges="a x, a L")),
        "/nodes/0/config/edges/0",
        "side-exit",
    ),
    "join: any inside": (
        flow(mapped("m", A, loop("L", "a", []) | {"join": "any"}, edges="a L")),
        f"{INNER}/1/join",
        "join-any",
    ),
    "an unknown target": (flow(mapped("m", A, edges="a z")), "/nodes/0/config/edges/0/to", "unknown-node"),
    # ids are unique in the document
    "the id of an outer node": (flow(mapped("m", A), A), "/nodes/1/id", "duplicate-id"),
    "the id of the map": (flow(mapped("m", task("m"))), f"{INNER}/0/id", "duplicate-id"),
    "one id in two maps": (flow(mapped("m", A), mapped("n", A)), "/nodes/1/config/nodes/0/id", "duplicate-id"),
    # no edge crosses
    "an edge into a map": (flow(mapped("m", A), B, edges="b a"), "/edges/0/to", "crosses-map"),
    "an edge from inside": (flow(mapped("m", A), B, edges="a b"), "/edges/0/from", "crosses-map"),
    "an edge out of a map": (
        flow(with_edges(mapped("m", A), ("a", "b")), B),
        "/nodes/0/config/edges/0/to",
        "crosses-map",
    ),
    "on_error out of a map": (flow(mapped("m", A | {"on_error": ["b"]}), B), f"{INNER}/0/on_error/0", "crosses-map"),
    "a rule into a map": (
        flow(branch("x", ("true", ["a"])), mapped("m", A)),
        "/nodes/0/config/rules/0/next/0",
        "crosses-map",
    ),
    "a loop back out of a map": (
        flow(B, mapped("m", A, loop("L", "b", []), edges="a L"), edges="b m"),
        "/nodes/1/config/nodes/1/config/loop_back_to",
        "crosses-map",
    ),
    "on_error of a map into itself": (flow(mapped("m", A) | {"on_error": ["a"]}), "/nodes/0/on_error/0", "crosses-map"),
    "an edge between two maps": (
        flow(with_edges(mapped("m", A), ("a", "b")), mapped("n", B)),
        "/nodes/0/config/edges/0/to",
        "crosses-map",
    ),
    # one exit
    "two exits": (flow(mapped("m", A, B)), INNER, "map-exit"),
    "an exit and the end of a failure": (flow(mapped("m", A | {"on_error": ["b"]}, B)), INNER, "map-exit"),
    "an exit and the end of a deadline": (
        flow(mapped("m", opened("human", "h", deadline_ms=5, deadline_path=["b"]), B)),
        INNER,
        "map-exit",
    ),
    "two exits in an inner map": (flow(mapped("m", mapped("n", A, B))), f"{INNER}/0/config/nodes", "map-exit"),
    # reading
    "item in its own items": (flow(mapped("m", A, items="item.rows")), "/nodes/0/config/items", "outside-map"),
    "index behind a map": (flow(mapped("m", A), reader("index"), edges="m r"), "/nodes/1/config/args/x", "outside-map"),
    "item on an edge behind a map": (
        flow(mapped("m", A), B) | {"edges": [{"from": "m", "to": "b", "condition": cel("item.x")}]},
        "/edges/0/condition/expression",
        "outside-map",
    ),
    "from outside": (flow(mapped("m", A), reader("ctx.a.output"), edges="m r"), "/nodes/1/config/args/x", "inside-map"),
    "from outside, guarded": (
        flow(mapped("m", A), reader("has(ctx.a.output)"), edges="m r"),
        "/nodes/1/config/args/x",
        "inside-map",
    ),
    "by the map's own items": (flow(mapped("m", A, items="ctx.a.output")), "/nodes/0/config/items", "inside-map"),
    "from another map": (
        flow(mapped("m", A), mapped("n", reader("ctx.a.output")), edges="m n"),
        "/nodes/1/config/nodes/0/config/args/x",
        "inside-map",
    ),
    "from around an inner map": (
        flow(mapped("m", mapped("n", A), reader("ctx.a.output"), edges="n r")),
        f"{INNER}/1/config/args/x",
        "inside-map",
    ),
    "what runs behind the map": (
        flow(mapped("m", reader("ctx.b.output")), B, edges="m b"),
        f"{INNER}/0/config/args/x",
        "not-run-before",
    ),
    "the map itself": (flow(mapped("m", reader("ctx.m.output"))), f"{INNER}/0/config/args/x", "not-run-before"),
    "what runs beside the map": (
        flow(task("s"), B, mapped("m", reader("has(ctx.b.output)")), join("j"), edges="s b, s m, b j, m j"),
        "/nodes/2/config/nodes/0/config/args/x",
        "read-in-parallel",
    ),
    "a later node of the item": (
        flow(mapped("m", reader("ctx.b.output"), B, edges="r b")),
        f"{INNER}/0/config/args/x",
        "not-run-before",
    ),
    "a field of the list": (
        flow(mapped("m", A), reader("ctx.m.output.x"), edges="m r"),
        "/nodes/1/config/args/x",
        "no-such-field",
    ),
    "a field of an outer node": (
        flow(transform("t", y="1"), mapped("m", reader("ctx.t.output.z")), edges="t m"),
        "/nodes/1/config/nodes/0/config/args/x",
        "no-such-field",
    ),
    "a failed map": (
        flow(mapped("m", A) | {"on_error": ["r"]}, reader("output.error.items")),
        "/nodes/1/config/args/x",
        "no-such-field",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("document", "path", "code"), REFUSED.values(), ids=REFUSED)
def test_refused(document: Document, path: str, code: str) -> None:
    assert problems(document) == [(path, code)]


ACCEPTED = {
    "one node": flow(mapped("m", A)),
    "item and index": flow(mapped("m", reader("item.x + string(index)"))),
    "the outer item in an inner map's items": flow(mapped("m", mapped("n", A, items="item.parts"))),
    "what arrives at an entry is the item": flow(mapped("m", branch("x", ("output.a.b", ["a"]), default=[]), A)),
    "the run's input": flow(mapped("m", reader("input.x")), input_schema={"type": "object"}),
    "what ran before": flow(task("s"), mapped("m", reader("ctx.s.output")), edges="s m"),
    "what ran before an outer map": flow(
        task("s"), mapped("m", B, mapped("n", reader("ctx.s.output + ctx.b.output")), edges="b n"), edges="s m"
    ),
    "the last pass of the map's loop": flow(
        mapped("m", reader("has(ctx.m.output) ? ctx.m.output : []")), loop("L", "m", [], "true"), edges="m L"
    ),
    "an edge's condition": flow(mapped("m", A, B, edges="a b?")),
    "an item that may end early": flow(mapped("m", A, branch("x", ("output.k", ["b"]), default=[]), B, edges="a x")),
    "a branch as the last": flow(mapped("m", A, branch("x", ("output.k", [])), edges="a x")),
    "a loop as the last": flow(mapped("m", A, loop("L", "a", []), edges="a L")),
    "on_error that ends": flow(mapped("m", A | {"on_error": []}) | {"on_error": []}),
    "four maps in each other": nested(4),
    "parallel paths that meet": flow(mapped("m", task("s"), A, B, join("j"), edges="s a, s b, a j, b j")),
    "two entries that meet": flow(mapped("m", A, B, join("j"), edges="a j, b j")),
}  # fmt: skip


@pytest.mark.parametrize("document", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(document: Document) -> None:
    compiled = compile_workflow(document)
    assert compiled.warnings == ()
    assert IR.from_json(compiled.ir.text) == compiled.ir


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (flow(mapped("m", A), B, edges="b a"), "`a` lies inside the map `m`, and no edge leads into a map"),
        (flow(with_edges(mapped("m", A), ("a", "b")), B), "`b` lies outside the map `m`, and no edge leads out"),
        (flow(mapped("m", mapped("n", A)), B, edges="b a"), "`a` lies inside the map `m`"),
        (flow(mapped("m", A, B)), "nothing follows 2 nodes: `a`, `b`. Lead them to one node, such as a `join`"),
        (flow(mapped("m", mapped("n", A), reader("ctx.a.output"), edges="n r")), "outside of it read `ctx.n.output`"),
        (flow(mapped("m", reader("ctx.b.output")), B, edges="m b"), "inside the map `m`, and no path leads from `b`"),
    ],
)  # fmt: skip
def test_messages_help(document: Document, part: str) -> None:
    assert part in messages(document)


def test_limits_are_named() -> None:
    assert problems(nested(5)) == [(f"{INNER}/0/config/nodes/0/config/nodes/0/config/nodes/0/config/nodes", "too-deep")]
    assert "map_depth" in messages(nested(5))
    assert problems(nested(3), Limits(map_depth=2)) == [(f"{INNER}/0/config/nodes/0/config/nodes", "too-deep")]
    assert problems(flow(mapped("m", A, B, edges="a b")), Limits(workflow_nodes=2)) == [("/nodes", "too-large")]
    assert problems(flow(mapped("m", A, B, edges="a b")), Limits(workflow_nodes=3)) == []


def test_problems_are_in_the_order_of_the_document() -> None:
    document = flow(task("s"), mapped("m", agent("x", prompt=1), B, edges="x z"), transform("t", y="1 +"), edges="s q")
    assert problems(document) == [
        ("/nodes/1/config/nodes/0/config/prompt", "wrong-type"),
        ("/nodes/1/config/edges/0/to", "unknown-node"),
        ("/nodes/2/config/set/y", "syntax"),
        ("/edges/0/to", "unknown-node"),
    ]


# -- against the same graph without a map -----------------------------------------------------------


def in_a_map(document: Document) -> Document:
    config = {"items": "input.rows", "nodes": document["nodes"], "edges": document["edges"]}
    return {"id": "w", "nodes": [{"id": "outside", "type": "map", "config": config}]}


def in_a_child(document: Document) -> Document:
    return {"id": "w", "nodes": [{"id": "outside", "type": "workflow", "config": {"document": document}}]}


def found_in(document: Document, prefix: str = "") -> list[tuple[str, str, str]]:
    return [(prefix + problem.path, problem.code, problem.message) for problem in validate(document)]


@given(st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_graph_in_a_map_is_judged_as_it_is_alone(rng: random.Random) -> None:
    document = wild(rng)
    inside = [problem for problem in found_in(in_a_map(document)) if problem[1] != "map-exit"]
    assert inside == found_in(document, "/nodes/0/config")
    assert found_in(in_a_child(document)) == found_in(document, "/nodes/0/config/document")


@given(st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_a_graph_in_a_map_is_analysed_as_it_is_alone(rng: random.Random) -> None:
    document = wild(rng)
    try:
        alone, inside = compile_workflow(document).ir, compile_workflow(in_a_map(document)).ir
    except InvalidDocument:
        return
    assert inside.nodes["outside"].analysis.entries == alone.entries
    assert IR.from_json(inside.text) == inside
    for name, node in alone.nodes.items():
        seen = inside.nodes[name].analysis
        changed: dict[str, Any] = {"index": node.analysis.index + 1, "map": "outside"}
        assert {field: getattr(seen, field) for field in Analysis.__slots__} == {
            **{field: getattr(node.analysis, field) for field in Analysis.__slots__}, **changed,
        }  # fmt: skip
