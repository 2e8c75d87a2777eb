"""Ways to choose which of the running tokens completes next."""

import random
from collections.abc import Sequence

from tests.reference.records import Choose, Token


def first(running: Sequence[Token]) -> int:
    return 0


def last(running: Sequence[Token]) -> int:
    return len(running) - 1


def at_random(seed: int) -> Choose:
    rng = random.Random(seed)
    return lambda running: rng.randrange(len(running))


def ranked(seed: int) -> Choose:
    """Some nodes always go before others: whole arms starve while others run to their end."""
    rng, rank = random.Random(seed), dict[str, float]()

    def choose(running: Sequence[Token]) -> int:
        return min(range(len(running)), key=lambda i: rank.setdefault(running[i].node, rng.random()))

    return choose


def starving(*nodes: str) -> Choose:
    """These nodes complete only when nothing else can."""
    return lambda running: min(range(len(running)), key=lambda i: running[i].node in nodes)


def many(seed: int, count: int) -> list[Choose]:
    """`count` orders, at least 4: first, last, and random ones of both kinds."""
    kinds = [at_random, ranked]
    return [first, last, *(kinds[i % 2](seed + i) for i in range(count - 2))]
