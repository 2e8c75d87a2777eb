"""Random patches at random moments of random runs: no token is lost, no run is left stuck, and what is done is what the
reference interpreter does that switches graph at the same event.

`PAVANE_TEST_WORKFLOWS=20000 pytest tests/patching/test_random_patches.py --timeout 0` plays so many of each course.
"""

import os
import random
from collections import Counter

import pytest

from schemas.compiler.compiler import validate
from tests.reference.generator import case, whole_case
from tests.routing.patched import PatchedPlay
from tests.routing.unrest import Unrest

PLAYS = int(os.environ.get("PAVANE_TEST_WORKFLOWS", "16"))
"""Plays of each course."""
BLOCKS = 4
MADE = 0.6
"""The share of patches at least that are made; the others are refused by the compiler, or for what is live."""
COURSES = {
    "orders": Unrest(),
    "pauses": Unrest(pauses=0.1, late=0.5),
    "mortal": Unrest(mortal=0.1, late=0.4),
    "cancels": Unrest(cancel_at=15),
    "retries": Unrest(mortal=0.2, retries=True, pauses=0.03),
}


@pytest.fixture(autouse=True)
def nothing_follows_meanwhile(monkeypatch):
    """A patch does not wait for the items that still follow the one before: here nothing happens beside it."""
    monkeypatch.setattr("lua.patching.FOLLOW_S", -1)


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("course", COURSES)
async def test_random_patches_at_random_moments(redis, course, block):
    tally: Counter[str] = Counter()
    for seed in range(block * PLAYS // BLOCKS, (block + 1) * PLAYS // BLOCKS):
        play = await played(redis, course, seed)
        if play:
            assert await play.differences() == [], (course, seed)
            tally.update(play.tally)
    made, tried = tally["made"], sum(tally.values()) - tally["following"] - tally["over"]
    assert made >= MADE * tried, tally


async def played(redis, course, seed):
    """None if the compiler refuses the workflow: the generator knows the graph's rules and not those on fields."""
    rng, unrest = random.Random(f"{course} {seed}"), COURSES[course]
    made = whole_case(random.Random(seed), unrest.mortal) if seed % 3 else case(random.Random(seed))
    if validate(made.workflow):
        return None
    await redis.flushdb()
    play = PatchedPlay(redis, made, rng, unrest, patches=rng.randint(1, 3), chance=rng.choice([0.05, 0.15, 0.4]))
    await play.play(limit=1_000)
    return play
