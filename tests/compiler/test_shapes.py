"""The shapes that broke the naive rule of joins: what the compiler must find out about each, written by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from schemas.compiler.compiler import compile_workflow, validate
from tests.compiler.documents import Document, branch, flow, join, loop, task


@dataclass(frozen=True)
class Known:
    """waits: waiting node -> its blockers. bodies: loop -> (form, body, inner loops), names separated by spaces."""

    document: Document
    waits: dict[str, str]
    bodies: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    within: dict[str, str] = field(default_factory=dict)  # the others are in no loop
    entries: str = "h"


def tasks(names: str) -> list[Document]:
    return [task(name) for name in names.split()]


SHAPES = {
    "1: a join waits for its own arms only": Known(
        flow(
            *tasks("h slow b1 c1 j1 k1 b2 c2 j2 k2"),
            loop("L", "h", ["end"]),
            task("end"),
            edges="h slow, h b1, h c1, h b2, h c2, b1 j1, c1 j1, j1 k1, b2 j2, c2 j2, j2 k2, slow L, k1 L, k2 L",
        ),
        waits={"j1": "h b1 c1", "j2": "h b2 c2", "L": "h slow b1 c1 j1 k1 b2 c2 j2 k2"},
        bodies={"L": ("do-while", "h slow b1 c1 j1 k1 b2 c2 j2 k2 L", "")},
        within=dict.fromkeys(["h", "slow", "b1", "c1", "j1", "k1", "b2", "c2", "j2", "k2", "L"], "L"),
    ),
    "2: a while loop in a do-while, and what leaves it early": Known(
        flow(
            task("h"),
            task("arm", on_error=["sorry"]),
            loop("w", "w1", ["L"], "output.k"),
            task("w1"),
            loop("L", "h", ["end"]),
            task("sorry"),
            task("end"),
            edges="h arm, h w, w1 w, arm L",
        ),
        waits={
            "w": "h w1",  # not the arm, which never comes to it in this pass of L
            "L": "h arm w w1",
            "sorry": "h arm w w1 L",  # until the loop is over
        },
        bodies={"w": ("while", "w w1", ""), "L": ("do-while", "h arm w w1 L", "w")},
        within={"h": "L", "arm": "L", "w": "w", "w1": "w", "L": "L"},
    ),
    "3: nested loops": Known(
        flow(
            *tasks("o h"),
            loop("inner", "h", ["outer"]),
            loop("outer", "o", ["end"]),
            task("end"),
            edges="o h, h inner",
        ),
        waits={},
        bodies={"inner": ("do-while", "h inner", ""), "outer": ("do-while", "o h inner outer", "inner")},
        within={"o": "outer", "h": "inner", "inner": "inner", "outer": "outer"},
        entries="o",
    ),
    "4: a loop that nothing else enters": Known(
        flow(task("draft"), loop("check", "draft", ["end"]), task("end"), edges="draft check"),
        waits={},
        bodies={"check": ("do-while", "draft check", "")},
        within={"draft": "check", "check": "check"},
        entries="draft",
    ),
    "8: two siblings before a join": Known(
        flow(*tasks("a b c"), join("j"), edges="a b, a c, b j, c j"), waits={"j": "a b c"}, entries="a"
    ),
    "form 3: a loop that is entered beside its target": Known(
        flow(
            branch("way", ("input.k", ["h"]), default=["side"]),
            *tasks("h side"),
            loop("L", "h", ["end"]),
            task("end"),
            edges="h L, side L",
        ),
        waits={},
        bodies={"L": ("paths", "h L", "")},
        within={"h": "L", "L": "L"},
        entries="way",
    ),
}

REFUSED = {
    "5: a break_path that points backwards": (
        flow(*tasks("a b"), loop("L", "b", ["a"]), edges="a b, b L"),
        {"forward-cycle"},
    ),
    "6: passes that overlap": (
        flow(*tasks("h p"), loop("L1", "h", []), loop("L2", "h", []), edges="h L1, h p, p L2"),
        {"overlapping-passes"},
    ),
    "7: a side exit": (flow(*tasks("a x"), loop("L", "a", []), edges="a x, a L"), {"side-exit"}),
}


def words(text: str) -> set[str]:
    return set(text.split())


@pytest.mark.parametrize("known", SHAPES.values(), ids=SHAPES)
def test_shape(known: Known) -> None:
    ir = compile_workflow(known.document).ir
    analyses = {name: node.analysis for name, node in ir.nodes.items()}
    assert set(ir.entries) == words(known.entries)
    assert {name for name, found in analyses.items() if found.waits} == set(known.waits)
    blockers = {name: {other for other, found in analyses.items() if name in found.blocks} for name in known.waits}
    assert blockers == {name: words(text) for name, text in known.waits.items()}
    bodies = {name: (found.form, set(found.body), set(found.inner)) for name, found in analyses.items() if found.form}
    assert bodies == {name: (form, words(body), words(inner)) for name, (form, body, inner) in known.bodies.items()}
    assert {name: found.within for name, found in analyses.items() if found.within} == known.within


@pytest.mark.parametrize(("document", "codes"), REFUSED.values(), ids=REFUSED)
def test_refused(document: Document, codes: set[str]) -> None:
    assert {problem.code for problem in validate(document)} == codes


def test_side_exit_led_to_the_loop_is_accepted() -> None:
    assert validate(flow(*tasks("a x"), loop("L", "a", []), edges="a x, a L, x L")) == []


def test_side_exit_whose_edges_are_all_conditional_is_accepted() -> None:
    assert validate(flow(*tasks("a x"), loop("L", "a", []), edges="a x?, a L?")) == []
