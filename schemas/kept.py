"""Kept: values at hand by name, the least used going first; bounded by what they weigh."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

KEPT_BYTES = 16_000_000
"""Of packed bytes, or of text; parsed they are several times as large."""


class Kept:
    """A cache of values that nobody changes. Names are digests, so that what is kept is never out of date."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._weight = 0

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """None for one that is not kept; ask with `in` where None may be a value."""
        if name not in self._values:
            return None
        self._values.move_to_end(name)
        return self._values[name][0]

    def put(self, name: str, value: Any, weight: int) -> Any:
        """Keep a value, unless it is too heavy alone; the value."""
        if name not in self._values and weight <= self._limit:
            self._values[name] = value, weight
            self._weight += weight
            while self._weight > self._limit:
                _, (_, gone) = self._values.popitem(last=False)
                self._weight -= gone
        return value
