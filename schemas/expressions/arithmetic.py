"""`+ - * / %` and unary minus: 64-bit integers with overflow errors, IEEE doubles, and what `+` joins."""

from __future__ import annotations

import math
from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.temporal import checked_duration, checked_timestamp
from schemas.expressions.values import (
    INT_MAX,
    INT_MIN,
    UINT_MAX,
    Duration,
    Timestamp,
    Uint,
    no_overload,
)


def checked_int(value: int) -> int:
    """The value, or EvaluationError `overflow` outside of 64 bits."""
    if INT_MIN <= value <= INT_MAX:
        return value
    raise EvaluationError("overflow", "the integer does not fit in 64 bits")


def checked_uint(value: int) -> Uint:
    """The value, or EvaluationError `overflow` below 0 or outside of 64 bits."""
    if 0 <= value <= UINT_MAX:
        return Uint(value)
    raise EvaluationError("overflow", "the unsigned integer does not fit in 64 bits")


def add(left: Any, right: Any, budget: Budget) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return checked_int(left + right)
        if kind is float:
            return left + right
        if kind is str or kind is bytes:
            budget.allocate(len(left) + len(right))
            return left + right
        if kind is list:
            budget.allocate(8 * (len(left) + len(right)))
            return left + right
        if kind is Uint:
            return checked_uint(int(left) + int(right))
        if kind is Duration:
            return checked_duration(left.ns + right.ns)
    elif {kind, type(right)} == {Timestamp, Duration}:
        return checked_timestamp(left.ns + right.ns)
    raise no_overload("+", left, right)


def subtract(left: Any, right: Any, budget: Budget) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return checked_int(left - right)
        if kind is float:
            return left - right
        if kind is Uint:
            return checked_uint(int(left) - int(right))
        if kind is Duration:
            return checked_duration(left.ns - right.ns)
        if kind is Timestamp:
            # The other engines count this difference in 64 bits of nanoseconds, 292 years.
            return Duration(checked_int(left.ns - right.ns))
    elif kind is Timestamp and type(right) is Duration:
        return checked_timestamp(left.ns - right.ns)
    raise no_overload("-", left, right)


def multiply(left: Any, right: Any, budget: Budget) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is int:
            return checked_int(left * right)
        if kind is float:
            return left * right
        if kind is Uint:
            return checked_uint(int(left) * int(right))
    raise no_overload("*", left, right)


def divide(left: Any, right: Any, budget: Budget) -> Any:
    kind = type(left)
    if kind is type(right):
        if kind is float:
            return _divide_doubles(left, right)
        if kind is int or kind is Uint:
            if right == 0:
                raise EvaluationError("division-by-zero", "division by zero")
            quotient = abs(left) // abs(right)
            if kind is Uint:
                return checked_uint(quotient)
            return checked_int(quotient if (left < 0) == (right < 0) else -quotient)
    raise no_overload("/", left, right)


def _divide_doubles(left: float, right: float) -> float:
    if right != 0.0:
        return left / right
    if left == 0.0 or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def modulo(left: Any, right: Any, budget: Budget) -> Any:
    """The remainder has the sign of the left side."""
    kind = type(left)
    if kind is not type(right) or (kind is not int and kind is not Uint):
        raise no_overload("%", left, right)
    if right == 0:
        raise EvaluationError("division-by-zero", "modulus by zero")
    if kind is Uint:
        return Uint(int(left) % int(right))
    if left == INT_MIN and right == -1:
        raise EvaluationError("overflow", "the integer does not fit in 64 bits")
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def negate(value: Any) -> Any:
    if type(value) is int:
        return checked_int(-value)
    if type(value) is float:
        return -value
    raise no_overload("-", value)


OPERATIONS = {"+": add, "-": subtract, "*": multiply, "/": divide, "%": modulo}
