"""What is wrong with a case itself, as against what it expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class CaseFault(Exception):
    """A case that can not be played as it is written. `place` is where in the case: `outputs.grade[1]`.

    `rendered` is what the node was given, where an output was wanted that the case does not have.
    """

    def __init__(self, place: str, message: str, rendered: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message
        self.rendered = rendered
