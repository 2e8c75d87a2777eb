"""The engine (scripts, decide, compiler, fold) against the reference interpreter of the routing semantics.

`PAVANE_TEST_WORKFLOWS=20000 pytest tests/routing/test_against_reference.py --timeout 0` plays so many of each course.
"""

import os
import random
from collections.abc import Iterator

import pytest

from schemas.compiler.compiler import validate
from tests.reference.generator import Case, case, whole_case
from tests.routing.judged import JudgedPlay
from tests.routing.unrest import COURSES, Unrest

BLOCKS = 8
WORKFLOWS = 10
ORDERS = 2
WHOLE = int(os.environ.get("PAVANE_TEST_WORKFLOWS", "32"))
"""Workflows of each course, in the whole language."""
WHOLE_BLOCKS = 4
ACCEPTED = 0.75
"""The share of those at least that the compiler accepts: what it refuses reads a field that an output cannot have."""


def accepted(block: int) -> Iterator[tuple[int, Case]]:
    """The cases of a block that the compiler accepts. The generator knows the graph's rules and not those on fields:
    what it makes may only be refused for reading a field that a join's output cannot have."""
    for seed in range(block * WORKFLOWS, (block + 1) * WORKFLOWS):
        made = case(random.Random(seed))
        problems = validate(made.workflow)
        assert {problem.code for problem in problems} <= {"no-such-field"}, (seed, problems)
        if not problems:
            yield seed, made


@pytest.mark.parametrize("block", range(BLOCKS))
async def test_random_workflows_in_random_orders(redis, block):
    """The same executions, outputs and status as the reference, whatever the order; duplicates change nothing."""
    for seed, made in accepted(block):
        for order in range(ORDERS):
            await redis.flushdb()
            play = JudgedPlay(redis, made, random.Random(f"{seed} {order}"), Unrest(check_every=0))
            await play.play()
            assert await play.differences() == [], (seed, order)


@pytest.mark.parametrize("block", range(WHOLE_BLOCKS))
@pytest.mark.parametrize("course", COURSES)
async def test_the_whole_language_in_random_orders(redis, course, block):
    """Likewise with maps and all that waits to be answered, while the run is paused, cancelled, or fails and is
    retried; and the books are right at every moment: counters, keys, and what the events fold to."""
    seeds = range(block * WHOLE // WHOLE_BLOCKS, (block + 1) * WHOLE // WHOLE_BLOCKS)
    refused = 0
    for seed in seeds:
        rng = random.Random(f"{course} {seed}")
        unrest = COURSES[course](rng)
        made = whole_case(random.Random(seed), unrest.mortal)
        problems = validate(made.workflow)
        assert {problem.code for problem in problems} <= {"no-such-field"}, (seed, problems)
        refused += bool(problems)
        if not problems:
            await redis.flushdb()
            play = JudgedPlay(redis, made, rng, unrest)
            await play.play()
            assert await play.differences() == [], seed
    assert refused <= (1 - ACCEPTED) * len(seeds)


@pytest.mark.parametrize("seed", [2468, 3439])
async def test_workflows_that_once_told_something(redis, seed):
    """2468: a later pass with an equal depth. 3439: of two lanes one fails, and gives no output."""
    made = case(random.Random(seed))
    for order in range(8):
        await redis.flushdb()
        play = JudgedPlay(redis, made, random.Random(f"{seed} {order}"))
        await play.play()
        assert await play.differences() == [], order
