"""CEL's values over Python's: JSON as it is, and four small types for what JSON lacks.

null, bool, int, double, string, bytes, list and map are None, bool, int, float, str, bytes, list and dict.
Python counts `True == 1`; CEL does not. So equality is our own, and a boolean key of a map is a BoolKey.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
UINT_MAX = 2**64 - 1
# A long string costs time to compare; this many characters are one step.
_CHARACTERS_A_STEP = 4096


class Uint(int):
    """An unsigned 64-bit integer. Equal to and hashed like the int of the same value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """Nanoseconds since 1970-01-01T00:00:00Z."""

    ns: int


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A signed number of nanoseconds."""

    ns: int


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type as a value: what `type(x)` gives."""

    name: str


class BoolKey(enum.Enum):
    """A boolean key of a map, which Python would take for 0 or 1."""

    FALSE = False
    TRUE = True


TYPE_NAMES: dict[type, str] = {
    NoneType: "null_type",
    bool: "bool",
    int: "int",
    Uint: "uint",
    float: "double",
    str: "string",
    bytes: "bytes",
    list: "list",
    dict: "map",
    Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration",
    TypeName: "type",
}
NUMBERS = frozenset({int, float, Uint})
_ORDERED = frozenset({bool, str, bytes, Timestamp, Duration})


def type_name(value: Any) -> str:
    """CEL's name for the type of a value. Raises EvaluationError `not-json` for any other Python object."""
    try:
        return TYPE_NAMES[type(value)]
    except KeyError:
        raise EvaluationError("not-json", f"a Python {type(value).__name__} is no value here") from None


def no_overload(operation: str, *operands: Any) -> EvaluationError:
    """The error of an operation that these types do not have."""
    names = [type_name(operand) for operand in operands]
    message = f"{operation} does not take {' and '.join(names) or 'nothing'}"
    if set(names) == {"int", "double"} and operation in ("+", "-", "*", "/"):
        message += "; convert the int with double()"
    return EvaluationError("no-such-overload", message)


def equal(left: Any, right: Any, budget: Budget) -> bool:
    """CEL's `==`: numbers by value whatever their type, lists and maps deeply, other types never equal."""
    kind = type(left)
    if kind is type(right):
        if kind is list:
            return _equal_lists(left, right, budget)
        if kind is dict:
            return _equal_maps(left, right, budget)
        if kind is str or kind is bytes:
            budget.spend(len(left) // _CHARACTERS_A_STEP)
        return bool(left == right)
    if kind in NUMBERS and type(right) in NUMBERS:
        return compare_numbers(_same, left, right)
    return False


def _same(left: Any, right: Any) -> bool:
    return bool(left == right)


def _equal_lists(left: list[Any], right: list[Any], budget: Budget) -> bool:
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        budget.spend(2)
        if not equal(one, other, budget):
            return False
    return True


def _equal_maps(left: dict[Any, Any], right: dict[Any, Any], budget: Budget) -> bool:
    if len(left) != len(right):
        return False
    for key, value in left.items():
        budget.spend(3)
        if key not in right or not equal(value, right[key], budget):
            return False
    return True


def compare_numbers(relation: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """An int meets a double as a double, as in CEL's other engines: exact up to 2**53."""
    if type(left) is not type(right):
        try:
            if type(left) is float:
                right = float(right)
            elif type(right) is float:
                left = float(left)
        except OverflowError:
            pass  # an int beyond every double; Python compares those exactly
    return relation(left, right)


def compare(relation: Callable[[Any, Any], bool], symbol: str, left: Any, right: Any, budget: Budget) -> bool:
    """`<`, `<=`, `>` or `>=`, given as a Python relation and as its symbol for the error."""
    kind = type(left)
    if kind in NUMBERS and type(right) in NUMBERS:
        return compare_numbers(relation, left, right)
    if kind is type(right) and kind in _ORDERED:
        if kind is str or kind is bytes:
            budget.spend(min(len(left), len(right)) // _CHARACTERS_A_STEP)
        return relation(left, right)
    raise no_overload(symbol, left, right)


def map_key(key: Any) -> Any:
    """The key as maps hold it. Raises EvaluationError for a type that is no key."""
    kind = type(key)
    if kind is str or kind is int or kind is Uint:
        return key
    if kind is bool:
        return BoolKey(key)
    raise EvaluationError("no-such-overload", f"a {type_name(key)} can not be the key of a map")


def from_map_key(key: Any) -> Any:
    """The key as an expression sees it."""
    return key.value if type(key) is BoolKey else key
