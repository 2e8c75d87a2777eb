"""The shapes of the routing semantics on the real scripts, against traces written by hand."""

import random
from collections import Counter

import pytest

from schemas.compiler.compiler import validate
from schemas.fold import fold
from schemas.run_state import run_output
from tests.reference.generator import Case
from tests.reference.golden import GOLDEN, INPUT, REFUSED, step
from tests.reference.golden_maps import GOLDEN_MAPS
from tests.reference.graph import every_node
from tests.routing.judged import JudgedPlay, wordless


@pytest.mark.parametrize("golden", (GOLDEN | GOLDEN_MAPS).values(), ids=GOLDEN | GOLDEN_MAPS)
async def test_the_engine_does_what_was_written_by_hand(redis, golden):
    tasks = {node["id"] for node in every_node(golden.workflow) if node["type"] == "function"}
    expected = Counter(one for one in golden.trace.split() if one.split(":")[0] in tasks)
    for order in range(4):
        await redis.flushdb()
        play = JudgedPlay(redis, Case(golden.workflow, INPUT, golden.outcome_of), random.Random(order))
        await play.play()
        assert Counter(map(step, play.seen.values())) == expected
        assert await play.status() == "COMPLETED"
        assert wordless(run_output(fold(await play.events()))) == wordless(golden.output)
        assert {loop: n for loop, n in (await play.loop_counts()).items() if n} == golden.loop_counts
        assert await play.differences() == []


@pytest.mark.parametrize(("rule", "workflow"), REFUSED.values(), ids=REFUSED)
def test_what_routing_refuses_is_refused(rule, workflow):
    assert validate(workflow), rule
