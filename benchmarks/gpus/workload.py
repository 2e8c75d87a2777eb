"""Workload S as a workflow document, and the yardstick's items as its inputs: the same items, task by task."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.gpusim.gpusim import Item
from benchmarks.gpusim.workloads import G2, G3, P3, Q7
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR

MODEL_OF = {3: G3, 4: G2, 5: Q7, 6: Q7, 7: Q7, 9: P3, 12: G3, 13: G2, 14: P3, 19: Q7, 20: G2, 21: Q7}
"""The model of each step of the yardstick's `wf3001`. Its other steps need none: they are decided on the way."""
IMPROVE, REGRADE = 6, 7
"""The steps of a pass of its loop."""
_WORK = re.compile(r"work=([0-9.e-]+)")


def _agent(step: int, seconds: str) -> dict[str, Any]:
    return {
        "id": f"s{step}",
        "type": "agent",
        "config": {"model": MODEL_OF[step], "prompt": f"work={{{{ {seconds} }}}}"},
    }


def _block(name: str, first: int, otherwise: list[str]) -> dict[str, Any]:
    """A gate: the block that begins with this step, where the item has it."""
    rule = {"condition": {"type": "cel", "expression": f"has(input.work.s{first})"}, "next": [f"s{first}"]}
    return {"id": name, "type": "branch", "config": {"rules": [rule], "default": otherwise}}


SCREENING = {
    "id": "screening",
    "description": "Summaries (improved until they are good, three times at most), skills, and what follows from both",
    "nodes": [
        _block("summary", 3, ["skills"]),
        *(_agent(step, f"input.work.s{step}") for step in MODEL_OF if step not in (IMPROVE, REGRADE)),
        {
            "id": "again",
            "type": "loop",
            "config": {
                "condition": {"type": "cel", "expression": "iteration < size(input.passes)"},
                "loop_back_to": f"s{IMPROVE}",
                "max_iterations": 3,
                "break_path": ["s9"],
            },
        },
        _agent(IMPROVE, "input.passes[iteration].improve"),
        _agent(REGRADE, "input.passes[iteration].regrade"),
        _block("skills", 12, ["institute"]),
        _block("institute", 19, []),
    ],
    "edges": [
        {"from": before, "to": after}
        for before, after in (
            ("s3", "s4"), ("s4", "s5"), ("s5", "again"), ("s6", "s7"), ("s7", "again"), ("s9", "skills"),
            ("s12", "s13"), ("s13", "s14"), ("s14", "institute"), ("s19", "s20"), ("s20", "s21"),
        )
    ],
}  # fmt: skip


def screening() -> IR:
    return compile_workflow(SCREENING).ir


def interactive(model: str) -> IR:
    """One question to one model."""
    node = {"id": "answer", "type": "agent", "config": {"model": model, "prompt": "work={{ input.work }}"}}
    return compile_workflow({"id": "question", "nodes": [node]}).ir


def input_of(item: Item) -> dict[str, Any]:
    """What the item is to its run: solo seconds of each of its tasks."""
    tasks = [(step, seconds) for step, model, seconds in item.path if model]
    work = {f"s{step}": seconds for step, seconds in tasks if step not in (IMPROVE, REGRADE)}
    improved, regraded = ([seconds for step, seconds in tasks if step == which] for which in (IMPROVE, REGRADE))
    passes = [{"improve": one, "regrade": two} for one, two in zip(improved, regraded, strict=True)]
    return {"work": work, "passes": passes}


def work_of(prompt: str) -> float:
    """The solo seconds that a prompt asks for."""
    found = _WORK.search(prompt)
    if found is None:
        raise ValueError(f"a prompt without work: {prompt[:200]}")
    return float(found[1])
