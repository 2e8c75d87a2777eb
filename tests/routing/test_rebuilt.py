"""Random workflows whose runs are read back from Redis at any step, forked at any event, and lost beside."""

import os
import random

import pytest

from schemas.compiler.compiler import validate
from tests.reference.generator import whole_case
from tests.routing.rebuilt import ForkedPlay
from tests.routing.unrest import COURSES

WORKFLOWS = int(os.environ.get("PAVANE_TEST_WORKFLOWS", "6"))


@pytest.mark.parametrize("course", ["orders", "pauses", "retries", "losses"])
async def test_forks_come_to_what_their_runs_would_have(redis, course):
    """The same executions, outputs and status as the reference; nothing that had finished is executed again; the books
    are right at every moment, and what Redis holds is what the events fold to."""
    forks = 0
    for seed in range(WORKFLOWS):
        rng = random.Random(f"forks {course} {seed}")
        unrest = COURSES[course](rng)
        made = whole_case(random.Random(seed), unrest.mortal)
        if not validate(made.workflow):
            await redis.flushdb()
            play = ForkedPlay(redis, made, rng, unrest, forks=3)
            await play.play()
            assert await play.differences() == [], seed
            forks += play.forked
    assert forks
