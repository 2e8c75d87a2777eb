"""Patches written by hand, with what must come of them, on the real scripts."""

import random
from collections import Counter

import pytest

from schemas.fold import fold
from schemas.messages import Task
from schemas.run_state import run_output
from tests.reference.generator import Case
from tests.reference.golden import INPUT, Workflow, step
from tests.reference.golden_patches import GOLDEN_PATCHES
from tests.reference.graph import every_node
from tests.routing.judged import wordless
from tests.routing.patched import PatchedPlay
from tests.routing.unrest import Unrest


@pytest.mark.parametrize("golden", GOLDEN_PATCHES.values(), ids=GOLDEN_PATCHES)
async def test_the_engine_does_what_was_written_by_hand(redis, golden):
    for order in range(3):
        await redis.flushdb()
        case = Case(golden.workflow, INPUT, golden.outcome_of)
        play = PatchedPlay(redis, case, random.Random(order), Unrest(late=0), patches=0)
        await play.start(input=INPUT)
        before, after = of_tasks(golden.before, golden.workflow), of_tasks(golden.after, golden.patched)
        for name in before:
            await play.settle()
            await play.execute(next(task for task in await play.tasks() if is_at(task, name)))
        await play.settle()
        assert await play.try_patch(golden.patched, golden.cancel, golden.restart) == "made"
        await play.go_on(limit=300)
        assert Counter(map(step, play.seen.values())) == Counter(before + after)
        assert await play.status() == "COMPLETED"
        assert wordless(run_output(fold(await play.events()))) == wordless(golden.output)
        assert {loop: n for loop, n in (await play.loop_counts()).items() if n} == golden.loop_counts
        assert await play.differences() == []


def of_tasks(trace: str, workflow: Workflow) -> list[str]:
    tasks = {node["id"] for node in every_node(workflow) if node["type"] == "function"}
    return [one for one in trace.split() if one.partition(":")[0] in tasks]


def is_at(task: Task, name: str) -> bool:
    name, _, item = name.partition("/")
    return task.node_id == name.partition(":")[0] and task.scope.rpartition("-")[2] == item
