"""What one item does: its steps, and which of them wait for which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pavane.planning.fault import PlanFault

MAX_STEPS = 100_000


@dataclass(slots=True)
class Step:
    """One execution of a node. `pool` None: no model works on it, and `seconds` simply pass; else they are solo seconds
    on a card of pace 1. `waits_for` counts the steps that must be done before it, `next` are those that wait for it."""

    node: str
    pool: str | None
    seconds: float
    waits_for: int
    next: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Item:
    """Steps in an order in which each comes after those that it waits for."""

    steps: list[Step] = field(default_factory=list)

    def add(self, node: str, pool: str | None, seconds: float, after: Iterable[int]) -> int:
        """Raises PlanFault for an item without end."""
        place = len(self.steps)
        if place >= MAX_STEPS:
            raise PlanFault(f"an item takes more than {MAX_STEPS:,} steps; give --loop or --map smaller numbers")
        before = set(after)
        for step in before:
            self.steps[step].next.append(place)
        self.steps.append(Step(node, pool, seconds, len(before)))
        return place

    def tasks(self) -> int:
        """How many of its steps a model works on."""
        return sum(step.pool is not None for step in self.steps)
