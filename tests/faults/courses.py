"""The runs that the faults meet: from a run's id alone follow its workflow, its input and the outcome of each task.

- `course-<n>` walks through the graph: chain, fork, join, retry, on_error, branch, loop, large values;
- `brief-<n>` is one task after another, for batches of many;
- `tour-<n>` through what takes its time: a wait, a person, a child run, a map with a fork, a loop, a map and a child
  run in each item; `tour-<n>:<path>` is such a child. In every second tour a child fails its run, until it is retried;
- `mass-<n>` is a map of many items, one of which fails every second run, until it is retried;
- `case-<seed>` is a random workflow of tests/reference.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Iterable
from functools import cache, partial
from typing import Any

from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow, validate
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.submission import Start, make_start
from tests.faults.documents import CHILD, COURSE, MASS, TOUR
from tests.reference.generator import Case, case
from tests.reference.interpreter import judge
from tests.reference.records import Completed, Failed
from tests.reference.script import Script
from tests.routing.judged import wordless_case

BATCH = "batch-1"
RETENTION_MS = 600_000
PADDING = "x" * LIMITS.inline_bytes
MASS_ITEMS = 240


@cache
def case_of(run_id: str) -> Case:
    """The case of a run, its failures classed as a handler's are. Every fourth course and tour has large outputs."""
    kind, _, rest = run_id.partition("-")
    number = int(rest.partition(":")[0])
    large = kind in ("course", "tour", "brief") and number % 4 == 0
    if ":" in rest:
        return _of_handlers(_child(number), large)
    return _of_handlers(CASES[kind](number), large)


def _course(number: int) -> Case:
    script = Script(number, {"flaky": 1, "left": 1}, frozenset({"right"}))
    return Case(COURSE, {"k": number % 4, "ok": True, "n": number}, script)


def _brief(number: int) -> Case:
    return Case(CHILD, {"n": number}, Script(number))


def _tour(number: int) -> Case:
    script = Script(number, {"open": 1, "part": 1}, frozenset({"part", "close"}))
    return Case(TOUR, {"n": number}, script)


def _child(number: int) -> Case:
    """Its input is what its parent gives it."""
    return Case(CHILD, {}, Script(number, {"work": 1}))


def _mass(number: int) -> Case:
    return Case(MASS, {"items": [{"n": n} for n in range(MASS_ITEMS)]}, Script(number))


def _random_case(seed: int) -> Case:
    return case(random.Random(seed))


CASES = {"course": _course, "brief": _brief, "tour": _tour, "mass": _mass, "case": _random_case}


def _of_handlers(made: Case, large: bool) -> Case:
    made = wordless_case(made)
    outcome_of = partial(_outcome_of, made, large)
    return dataclasses.replace(made, outcome_of=outcome_of)  # type: ignore[arg-type]  # a Script is called, no more


def _outcome_of(made: Case, large: bool, node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
    if node in ("call", "visit"):
        return Completed(judge(CHILD, output, _of_handlers(_child(made.input["n"]), large).outcome_of).output)
    outcome = made.outcome_of(node, attempt, iteration, None if node == "ask" else output)
    if isinstance(outcome, Failed):
        return outcome._replace(error_class="handler")
    padding = {"large": PADDING} if large else {}
    if node == "plan":
        return Completed({**outcome.value, "items": [{"n": n, "parts": _parts(n), **padding} for n in range(5)]})
    return Completed({**outcome.value, **padding})


def _parts(item: int) -> list[dict[str, int]]:
    return [{"of": item, "n": n} for n in range(item)]


def is_mortal(run_id: str, node: str, output: Any) -> bool:
    """Whether a task fails for good, and its run with it, until the run has been retried."""
    if found := re.fullmatch(r"mass-(\d+)", run_id):
        return int(found[1]) % 2 == 1 and node == "weigh" and bool(output["k"] == 3)
    if found := re.fullmatch(r"tour-(\d+):\d+", run_id):
        return int(found[1]) % 2 == 1 and node == "check"
    return False


@cache
def ir_of(run_id: str) -> IR:
    return compile_workflow(case_of(run_id).workflow).ir


def course_ids(count: int) -> list[str]:
    return [f"course-{number}" for number in range(count)]


def brief_ids(count: int) -> list[str]:
    return [f"brief-{number}" for number in range(count)]


def tour_ids(count: int) -> list[str]:
    return [f"tour-{number}" for number in range(count)]


def mass_ids(count: int) -> list[str]:
    return [f"mass-{number}" for number in range(count)]


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
