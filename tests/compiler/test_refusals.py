"""Every refusal: what is wrong, the place that is named, and the code."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.compiler.compiler import compile_workflow, validate
from schemas.errors import InvalidDocument
from schemas.limits import Limits
from tests.compiler.documents import Document, agent, branch, cel, closed, flow, join, loop, task, transform

A, B = task("a"), task("b")
RAW = {"id": "w", "nodes": [A]}
GRADE = agent("grade", response_format=closed(score={"type": "integer"}, reason={"type": "string"}))


def with_config(node: Document, **config: Any) -> Document:
    return {**node, "config": {**node["config"], **config}}


def without(document: Document, field: str) -> Document:
    return {name: value for name, value in document.items() if name != field}


LOOP = loop("again", "a", [])
SHAPE: dict[str, tuple[Any, str, str]] = {
    "no object": ([], "", "wrong-type"),
    "null": (None, "", "wrong-type"),
    "no id": ({"nodes": [A]}, "", "missing-field"),
    "bad id": (RAW | {"id": "Über"}, "/id", "bad-name"),
    "id of a wrong kind": (RAW | {"id": 7}, "/id", "wrong-type"),
    "unknown field": (RAW | {"egdes": []}, "/egdes", "unknown-field"),
    "description": (RAW | {"description": 1}, "/description", "wrong-type"),
    "no nodes": ({"id": "w"}, "", "missing-field"),
    "empty nodes": (RAW | {"nodes": []}, "/nodes", "out-of-range"),
    "nodes of a wrong kind": (RAW | {"nodes": {}}, "/nodes", "wrong-type"),
    "a node of a wrong kind": (flow(A, "b"), "/nodes/1", "wrong-type"),
    "edges of a wrong kind": (RAW | {"edges": {}}, "/edges", "wrong-type"),
    "an edge of a wrong kind": (RAW | {"edges": [["a", "b"]]}, "/edges/0", "wrong-type"),
    "input schema": (RAW | {"input_schema": {"type": "objekt"}}, "/input_schema/type", "bad-schema"),
    "input schema of a wrong kind": (RAW | {"input_schema": True}, "/input_schema", "wrong-type"),
    "defaults": (RAW | {"defaults": {"timeout": 1}}, "/defaults/timeout", "unknown-field"),
    "defaults.retry": (
        RAW | {"defaults": {"retry": {"max_attempts": 0}}},
        "/defaults/retry/max_attempts",
        "out-of-range",
    ),
    "defaults.on_error": (RAW | {"defaults": {"on_error": ["a"]}}, "/defaults/on_error", "unknown-field"),
    "not JSON": (RAW | {"description": {1, 2}}, "/description", "not-json"),
    "NaN": (RAW | {"defaults": {"timeout_ms": float("nan")}}, "/defaults/timeout_ms", "not-json"),
    "an integer of 65 bits": (RAW | {"defaults": {"timeout_ms": 2**64}}, "/defaults/timeout_ms", "not-json"),
    "half of a surrogate pair": (RAW | {"description": "\ud800"}, "/description", "bad-text"),
    "U+0000": (RAW | {"description": "\0"}, "/description", "bad-text"),
    "a key that is no string": (RAW | {1: 2}, "", "bad-key"),
    # nodes
    "no node id": (flow(without(A, "id")), "/nodes/0", "missing-field"),
    "bad node id": (flow(A | {"id": "a-b"}), "/nodes/0/id", "bad-name"),
    "duplicate id": (flow(A, B, A), "/nodes/2/id", "duplicate-id"),
    "no type": (flow(without(A, "type")), "/nodes/0", "missing-field"),
    "unknown type": (flow(A | {"type": "functoin"}), "/nodes/0/type", "unknown-type"),
    "type of a wrong kind": (flow(A | {"type": ["agent"]}), "/nodes/0/type", "wrong-type"),
    "unknown node field": (flow(A | {"timeout": 3}), "/nodes/0/timeout", "unknown-field"),
    "config of a wrong kind": (flow(A | {"config": []}), "/nodes/0/config", "wrong-type"),
    "config missing": (flow(without(A, "config")), "/nodes/0/config", "missing-field"),
    "join": (flow(A | {"join": "all"}), "/nodes/0/join", "bad-value"),
    "retry on a branch": (flow(branch("x", ("true", [])) | {"retry": {}}), "/nodes/0/retry", "task-only"),
    "timeout on a loop": (flow(A, LOOP | {"timeout_ms": 5}, edges="a again"), "/nodes/1/timeout_ms", "task-only"),
    "on_error on a join": (flow(join("x") | {"on_error": []}), "/nodes/0/on_error", "task-only"),
    "queue timeout on a branch": (
        flow(branch("x", ("true", [])) | {"queue_timeout_ms": 5}),
        "/nodes/0/queue_timeout_ms",
        "task-only",
    ),
    "queue timeout of nothing": (flow(A | {"queue_timeout_ms": 0}), "/nodes/0/queue_timeout_ms", "out-of-range"),
    "retry field": (flow(A | {"retry": {"attempts": 2}}), "/nodes/0/retry/attempts", "unknown-field"),
    "too many attempts": (flow(A | {"retry": {"max_attempts": 101}}), "/nodes/0/retry/max_attempts", "out-of-range"),
    "a boolean for a number": (flow(A | {"retry": {"jitter": True}}), "/nodes/0/retry/jitter", "wrong-type"),
    "jitter over 1": (flow(A | {"retry": {"jitter": 1.5}}), "/nodes/0/retry/jitter", "out-of-range"),
    "a fraction for an integer": (flow(A | {"timeout_ms": 1.5}), "/nodes/0/timeout_ms", "wrong-type"),
    "a timeout of 0": (flow(A | {"timeout_ms": 0}), "/nodes/0/timeout_ms", "out-of-range"),
    "on_error is no list": (flow(A | {"on_error": "b"}, B), "/nodes/0/on_error", "wrong-type"),
    "on_error to nowhere": (flow(A | {"on_error": ["c"]}), "/nodes/0/on_error/0", "unknown-node"),
    # edges
    "edge field": (flow(A, B) | {"edges": [{"from": "a", "to": "b", "if": "x"}]}, "/edges/0/if", "unknown-field"),
    "edge without to": (flow(A) | {"edges": [{"from": "a"}]}, "/edges/0", "missing-field"),
    "edge to nowhere": (flow(A, edges="a c"), "/edges/0/to", "unknown-node"),
    "edge from nowhere": (flow(A, edges="c a"), "/edges/0/from", "unknown-node"),
    "edge to a list": (flow(A) | {"edges": [{"from": "a", "to": ["b"]}]}, "/edges/0/to", "wrong-type"),
    "edge from a branch": (flow(branch("x", ("true", [])), B, edges="x b"), "/edges/0/from", "edge-from-branch"),
    "edge from a loop": (flow(A, B, LOOP, edges="a again, again b"), "/edges/1/from", "edge-from-loop"),
    "other condition": (
        flow(A, B) | {"edges": [{"from": "a", "to": "b", "condition": {"type": "llm", "expression": "x"}}]},
        "/edges/0/condition/type",
        "bad-value",
    ),
    "condition type of a wrong kind": (
        flow(A, B) | {"edges": [{"from": "a", "to": "b", "condition": {"type": 1, "expression": "true"}}]},
        "/edges/0/condition/type",
        "bad-value",
    ),
    "condition as a string": (
        flow(A, B) | {"edges": [{"from": "a", "to": "b", "condition": "true"}]},
        "/edges/0/condition",
        "wrong-type",
    ),
    "condition field": (
        flow(A, B) | {"edges": [{"from": "a", "to": "b", "condition": cel("true") | {"lang": 1}}]},
        "/edges/0/condition/lang",
        "unknown-field",
    ),
    # agent
    "no model": (flow(agent("x") | {"config": {"prompt": "p"}}), "/nodes/0/config", "missing-field"),
    "bad model": (flow(agent("x", model="two words")), "/nodes/0/config/model", "bad-name"),
    "a model with the name of a fast lane": (
        flow(agent("x", model="m:interactive")),
        "/nodes/0/config/model",
        "bad-name",
    ),
    "prompt of a wrong kind": (flow(agent("x", prompt=7)), "/nodes/0/config/prompt", "wrong-type"),
    "system": (flow(agent("x", system="{{ 1 +")), "/nodes/0/config/system", "unclosed"),
    "response format": (flow(agent("x", response_format="json")), "/nodes/0/config/response_format", "wrong-type"),
    "options": (flow(agent("x", options={"num_ctx": {}})), "/nodes/0/config/options/num_ctx", "wrong-type"),
    "name of an option": (flow(agent("x", options={"Top K": 1})), "/nodes/0/config/options/Top K", "bad-name"),
    "tools": (flow(agent("x", tools=[])), "/nodes/0/config/tools", "out-of-range"),
    "agent field": (flow(agent("x", promt="x")), "/nodes/0/config/promt", "unknown-field"),
    # function
    "no handler": (flow(A | {"config": {}}), "/nodes/0/config", "missing-field"),
    "bad handler": (flow(with_config(A, handler="os system")), "/nodes/0/config/handler", "bad-name"),
    "args": (flow(with_config(A, args=[1])), "/nodes/0/config/args", "wrong-type"),
    "name of an argument": (flow(with_config(A, args={"a-b": 1})), "/nodes/0/config/args/a-b", "bad-name"),
    "template in args": (
        flow(with_config(A, args={"x": [{"y": "{{ nope }}"}]})),
        "/nodes/0/config/args/x/0/y",
        "unknown-variable",
    ),
    # transform, branch, loop, join
    "transform without set": (flow(transform("x")), "/nodes/0/config/set", "out-of-range"),
    "transform": (flow(transform("x", y="1 +")), "/nodes/0/config/set/y", "syntax"),
    "transform of a number": (flow(with_config(transform("x"), set={"y": 1})), "/nodes/0/config/set/y", "wrong-type"),
    "no rules": (flow(branch("x")), "/nodes/0/config/rules", "out-of-range"),
    "rule without next": (
        flow({"id": "x", "type": "branch", "config": {"rules": [{"condition": cel("true")}]}}),
        "/nodes/0/config/rules/0",
        "missing-field",
    ),
    "rule to nowhere": (flow(branch("x", ("true", ["y"]))), "/nodes/0/config/rules/0/next/0", "unknown-node"),
    "default to nowhere": (flow(branch("x", ("true", []), default=["y"])), "/nodes/0/config/default/0", "unknown-node"),
    "bad CEL": (flow(branch("x", ("output..a", []))), "/nodes/0/config/rules/0/condition/expression", "syntax"),
    "unknown variable": (
        flow(branch("x", ("outptu.a > 1", []))),
        "/nodes/0/config/rules/0/condition/expression",
        "unknown-variable",
    ),
    "unknown function": (
        flow(branch("x", ("now() > 1", []))),
        "/nodes/0/config/rules/0/condition/expression",
        "unknown-function",
    ),
    "loop without break_path": (
        flow(A, with_config(LOOP) | {"config": without(LOOP["config"], "break_path")}, edges="a again"),
        "/nodes/1/config",
        "missing-field",
    ),
    "no iterations": (
        flow(A, with_config(LOOP, max_iterations=0), edges="a again"),
        "/nodes/1/config/max_iterations",
        "out-of-range",
    ),
    "loop_back_to nowhere": (
        flow(A, with_config(LOOP, loop_back_to="z"), edges="a again"),
        "/nodes/1/config/loop_back_to",
        "unknown-node",
    ),
    "timeout_path to nowhere": (
        flow(A, with_config(LOOP, timeout_path=["z"]), edges="a again"),
        "/nodes/1/config/timeout_path/0",
        "unknown-node",
    ),
    "config of a join": (flow(join("x", config={"mode": "all"})), "/nodes/0/config/mode", "unknown-field"),
}

READ = "/nodes/1/config/args/x"


def reading(text: str, first: Document = A, **fields: Any) -> Document:
    """first -> b, and b reads."""
    return flow(first, task("b", config={"args": {"x": "{{ " + text + " }}"}}), edges=f"{first['id']} b", **fields)


FORK = "s a, s b, a e, b e"
MEANING: dict[str, tuple[Document, str, str]] = {
    # rules 1 to 6
    "forward cycle": (flow(A, B, edges="a b, b a"), "/nodes/0", "forward-cycle"),
    "edge to itself": (flow(A, B, edges="a b, b b"), "/nodes/1", "forward-cycle"),
    "break_path that points backwards": (
        flow(A, loop("again", "a", ["a"]), edges="a again"),
        "/nodes/0",
        "forward-cycle",
    ),
    "a cycle that nothing enters": (flow(A, B, task("c"), edges="b c, c b"), "/nodes/1", "forward-cycle"),
    "loop to itself": (
        flow(A, loop("again", "again", []), edges="a again"),
        "/nodes/1/config/loop_back_to",
        "loop-to-itself",
    ),
    "loop ahead": (
        flow(A, B, loop("again", "b", ["b"]), edges="a again"),
        "/nodes/2/config/loop_back_to",
        "loop-does-not-lead-back",
    ),
    "overlapping passes": (
        flow(task("h"), loop("L", "h", ["K"]), loop("K", "L", []), edges="h L, h K"),
        "/nodes/2",
        "overlapping-passes",
    ),
    "side exit": (flow(A, task("x"), loop("L", "a", []), edges="a x, a L"), "/edges/0", "side-exit"),
    "side exit of a rule": (
        flow(A, branch("y", ("true", ["L", "x"])), task("x"), loop("L", "a", []), edges="a y"),
        "/nodes/1/config/rules/0/next/1",
        "side-exit",
    ),
    "join: any on a loop": (flow(A, loop("L", "a", []) | {"join": "any"}, edges="a L"), "/nodes/1/join", "join-any"),
    "join: any behind a loop's body": (
        flow(A, loop("L", "a", []), task("x", join="any"), edges="a L?, a x?"),
        "/nodes/2/join",
        "join-any",
    ),
    # names
    "unknown node": (reading("ctx.aa.output"), READ, "unknown-node"),
    "another part of a node": (reading("ctx.a.result"), READ, "no-such-field"),
    "ctx as a whole": (reading("size(ctx)"), READ, "whole-ctx"),
    "item": (reading("item.x"), READ, "outside-map"),
    "index": (reading("index"), READ, "outside-map"),
    # rule 7
    "a later node": (
        flow(task("a", config={"args": {"x": "{{ ctx.b.output }}"}}), B, edges="a b"),
        "/nodes/0/config/args/x",
        "not-run-before",
    ),
    "itself": (reading("ctx.b.output"), READ, "not-run-before"),
    "a sibling": (
        flow(task("s"), A, task("b", config={"args": {"x": "{{ ctx.a.output }}"}}), task("e"), edges=FORK),
        "/nodes/2/config/args/x",
        "not-run-before",
    ),
    "a sibling, guarded": (
        flow(task("s"), A, task("b", config={"args": {"x": "{{ has(ctx.a.output) }}"}}), task("e"), edges=FORK),
        "/nodes/2/config/args/x",
        "read-in-parallel",
    ),
    "a later arm": (
        flow(task("s"), A, task("b", join="any", config={"args": {"x": "{{ ctx.a.output }}"}}), edges="s a, s b, a b"),
        "/nodes/2/config/args/x",
        "read-in-parallel",
    ),
    # rule 8
    "field of an answer": (reading("ctx.grade.output.scor", GRADE), READ, "no-such-field"),
    "field of an answer in has()": (reading("has(ctx.grade.output.scor)", GRADE), READ, "no-such-field"),
    "field of a number": (reading("ctx.grade.output.score.x", GRADE), READ, "no-such-field"),
    "an answer without response_format": (reading("ctx.x.output.summary", agent("x")), READ, "no-such-field"),
    "field of the input": (reading("input.txt", input_schema=closed(text={})), READ, "no-such-field"),
    "field of a transform": (reading("ctx.t.output.z", transform("t", y="1")), READ, "no-such-field"),
    "field of what arrives": (reading("output.scor", GRADE), READ, "no-such-field"),
    "field of the run": (reading("run.user"), READ, "no-such-field"),
    "branch on a field": (
        flow(GRADE, branch("x", ("output.scor > 1", [])), edges="grade x"),
        "/nodes/1/config/rules/0/condition/expression",
        "no-such-field",
    ),
    "edge on a field": (
        flow(GRADE, B) | {"edges": [{"from": "grade", "to": "b", "condition": cel("output.scor > 1")}]},
        "/edges/0/condition/expression",
        "no-such-field",
    ),
    "loop behind a branch": (
        flow(GRADE, branch("x", ("true", ["again"])), loop("again", "grade", [], "output.scor < 1"), edges="grade x"),
        "/nodes/2/config/condition/expression",
        "no-such-field",
    ),
    "failure": (
        flow(task("a", on_error=["b"]), task("b", config={"args": {"x": "{{ output.error.reason }}"}})),
        READ,
        "no-such-field",
    ),
    "join": (
        flow(task("s"), A, B, join("j"), edges="s a, s b, a j, b j")
        | {
            "edges": [
                *flow(edges="s a, s b, a j, b j")["edges"],
                {"from": "j", "to": "z", "condition": cel("output.c.x")},
            ]
        }
        | {"nodes": [task("s"), A, B, join("j"), task("z")]},
        "/edges/4/condition/expression",
        "no-such-field",
    ),
    "entry": (
        flow(branch("x", ("input.a == output.b", [])), input_schema=closed(a={})),
        "/nodes/0/config/rules/0/condition/expression",
        "no-such-field",
    ),
}


@pytest.mark.parametrize(("document", "path", "code"), SHAPE.values(), ids=SHAPE)
def test_shape(document: Any, path: str, code: str) -> None:
    assert (path, code) in [(problem.path, problem.code) for problem in validate(document)]


@pytest.mark.parametrize(("document", "path", "code"), MEANING.values(), ids=MEANING)
def test_meaning(document: Document, path: str, code: str) -> None:
    assert [(problem.path, problem.code) for problem in validate(document)] == [(path, code)]


def test_tangled_loops() -> None:
    document = flow(
        task("a"),
        task("f"),
        loop("L", "f", []),
        loop("K", "O", []),
        loop("O", "K", ["f", "K"]),
        edges="a f, f L, f K",
    )
    tangled = [problem for problem in validate(document) if problem.code == "tangled-loops"]
    assert [problem.path for problem in tangled] == ["/nodes/2"]
    assert tangled[0].message == "Tangled loops: `L` and `K` would wait for each other for ever."


def test_passes_that_overlap_name_the_nodes_that_the_loop_would_not_wait_for() -> None:
    document = flow(task("h"), task("p"), loop("L1", "h", []), loop("L2", "h", []), edges="h L1, h p, p L2")
    found = {(problem.path, problem.code) for problem in validate(document)}
    assert ("/nodes/1", "overlapping-passes") in found
    assert {code for _, code in found} == {"overlapping-passes"}


def test_all_problems_at_once_in_the_order_of_the_document() -> None:
    document = flow(
        agent("extract", prompt="{{ inptu.text }}"),
        branch("quality", ("output.score >>> 1", ["formt"])),
        {"id": "x", "type": "htpp"},
        task("format"),
        edges="extract quality, extract nowhere",
        version=3,
    )
    assert [(problem.path, problem.code) for problem in validate(document)] == [
        ("/version", "unknown-field"),
        ("/nodes/0/config/prompt", "unknown-variable"),
        ("/nodes/1/config/rules/0/condition/expression", "syntax"),
        ("/nodes/1/config/rules/0/next/0", "unknown-node"),
        ("/nodes/2/type", "unknown-type"),
        ("/edges/1/to", "unknown-node"),
    ]


@pytest.mark.parametrize(
    ("document", "part"),
    [
        (flow(A | {"type": "functoin"}), "did you mean `function`?"),
        (flow(agent("x", promt="x")), "did you mean `prompt`?"),
        (flow(task("extract"), B, edges="extrct b"), "did you mean `extract`?"),
        (reading("ctx.grade.output.scor", GRADE), "did you mean `score`?"),
        (flow(branch("x", ("output.a >", []))), "character"),
        (flow(A, B, edges="a b, b a"), "a -> b -> a"),
        (flow(A, task("x"), loop("L", "a", []), edges="a x, a L"), "lead `x` to `L`, then the loop waits for it"),
    ],
)
def test_messages_help(document: Document, part: str) -> None:
    assert part in " ".join(problem.message for problem in validate(document))


def test_limits_are_named() -> None:
    limits = Limits(workflow_nodes=2, workflow_bytes=1_000, json_depth=8)
    assert [p.code for p in validate(flow(A, B, task("c")), limits)] == ["too-large"]
    assert "workflow_nodes" in validate(flow(A, B, task("c")), limits)[0].message
    assert "workflow_bytes" in validate(flow(A | {"description": "x" * 1_000}), limits)[0].message
    deep: Any = 1
    for _ in range(20):
        deep = [deep]
    assert "json_depth" in validate(flow(with_config(A, args={"x": deep})), limits)[0].message


def test_compile_raises_what_validate_lists() -> None:
    document = flow(A, edges="a c, a d")
    with pytest.raises(InvalidDocument) as caught:
        compile_workflow(document)
    assert list(caught.value.problems) == validate(document)


@pytest.mark.parametrize("schema", [{"properties": None}, {"allOf": 3}, {"$ref": 1}, [], None])
def test_what_a_broken_schema_says_is_not_asked(schema: Any) -> None:
    document = reading("ctx.x.output.summary", agent("x", response_format=schema))
    assert {problem.path.split("/")[4] for problem in validate(document)} == {"response_format"}


def test_ten_thousand_wrong_targets_are_bounded() -> None:
    assert 1 <= len(validate(flow(task("a", on_error=[f"missing{i}" for i in range(10_000)])))) <= 1_000
