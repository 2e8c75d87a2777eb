"""The engine (scripts, decide, compiler, fold) against the reference interpreter of the routing semantics."""

import random
from collections.abc import Iterator

import pytest

from schemas.compiler.compiler import validate
from tests.reference.generator import Case, case
from tests.routing.judged import JudgedPlay

BLOCKS = 8
WORKFLOWS = 25
ORDERS = 2


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
            play = JudgedPlay(redis, made, random.Random(f"{seed} {order}"))
            await play.play()
            assert await play.differences() == [], (seed, order)


@pytest.mark.parametrize("seed", [2468, 3439])
async def test_workflows_that_once_told_something(redis, seed):
    """2468: a later pass with an equal depth. 3439: of two lanes one fails, and gives no output."""
    made = case(random.Random(seed))
    for order in range(8):
        await redis.flushdb()
        play = JudgedPlay(redis, made, random.Random(f"{seed} {order}"))
        await play.play()
        assert await play.differences() == [], order
