"""Numbers for answers: spread over the range that the schema allows, scores as a model would give them."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from agent_runner.engines.simulated.prose import Prose

_SCORE = re.compile(r"score|grade|rating|quality|confidence|relevance", re.IGNORECASE)
# A draw u in [0, 1) becomes the share u ** x of the range, x chosen so that 55 (70) % of scores reach 80 %.
_GOOD_AT_FIRST = math.log(0.8) / math.log(1 - 0.55)
_GOOD_WHEN_IMPROVED = math.log(0.8) / math.log(1 - 0.70)


def number(schema: Mapping[str, Any], kind: str, name: str, draw: random.Random, prose: Prose) -> int | float:
    """A number of type `kind` within the schema's bounds; 0 to 100 where it names none."""
    low, high = _range(schema)
    share = Fraction(draw.random())
    if _SCORE.search(name):
        share = Fraction(float(share) ** (_GOOD_WHEN_IMPROVED if prose.improving else _GOOD_AT_FIRST))
    step = _number(schema.get("multipleOf"))
    if kind == "integer":
        step = _common_step(step)
    if step is None:
        return _plain(low + share * (high - low), low, high)
    first, last = math.ceil(low / step), math.floor(high / step)
    drawn = first + min(int(share * (last - first + 1)), last - first)
    if step.denominator == 1:
        return int(drawn * step)
    near = range(max(first, drawn - 8), min(last, drawn + 8) + 1)
    for count in sorted(near, key=lambda n: abs(n - drawn)):
        multiple = float(count * step)
        if (multiple / float(step)).is_integer():  # so validators check, and 21.7 / 0.1 is not 217
            return multiple
    return float(drawn * step)


def _range(schema: Mapping[str, Any]) -> tuple[Fraction, Fraction]:
    """The closed range to draw from. An open bound is moved inwards by a bit, a missing one is 100 away."""
    low, above = _number(schema.get("minimum")), _number(schema.get("exclusiveMinimum"))
    high, below = _number(schema.get("maximum")), _number(schema.get("exclusiveMaximum"))
    room = [bound for bound in (low, above, high, below) if bound is not None]
    bit = Fraction(1, 1000)
    if len(room) > 1 and 0 < (gap := max(room) - min(room)) < 1:
        bit *= gap
    if _whole(schema):
        bit = Fraction(1, 10**6)
    if above is not None:
        low = above + bit if low is None else max(low, above + bit)
    if below is not None:
        high = below - bit if high is None else min(high, below - bit)
    if low is None:
        low = Fraction(0) if high is None else min(Fraction(0), high - 100)
    if high is None:
        step = _number(schema.get("multipleOf")) or Fraction(1)
        high = max(Fraction(100), low + 100) if step <= 1 else low + 100 * step
    return low, high


def _whole(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "integer" or "multipleOf" in schema


def _common_step(step: Fraction | None) -> Fraction:
    """The smallest step that is both whole and a multiple of `step`."""
    return Fraction(1) if step is None else Fraction(step.numerator)


def _number(value: object) -> Fraction | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return Fraction(str(value))  # 0.1 as it is written


def _plain(value: Fraction, low: Fraction, high: Fraction) -> float:
    """As few decimals as fit between the bounds: models say 0.85."""
    for decimals in (2, 4, 8):
        if low <= (rounded := Fraction(str(round(float(value), decimals)))) <= high:
            return float(rounded)
    return float(value)
