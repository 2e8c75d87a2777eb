"""The functions that an expression may call, by name, form and number of arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.expressions import conversions, strings
from schemas.expressions.budget import Budget
from schemas.expressions.patterns import matches
from schemas.expressions.temporal import PARTS
from schemas.expressions.values import no_overload


@dataclass(frozen=True, slots=True)
class Function:
    """run(budget, target or first argument, ...). steps: what a call costs beside what `run` charges."""

    run: Callable[..., Any]
    counts: tuple[int, ...]  # numbers of arguments, the target not counted
    steps: int = 3


def size(budget: Budget, value: Any) -> int:
    """Code points of a string, bytes of bytes, entries of a list or map."""
    if type(value) in (str, list, dict, bytes):
        return len(value)
    raise no_overload("size()", value)


GLOBALS: dict[str, Function] = {
    "size": Function(size, (1,)),
    "matches": Function(matches, (2,)),
    "int": Function(conversions.to_int, (1,), 4),
    "uint": Function(conversions.to_uint, (1,), 4),
    "double": Function(conversions.to_double, (1,), 4),
    "string": Function(conversions.to_string, (1,), 8),
    "bytes": Function(conversions.to_bytes, (1,)),
    "bool": Function(conversions.to_bool, (1,)),
    "timestamp": Function(conversions.to_timestamp, (1,), 30),
    "duration": Function(conversions.to_duration, (1,), 30),
    "type": Function(conversions.to_type, (1,)),
    "dyn": Function(conversions.to_dyn, (1,)),
}
METHODS: dict[str, Function] = {
    "size": Function(size, (0,)),
    "matches": Function(matches, (1,)),
    "contains": Function(strings.contains, (1,)),
    "startsWith": Function(strings.starts_with, (1,)),
    "endsWith": Function(strings.ends_with, (1,)),
    "lowerAscii": Function(strings.lower_ascii, (0,), 4),
    "upperAscii": Function(strings.upper_ascii, (0,), 4),
    "trim": Function(strings.trim, (0,)),
    "substring": Function(strings.substring, (1, 2), 5),
    "replace": Function(strings.replace, (2, 3), 7),
    "split": Function(strings.split, (1, 2), 9),
    "join": Function(strings.join, (0, 1)),
    **{name: Function(part, (0, 1), 20) for name, part in PARTS.items()},
}
