"""Matching: what was expected against what came, place by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pavane.rehearsal.case import ELLIPSIS


@dataclass(frozen=True, slots=True)
class Missing:
    """Where nothing is."""

    def __repr__(self) -> str:
        return "nothing"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class Difference:
    """One place that is not as expected. Where `message` is given, it says all."""

    place: str
    expected: Any = MISSING
    actual: Any = MISSING
    message: str = ""


def differences(place: str, expected: Any, actual: Any, *, exact: bool = False) -> Iterator[Difference]:
    """Objects need to have what is expected, and with `exact` nothing else; lists are compared value by value."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key, value in expected.items():
            yield from differences(f"{place}.{key}", value, actual.get(key, MISSING), exact=exact)
        for key in actual.keys() - expected.keys() if exact else ():
            yield Difference(f"{place}.{key}", MISSING, actual[key])
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        for number, (value, found) in enumerate(zip(expected, actual, strict=True)):
            yield from differences(f"{place}[{number}]", value, found, exact=exact)
    elif not _same(expected, actual):
        yield Difference(place, expected, actual)


def _same(expected: Any, actual: Any) -> bool:
    # In JSON `true` is no number, in Python it is 1.
    return isinstance(expected, bool) == isinstance(actual, bool) and bool(expected == actual)


def follows(path: Sequence[str], pattern: Sequence[str | Sequence[str]]) -> bool:
    """Whether a path is as the pattern says: `...` stands for any nodes, a list for those in any order."""
    places = {0}  # how much of the path may be used up
    for step in pattern:
        if step == ELLIPSIS:
            places = set(range(min(places, default=len(path) + 1), len(path) + 1))
        else:
            wanted = [step] if isinstance(step, str) else list(step)
            places = {at + len(wanted) for at in places if Counter(path[at : at + len(wanted)]) == Counter(wanted)}
    return len(path) in places
