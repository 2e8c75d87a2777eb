"""The result of an expression as JSON."""

from __future__ import annotations

import base64
import math
from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.syntax import (
    And,
    Binary,
    Comprehension,
    Conditional,
    Index,
    Literal,
    Node,
    Not,
    Or,
    Presence,
    Select,
    Variable,
    static_path,
)
from schemas.expressions.temporal import format_duration, format_timestamp
from schemas.expressions.values import TYPE_NAMES, BoolKey, Duration, Timestamp, Uint, type_name


def is_json(node: Node) -> bool:
    """Whether the value of the node is JSON already, and no larger than the data: it needs no `to_json`."""
    match node:
        case Variable():
            return node.name not in TYPE_NAMES.values()
        case Select(operand=operand) | Index(operand=operand):
            path = static_path(node)
            return is_json(operand) if path is None else ".".join(path) not in TYPE_NAMES.values()
        case Literal(value=value):
            return value is None or type(value) in (bool, int, str)
        case Conditional(yes=yes, no=no):
            return is_json(yes) and is_json(no)
        case Binary(operator=operator):
            return operator in ("==", "!=", "<", "<=", ">", ">=", "in")
        case Comprehension(macro=macro, source=source):
            return macro != "map" and (macro != "filter" or is_json(source))
        case _:
            return isinstance(node, And | Or | Not | Presence)


def to_json(value: Any, budget: Budget) -> Any:
    """The value as JSON: bytes in base64, timestamps and durations as text, keys as text.

    Charged by what the JSON will hold: a list may name one large value a thousand times. Raises
    EvaluationError `not-json` for NaN, the infinities and types.
    """
    kind = type(value)
    if kind is str:
        budget.allocate(len(value))
    elif kind is int or kind is bool or value is None:
        pass
    elif kind is list:
        budget.spend(6 + len(value))
        budget.allocate(8 * len(value))
        return [to_json(item, budget) for item in value]
    elif kind is dict:
        budget.spend(4 + 3 * len(value))
        budget.allocate(16 * len(value))
        return {_json_key(key): to_json(item, budget) for key, item in value.items()}
    else:
        return _scalar_to_json(value, budget)
    return value


def _json_key(key: Any) -> str:
    if type(key) is str:
        return key
    return str(key.value).lower() if type(key) is BoolKey else str(key)


def _scalar_to_json(value: Any, budget: Budget) -> Any:
    kind = type(value)
    if kind is float and math.isfinite(value):
        return value
    if kind is Uint:
        return int(value)
    if kind is bytes:
        budget.allocate(2 * len(value))
        return base64.b64encode(value).decode()
    if kind is Timestamp:
        return format_timestamp(value)
    if kind is Duration:
        return format_duration(value)
    name = "a number that is not finite" if kind is float else f"a {type_name(value)}"
    raise EvaluationError("not-json", f"{name} has no JSON form")
