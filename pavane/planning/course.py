"""How one item decides: which way at a branch, how often round a loop, how long at a node.

What the options give goes before what an earlier batch recorded, and that before what is assumed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from agent_runner.engines.simulated.gpu import ModelSpec
from agent_runner.engines.simulated.work import WorkLaw
from pavane.planning.given import Given, fewest_passes
from pavane.planning.recorded import Facts, Recorded
from schemas.ir import Node

PROMPT_TOKENS, COMPLETION_TOKENS = 500, 80
STEP_S = 0.15
"""A task without a model; the first users measured 157 ms."""
MAP_ITEMS = 10
_LAW = WorkLaw()
_SPREAD = _LAW.spread


class Course:
    """The decisions of one item. With a recorded batch it follows one of its runs, drawn by chance."""

    def __init__(
        self, models: Mapping[str, ModelSpec], given: Given, recorded: Recorded | None, draw: random.Random
    ) -> None:
        self._models = models
        self._given = given
        self._recorded = recorded
        self._draw = draw
        self._followed: Facts = draw.choice(recorded.runs) if recorded is not None else {}
        self._read: Counter[tuple[str, str]] = Counter()

    def rule(self, node: Node) -> tuple[str, ...]:
        """Where a branch leads."""
        ways = [rule.next for rule in node.rules] + ([node.default] if node.default is not None else [])
        odds = self._given.branches.get(node.id)
        if odds is not None:
            return self._draw.choices(ways, odds)[0]
        taken = self._record("rule", node)
        return ways[taken] if taken is not None and taken < len(ways) else self._draw.choice(ways)

    def edges(self, node: Node) -> tuple[str, ...]:
        """Which of its edges a node takes."""
        if all(edge.condition is None for edge in node.edges):
            return tuple(edge.to for edge in node.edges)
        odds = self._given.branches.get(node.id)
        recorded = self._record("edges", node) if odds is None else None
        if recorded is not None:
            return tuple(edge.to for edge in node.edges if edge.condition is None or edge.to in recorded)
        holds = iter(odds or ())
        return tuple(edge.to for edge in node.edges if edge.condition is None or self._draw.random() < next(holds, 0.5))

    def again(self, node: Node) -> bool:
        """Whether a loop's condition is true once more."""
        assert node.loop is not None
        passes = self._given.loops.get(node.id)
        if passes is None and (recorded := self._record("again", node)) is not None:
            return bool(recorded)
        fewest = fewest_passes(node)
        if passes is None:
            passes = assumed_passes(node)
        return self._draw.random() < repetition(fewest, node.loop.max_iterations, passes)

    def items(self, node: Node) -> int:
        """How many items a map has."""
        given = self._given.maps.get(node.id)
        if given is not None:
            return given
        recorded = self._record("items", node)
        return MAP_ITEMS if recorded is None else int(recorded)

    def seconds(self, node: Node) -> float:
        """What a step takes: of an agent solo seconds on a card of pace 1."""
        pool = node.analysis.pool
        given = self._given.times.get(node.id)
        if given is not None:
            return given * self._factor() if pool else given
        if (recorded := self._record("seconds", node)) is not None:
            return float(recorded)
        if pool:
            answer = min(COMPLETION_TOKENS, (node.config.get("options") or {}).get("num_predict") or COMPLETION_TOKENS)
            return sum(_LAW.parts(self._models[pool], PROMPT_TOKENS, max(answer, 1), self._draw))
        return assumed_wait(node)

    def _factor(self) -> float:
        return self._draw.lognormvariate(-(_SPREAD**2) / 2, _SPREAD)

    def _record(self, kind: str, node: Node) -> Any:
        """What the followed run did there next; else what any run did; None if none was there."""
        if self._recorded is None:
            return None
        key = (kind, node.id)
        own = self._followed.get(key, ())
        place = self._read[key]
        self._read[key] += 1
        if place < len(own):
            return own[place]
        known = self._recorded.pooled.get(key)
        return self._draw.choice(known) if known else None


def assumed_wait(node: Node) -> float:
    """Seconds at a node without a model."""
    if node.type == "wait":
        given = node.config.get("for_ms")
        return given / 1_000 if isinstance(given, int) else 0.0
    return STEP_S if node.is_task else 0.0


def assumed_passes(node: Node) -> float:
    assert node.loop is not None
    return max(fewest_passes(node), node.loop.max_iterations / 2)


@cache
def repetition(fewest: int, most: int, passes: float) -> float:
    """The chance of one more pass with which a loop makes `passes` of them on average.

    With chance p each time, it makes fewest + p + p^2 + ... passes, up to `most`; p by bisection.
    """

    def expected(chance: float) -> float:
        return fewest + sum(chance**extra for extra in range(1, most - fewest + 1))

    return _bisect(lambda chance: expected(chance) < passes)


def _bisect(is_below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2
