"""The machine against the product: a recorded run that is routed again by its own workflow comes out as it did."""

import os
import random

import pytest

from schemas.compiler.compiler import validate
from tests.reference.generator import case, whole_case
from tests.routing.judged import JudgedPlay
from tests.routing.unrest import COURSES, Unrest
from tests.whatif.differential import differences

WORKFLOWS = int(os.environ.get("PAVANE_TEST_WORKFLOWS", "6"))
"""Workflows of each course; of the spine, whose runs are short, twice as many."""


@pytest.mark.parametrize("course", ["spine", *COURSES])
async def test_a_run_by_its_own_workflow(redis, course):
    """Path, outputs, decisions and end, whatever the order; of runs that were cut off, as far as they had come."""
    played = 0
    for seed in range(2 * WORKFLOWS if course == "spine" else WORKFLOWS):
        rng = random.Random(f"{course} {seed}")
        if course == "spine":
            unrest, made = Unrest(check_every=0), case(random.Random(seed))
        else:
            unrest = COURSES[course](rng)
            made = whole_case(random.Random(seed), unrest.mortal)
        if validate(made.workflow):
            continue
        await redis.flushdb()
        play = JudgedPlay(redis, made, rng, unrest)
        await play.play()
        assert differences(await play.events(), play.ir) == [], seed
        played += 1
    assert played
