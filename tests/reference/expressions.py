"""The few forms of expression that the reference understands; the product evaluates the same text as CEL.

has(path)    path    !path    path op value    path + value    size(path) op value    a list in JSON

where a path is `output.k`, `ctx.a.output.k`, `iteration`, `item.k`, `index` ...
"""

import json
import operator
import re
from collections.abc import Callable
from typing import Any

PATH = r"[a-z]\w*(?:\.\w+)*"
VALUE = rf"-?\d+|'[^']*'|size\({PATH}\)|{PATH}"
FORM = re.compile(
    rf"(?:has\((?P<has>{PATH})\))|(?:(?P<not>!)?(?P<left>{VALUE})(?:\s*(?P<op>==|!=|<=|>=|<|>|\+)\s*(?P<right>{VALUE}))?)"
)
ORDERED: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "+": operator.add,
}  # fmt: skip


class ExpressionError(Exception):
    """The expression has no value: a name or field is missing, or the types do not fit."""


def evaluate(text: str, variables: dict[str, Any]) -> Any:
    """The value of `text`, or ExpressionError."""
    if text.startswith("["):
        return json.loads(text)
    form = FORM.fullmatch(text.strip())
    if not form:
        raise ValueError(f"the reference does not know this form of expression: {text}")
    if form["has"]:
        parent, _, field = form["has"].rpartition(".")
        return field in lookup(parent, variables)
    left = operand(form["left"], variables)
    if form["not"]:
        return not boolean(left)
    if not form["op"]:
        return left
    right = operand(form["right"], variables)
    if form["op"] in ("==", "!="):
        same = isinstance(left, bool) == isinstance(right, bool) and left == right
        return same == (form["op"] == "==")
    if type(left) is not type(right) or not isinstance(left, int | str) or isinstance(left, bool):
        raise ExpressionError(f"{text}: {left!r} and {right!r} do not fit {form['op']}")
    return ORDERED[form["op"]](left, right)


def condition(text: str, variables: dict[str, Any]) -> bool:
    """The value of a condition, which must be a bool; else ExpressionError."""
    return boolean(evaluate(text, variables))


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{value!r} is not a bool")
    return value


def operand(text: str, variables: dict[str, Any]) -> Any:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if text.startswith("'"):
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("size("):
        value = lookup(text[5:-1], variables)
        if not isinstance(value, list | dict | str):
            raise ExpressionError(f"{text}: it has no size")
        return len(value)
    return lookup(text, variables)


def lookup(path: str, variables: dict[str, Any]) -> Any:
    value: Any = variables
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            raise ExpressionError(f"{path}: there is no {name}")
        value = value[name]
    return value
