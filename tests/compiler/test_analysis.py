"""What the IR says about streams, reads and loop counts; and that an IR survives being stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.compiler.analysis import model_pool
from schemas.compiler.compiler import compile_workflow, validate
from schemas.ir import IR, Analysis
from schemas.workflow import read_workflow
from tests.compiler.documents import Document, agent, branch, cel, closed, flow, join, loop, task, transform

SCREENING = Path(__file__).parents[2] / "examples" / "screening" / "workflow.yaml"


def analyses(document: Document) -> dict[str, Analysis]:
    return {name: node.analysis for name, node in compile_workflow(document).ir.nodes.items()}


def test_streams_and_pools() -> None:
    found = analyses(
        flow(
            agent("a"),
            agent("b", options={"temperature": 0, "num_predict": 9}),
            agent("c", options={"num_ctx": 4096, "temperature": 0}),
            task("d"),
            transform("e", x="1"),
        )
    )
    assert [(node.stream, node.pool) for node in found.values()] == [
        ("wf.tasks.agent.gemma3:4b", "gemma3:4b"),
        ("wf.tasks.agent.gemma3:4b", "gemma3:4b"),
        ("wf.tasks.agent.gemma3:4b#5c8861c5", "gemma3:4b#5c8861c5"),  # sha256 of {"num_ctx":4096}
        ("wf.tasks.function", None),
        (None, None),
    ]


def test_pool_depends_on_load_options_and_not_on_their_order() -> None:
    one = model_pool({"model": "m", "options": {"num_ctx": 1, "num_gpu": 2, "seed": 1}})
    assert one == model_pool({"model": "m", "options": {"num_gpu": 2, "num_ctx": 1, "seed": 2}})
    assert one != model_pool({"model": "m", "options": {"num_ctx": 2, "num_gpu": 2}})


def test_reads_of_tasks_and_of_what_is_decided_behind_them() -> None:
    found = analyses(
        flow(
            task("a"),
            task("b", config={"args": {"x": "{{ ctx.a.output.x }}"}}),
            transform("t", y="ctx.a.output.y"),
            branch("w", ("ctx.b.output.z", ["c"]), default=["L"]),
            loop("L", "b", ["d"], "ctx.t.output.y && ctx.c.output.n"),
            task("c"),
            task("d"),
            edges="a b, b t, t w, c L",
        )
    )
    assert {name: node.task_reads for name, node in found.items() if node.task_reads} == {"b": ("a",)}
    assert {name: node.route_reads for name, node in found.items() if node.route_reads} == {
        "b": ("a", "b", "t", "c"),  # t, w and L are decided in the same step
        "t": ("a", "b", "t", "c"),
        "w": ("b", "t", "c"),
        "L": ("t", "c"),
        "c": ("t", "c"),
    }
    assert {name for name, node in found.items() if node.route_loops == ("L",)} == {"b", "t", "w", "L", "c"}
    assert found["a"].route_loops == found["d"].route_loops == ()


def test_what_waits_is_decided_in_a_later_step() -> None:
    document = flow(task("s"), task("a"), task("b"), join("j"), task("e"), edges="s a, s b, a j, b j, j e")
    document["edges"][-1]["condition"] = cel("ctx.s.output.x")
    found = analyses(document)
    assert {name: node.route_reads for name, node in found.items() if node.route_reads} == {"j": ("s",)}


def test_a_node_may_read_its_own_output_in_the_conditions_of_its_edges() -> None:
    document = flow(task("a"), task("b"), edges="a b?")
    document["edges"][0]["condition"] = cel("ctx.a.output.x > 1")
    assert analyses(document)["a"].route_reads == ("a",)


def test_predecessors_over_all_kinds_of_edges() -> None:
    found = analyses(
        flow(
            task("f", on_error=["h"]),
            task("h"),
            loop("L", "h", ["e"], timeout_path=["x"]),
            task("x"),
            task("e"),
            edges="f h, h L, x e",
        )
    )
    assert [node.predecessors for node in found.values()] == [(), ("f", "L"), ("h",), ("L",), ("L", "x")]


def test_two_targets_of_on_error_and_entries_fork_too() -> None:
    forked = flow(task("a", on_error=["b", "c"]), task("b"), task("c"), join("j"), edges="b j, c j")
    assert analyses(forked)["j"].waits
    assert analyses(flow(task("a"), task("b"), join("j"), edges="a j, b j"))["j"].waits


def test_a_join_behind_exclusive_paths_does_not_wait() -> None:
    found = analyses(
        flow(
            task("s"),
            branch("x", ("output.k", ["a"]), default=["b"]),
            task("a"),
            task("b"),
            join("j"),
            edges="s x, a j, b j",
        )
    )
    assert not found["j"].waits


def test_join_any_does_not_wait() -> None:
    document = flow(task("s"), task("a"), task("b"), task("j", join="any"), edges="s a, s b, a j, b j")
    ir = compile_workflow(document).ir
    assert not ir.nodes["j"].analysis.waits
    assert ir.lanes


def test_stored_and_read_again() -> None:
    document = flow(
        agent("g", response_format=closed(score={"type": "integer"})),
        branch("x", ("output.score >= 80", ["e"]), default=["i"]),
        task("i", retry={"max_attempts": 7}, on_error=["e"]),
        loop("L", "i", ["e"]),
        task("e"),
        edges="g x, i L?",
        defaults={"timeout_ms": 5, "retry": {"backoff_ms": 3}},
    )
    ir = compile_workflow(document).ir
    again = IR.from_json(ir.text)
    assert again == ir
    assert again.digest == ir.digest == compile_workflow(document).ir.digest
    assert again.nodes["i"].retry.max_attempts == 7
    assert (again.nodes["i"].retry.backoff_ms, again.nodes["i"].timeout_ms) == (3, 5)


def test_the_ir_keeps_no_part_of_the_document_it_was_given() -> None:
    document = flow(task("a"))
    ir = compile_workflow(document).ir
    document["nodes"][0]["config"]["handler"] = "other"
    assert ir.nodes["a"].config["handler"] == "h"


def test_screening() -> None:
    compiled = compile_workflow(read_workflow(SCREENING.read_bytes(), "yaml"))
    assert compiled.warnings == ()
    ir = compiled.ir
    assert ir.entries == ("extract",)
    assert list(ir.nodes) == ["extract", "grade", "quality", "improve", "regrade", "again", "format"]
    assert {n.analysis.pool for n in ir.nodes.values()} == {"gemma3:4b", "qwen2.5:7b", "phi3", "gemma2:2b", None}
    assert not any(node.analysis.waits for node in ir.nodes.values())
    again = ir.nodes["again"].loop
    assert again is not None
    assert (again.form, again.body, again.max_iterations) == ("do-while", {"improve", "regrade", "again"}, 3)


@pytest.mark.parametrize("field", ["summary", "scroe"])
def test_screening_is_checked_for_the_fields_that_it_reads(field: str) -> None:
    document = read_workflow(SCREENING.read_bytes(), "yaml")
    document["nodes"][2]["config"]["rules"][0]["condition"]["expression"] = f"output.{field} >= 80"
    problems = validate(document)
    assert [(p.path, p.code) for p in problems] == [
        ("/nodes/2/config/rules/0/condition/expression", "no-such-field"),
    ]
    assert "`score`, `reason`" in problems[0].message
