"""What the IR says about maps: where nodes belong, what is read across scopes, what waits inside."""

from __future__ import annotations

from schemas.compiler.compiler import compile_workflow
from schemas.ir import Analysis
from tests.compiler.documents import Document, branch, flow, join, loop, mapped, opened, task, transform

A, B = task("a"), task("b")


def reader(text: str, name: str) -> Document:
    return task(name, config={"args": {"x": "{{ " + text + " }}"}})


def analyses(document: Document) -> dict[str, Analysis]:
    return {name: node.analysis for name, node in compile_workflow(document).ir.nodes.items()}


NEST = flow(
    task("s"),
    mapped(
        "m",
        reader("ctx.s.output.k + item.k", "x"),
        mapped(
            "n",
            reader("ctx.s.output.k + ctx.x.output.k", "p"),
            branch("q", ("ctx.x.output.y", [])),
            items="ctx.x.output.z",
            edges="p q",
        ),
        items="ctx.s.output.rows",
        edges="x n",
    ),
    transform("t", all="ctx.m.output"),
    edges="s m, m t",
)  # fmt: skip


def test_positions_and_maps() -> None:
    found = analyses(NEST)
    assert [(name, node.index, node.map) for name, node in found.items()] == [
        ("s", 0, None), ("m", 1, None), ("x", 2, "m"), ("n", 3, "m"), ("p", 4, "n"), ("q", 5, "n"), ("t", 6, None),
    ]  # fmt: skip
    assert {name: (node.entries, node.exit) for name, node in found.items() if node.exit} == {
        "m": (("x",), "n"),
        "n": (("p",), "q"),
    }
    assert {name: node.predecessors for name, node in found.items()} == {
        "s": (), "m": ("s",), "x": (), "n": ("x",), "p": (), "q": ("p",), "t": ("m",),
    }  # fmt: skip


def test_reads_across_scopes() -> None:
    found = analyses(NEST)
    assert {name: node.task_reads for name, node in found.items() if node.task_reads} == {"x": ("s",), "p": ("s", "x")}
    assert {name: node.route_reads for name, node in found.items() if node.route_reads} == {
        "m": ("s", "m"),  # its own items when it is opened, and `t`, decided when it is done
        "n": ("x",),
        "p": ("x",),  # `q` is decided in the same step
        "q": ("x",),
        "t": ("m",),
    }
    ir = compile_workflow(NEST).ir
    assert ir.addresses("p", ("s", "x")) == ("s@0", "x@1")
    assert [ir.level(name) for name in ir.nodes] == [0, 0, 1, 1, 2, 2, 0]


def test_what_is_opened_is_not_decided_in_passing() -> None:
    found = analyses(flow(task("s"), opened("wait", "w", event="e", key="{{ ctx.s.output.k + input.k }}"), edges="s w"))
    assert (found["s"].route_reads, found["s"].route_input) == ((), False)
    assert (found["w"].route_reads, found["w"].route_input, found["w"].task_reads) == (("s",), True, ())


def test_waiting_is_that_of_the_sub_graph() -> None:
    found = analyses(
        flow(
            task("s"), task("u"), mapped("m", task("p"), A, B, join("j"), edges="p a, p b, a j, b j"), join("k"),
            edges="s k, u m, m k",
        )
    )  # fmt: skip
    assert {name for name, node in found.items() if node.waits} == {"j", "k"}
    assert {name: node.blocks for name, node in found.items() if node.blocks} == {
        "s": ("k",), "u": ("k",), "m": ("k",), "p": ("j",), "a": ("j",), "b": ("j",),
    }  # fmt: skip


def test_loops_are_those_of_the_sub_graph() -> None:
    found = analyses(
        flow(mapped("m", A, loop("K", "a", []), edges="a K"), loop("L", "m", [], "iteration < 2"), edges="m L")
    )
    assert {name: node.within for name, node in found.items()} == {"m": "L", "a": "K", "K": "K", "L": "L"}
    assert (found["K"].body, found["L"].body, found["L"].inner) == (("a", "K"), ("m", "L"), ())
    assert found["a"].route_loops == ("K",)
    assert found["m"].route_loops == ("L",)


def test_a_deadline_is_a_way_as_on_error_is() -> None:
    human = opened("human", "h", deadline_ms=5, deadline_path=["b", "c"])
    document = flow(human, B, task("c"), join("j"), edges="h j, b j, c j")
    ir = compile_workflow(document).ir
    assert ir.nodes["h"].deadline_path == ("b", "c")
    assert {name for name, node in ir.nodes.items() if node.analysis.waits} == {"j"}  # b and c may run together
    assert ir.nodes["b"].analysis.predecessors == ("h",)
