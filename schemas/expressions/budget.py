"""What one evaluation may cost: steps of work and units of memory."""

from __future__ import annotations

# One step is one small operation inside a macro, about 0.1 microseconds; straight-line code is bounded by the
# length of its text and is not counted. 400,000 let a simple condition filter 100,000 items.
STEPS = 400_000
# Raising and absorbing an error takes as long as this many steps.
FAILURE_STEPS = 10
# One unit is one character of a string made, or an eighth of a list entry, over the whole evaluation.
SIZE = 8_000_000


class BudgetExceededError(Exception):
    """The budget is spent. No EvaluationError: `||`, `&&` and macros absorb those, and never this."""


class Budget:
    """Steps and size left for one evaluation (or for one template, whose expressions share it)."""

    __slots__ = ("patterns", "size", "steps")

    def __init__(self, steps: int = STEPS, size: int = SIZE) -> None:
        self.steps = steps
        self.size = size
        self.patterns: set[str] = set()  # the regular expressions whose compilation is paid

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise BudgetExceededError("the expression takes too many steps")

    def allocate(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise BudgetExceededError("the expression makes too much data")


# For expressions that contain nothing to count; a charge on it by mistake is refused, not ignored.
NOTHING_TO_SPEND = Budget(steps=0, size=0)
