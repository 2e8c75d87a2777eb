"""Walk: where a person is among the steps, and what a key does. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

MOST_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Walk:
    """`place` is that of the step that is shown, `typed` the number of the event to go to, as far as it is typed."""

    place: int = 0
    typed: str = ""
    over: bool = False

    def press(self, key: str, last: int, place_of: Callable[[int], int]) -> Walk:
        """After a key; `last` is the place of the last step, `place_of` gives that of the event with a number."""
        if key == "quit":
            return replace(self, over=True)
        if key.isascii() and key.isdigit():
            return replace(self, typed=(self.typed + key)[:MOST_DIGITS])
        if key == "back" and self.typed:
            return replace(self, typed=self.typed[:-1])
        if key == "enter" and self.typed:
            return Walk(place_of(int(self.typed)))
        places = {
            "enter": self.place + 1, "right": self.place + 1, "left": self.place - 1, "back": self.place - 1,
            "home": 0, "end": last,
        }  # fmt: skip
        return Walk(min(max(places.get(key, self.place), 0), last))
