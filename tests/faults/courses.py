"""The runs that the faults meet: from a run's id alone follow its workflow, its input and the outcome of each task.

`course-<n>` walks through everything (chain, fork, join, retry, on_error, branch, loop, large values); `case-<seed>` is
a random workflow of tests/reference.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from functools import cache
from typing import Any

from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow, validate
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.submission import Start, make_start
from tests.reference.generator import Case, case, node_of
from tests.reference.interpreter import Completed, Failed
from tests.reference.script import Script
from tests.routing.judged import wordless_case

BATCH = "batch-1"
RETENTION_MS = 600_000
PADDING = "x" * LIMITS.inline_bytes


def _step(name: str, **more: Any) -> dict[str, Any]:
    return {**node_of(random.Random(0), name, "function"), "retry": {"max_attempts": 3, "backoff_ms": 1}, **more}


COURSE = {
    "id": "course",
    "nodes": [
        _step("first"), _step("second"), _step("left"), _step("right", on_error=["rescue"]), _step("rescue"),
        {"id": "both", "type": "join", "config": {}},
        _step("flaky"),
        {"id": "sort", "type": "branch", "config": {
            "rules": [{"condition": {"type": "cel", "expression": "output.ok"}, "next": ["improve"]}],
            "default": ["last"]}},
        _step("improve"),
        {"id": "again", "type": "loop", "config": {
            "condition": {"type": "cel", "expression": "output.k < 3"}, "loop_back_to": "improve", "max_iterations": 3,
            "break_path": ["last"], "timeout_path": ["last"]}},
        _step("last"),
    ],
    "edges": [
        {"from": source, "to": target}
        for source, target in [
            ("first", "second"), ("second", "left"), ("second", "right"), ("left", "both"), ("right", "both"),
            ("rescue", "both"), ("both", "flaky"), ("flaky", "sort"), ("improve", "again"),
        ]
    ],
}  # fmt: skip


@cache
def case_of(run_id: str) -> Case:
    """The case of a run, its failures classed as a handler's are. Every fourth course has large outputs."""
    kind, _, number = run_id.partition("-")
    if kind == "course":
        script = Script(int(number), {"flaky": 1, "left": 1}, frozenset({"right"}))
        made = Case(COURSE, {"k": int(number) % 4, "ok": True, "n": int(number)}, script)
    else:
        made = case(random.Random(int(number)))
    made = wordless_case(made)
    outcome_of, large = made.outcome_of, kind == "course" and int(number) % 4 == 0

    def of_a_handler(node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
        outcome = outcome_of(node, attempt, iteration, output)
        if isinstance(outcome, Failed):
            return outcome._replace(error_class="handler")
        return Completed({**outcome.value, "large": PADDING}) if large else outcome

    return dataclasses.replace(made, outcome_of=of_a_handler)  # type: ignore[arg-type]  # a Script is called, no more


@cache
def ir_of(run_id: str) -> IR:
    return compile_workflow(case_of(run_id).workflow).ir


def course_ids(count: int) -> list[str]:
    return [f"course-{number}" for number in range(count)]


def case_ids(count: int) -> list[str]:
    """Random workflows that the compiler accepts."""
    seeds = (seed for seed in range(10_000) if not validate(case(random.Random(seed)).workflow))
    return [f"case-{seed}" for seed, _ in zip(seeds, range(count), strict=False)]


def starts_of(run_ids: Iterable[str]) -> list[Start]:
    return [
        make_start(run_id, ir_of(run_id), case_of(run_id).input, request=run_id, batch_id=BATCH, key=run_id,
                   retention_ms=RETENTION_MS)
        for run_id in run_ids
    ]  # fmt: skip


async def start_runs(store: RunStore, run_ids: Iterable[str]) -> None:
    answers = await store.start_runs([start.arguments() for start in starts_of(run_ids)])
    assert set(answers) == {"started"}
