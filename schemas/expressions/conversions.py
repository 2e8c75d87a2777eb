"""The functions named after types: `int()`, `double()`, `string()`, `timestamp()` and the others."""

from __future__ import annotations

import math
import re
from typing import Any

from schemas.expressions.arithmetic import checked_int, checked_uint
from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.temporal import (
    LONGEST_TEXT,
    SECOND,
    checked_timestamp,
    format_duration,
    format_timestamp,
    parse_duration,
    parse_timestamp,
)
from schemas.expressions.values import Duration, Timestamp, TypeName, Uint, no_overload, type_name

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DOUBLE = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)", re.I)
_BOOLS = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)
_BOOLS |= dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False)
_LONGEST_NUMBER = 400


def to_int(budget: Budget, value: Any) -> int:
    kind = type(value)
    if kind is int or kind is Uint or kind is bool:  # bool: as the C++ engine, beyond the specification
        return checked_int(int(value))
    if kind is float:
        if -(2.0**63) < value < 2.0**63:
            return int(value)
        raise _out_of_range()
    if kind is str and _INTEGER.fullmatch(value):
        return checked_int(int(value))
    if kind is Timestamp:
        return int(value.ns // SECOND)
    raise _no_conversion("int", value)


def to_uint(budget: Budget, value: Any) -> Uint:
    kind = type(value)
    if kind is int or kind is Uint:
        return checked_uint(int(value))
    if kind is float:
        if 0.0 <= value < 2.0**64:
            return Uint(value)
        raise _out_of_range()
    if kind is str and _INTEGER.fullmatch(value) and value[0] != "-":
        return checked_uint(int(value))
    raise _no_conversion("uint", value)


def _out_of_range() -> EvaluationError:
    return EvaluationError("overflow", "the double does not fit in 64 bits")


def to_double(budget: Budget, value: Any) -> float:
    kind = type(value)
    if kind is float:
        return float(value)
    if kind is int or kind is Uint:
        return float(checked_int(value) if kind is int else value)
    if kind is str and len(value) <= _LONGEST_NUMBER and _DOUBLE.fullmatch(value):
        return float(value)
    raise _no_conversion("double", value)


def to_string(budget: Budget, value: Any) -> str:
    kind = type(value)
    if kind is str:
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is Uint:
        return str(int(value) if kind is Uint else checked_int(value))
    if kind is float:
        return format_double(value)
    if kind is bytes:
        budget.allocate(len(value))
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError:
            raise EvaluationError("bad-conversion", "the bytes are no UTF-8 text") from None
    if kind is Timestamp:
        return format_timestamp(value)
    if kind is Duration:
        return format_duration(value)
    raise _no_conversion("string", value)


def format_double(value: float) -> str:
    """The shortest digits that give the same double again; an exponent only outside of 1e-4 to 1e21."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = f"{value:.0f}" if 1e16 <= abs(value) < 1e21 else repr(value)
    return text.removesuffix(".0")


def to_bytes(budget: Budget, value: Any) -> bytes:
    if type(value) is bytes:
        return bytes(value)
    if type(value) is str:
        budget.allocate(len(value))
        return encoded(value)
    raise _no_conversion("bytes", value)


def encoded(text: str) -> bytes:
    """The text as UTF-8, or EvaluationError `bad-conversion`: JSON may smuggle in lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EvaluationError("bad-conversion", "the text is no valid Unicode") from None


def to_bool(budget: Budget, value: Any) -> bool:
    if type(value) is bool:
        return bool(value)
    if type(value) is str and value in _BOOLS:
        return _BOOLS[value]
    raise _no_conversion("bool", value)


def to_timestamp(budget: Budget, value: Any) -> Timestamp:
    kind = type(value)
    if kind is str:
        return parse_timestamp(value)
    if kind is int:
        return checked_timestamp(value * SECOND)
    if kind is Timestamp:
        return checked_timestamp(value.ns)
    raise _no_conversion("timestamp", value)


def to_duration(budget: Budget, value: Any) -> Duration:
    if type(value) is str:
        budget.spend(2 * min(len(value), LONGEST_TEXT))
        return parse_duration(value)
    if type(value) is Duration:
        return value
    raise _no_conversion("duration", value)


def to_type(budget: Budget, value: Any) -> TypeName:
    return TypeName(type_name(value))


def to_dyn(budget: Budget, value: Any) -> Any:
    return value


def _no_conversion(target: str, value: Any) -> EvaluationError:
    if type(value) is str:
        return EvaluationError("bad-conversion", f"the string is no {target}")
    return no_overload(f"{target}()", value)
