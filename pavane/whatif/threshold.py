"""Thresholds: one number in one condition, to be tried at several values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pavane.rehearsal.matching import Missing
from schemas.errors import InvalidDocument, Problem, pointer

MOST_VALUES = 200
_WORDS = re.compile(
    r"""(?P<string>[bB]?[rR]?(?:\"{3}.*?\"{3}|'{3}.*?'{3}|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'))|//[^\n]*|`[^`]*`"""
    r"""|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<number>(?:\d+\.\d+(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|0x[0-9a-fA-F]+|\d+(?:[eE][-+]?\d+)?)[uU]?)"""
    r"""|(?P<mark>\S)""",
    re.VERBOSE | re.DOTALL,
)
_OPERANDS = (")", "]")


@dataclass(frozen=True, slots=True)
class Literal:
    """A number in an expression, its sign included: `text[start:end]`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Threshold:
    """Where a number stands: the JSON pointer of the expression, and which of its numbers."""

    path: str
    expression: str
    literal: Literal
    condition: Mapping[str, Any]  # as the document has it
    node: str  # whose condition it is; of an edge, the node that it leaves

    def at(self, value: float) -> str:
        """The expression with another number."""
        head, tail = self.expression[: self.literal.start], self.expression[self.literal.end :]
        return f"{head}{number_text(value, self.literal.text)}{tail}"

    def condition_at(self, value: float) -> dict[str, Any]:
        return {**self.condition, "expression": self.at(value)}

    def operations(self, value: float) -> list[dict[str, Any]]:
        return [{"op": "replace", "path": self.path, "value": self.at(value)}]


def number_text(value: float, like: str = "0") -> str:
    """A number as an expression writes it: whole where it is and the one before was, as CEL tells 70 from 70.0."""
    if like[-1:] in "uU":
        return f"{int(value)}u"
    if float(value).is_integer():
        return f"{int(value)}.0" if re.search(r"[.eE]", like) and not like.lower().startswith("0x") else str(int(value))
    return repr(float(value))


def numbers(expression: str) -> list[Literal]:
    """The numbers of a CEL expression, those in its texts and names left out."""
    found: list[Literal] = []
    before, sign = "", -1
    for match in _WORDS.finditer(expression):
        if match["number"]:
            start = sign if sign >= 0 else match.start()
            found.append(Literal(start, match.end(), expression[start : match.end()]))
        is_sign = match["mark"] == "-" and not (before == "operand" or before in _OPERANDS)
        sign = match.start() if is_sign else -1
        if not match["mark"] and match.lastgroup is None:
            continue  # a comment
        before = match["mark"] or "operand"
    return found


def find_threshold(workflow: Mapping[str, Any], path: str) -> Threshold:
    """The number that a path names: `nodes.quality.rules.0`, of several numbers in it `nodes.quality.rules.0#2`.

    Raises InvalidDocument, which says what could be written.
    """
    where, _, which = path.partition("#")
    steps = [step for step in where.replace("/", ".").split(".") if step]
    if steps[-1:] == ["expression"]:
        steps.pop()
    place, value, node = _walk(workflow, steps, path)
    if isinstance(value, Mapping) and "condition" in value:
        place, value = [*place, "condition"], value["condition"]
    condition: Mapping[str, Any] = {}
    if isinstance(value, Mapping) and "expression" in value:
        place, condition, value = [*place, "expression"], value, value["expression"]
    if not condition or not isinstance(value, str):
        _refuse(
            path,
            "no condition in CEL lies there; name a branch's rule (nodes.quality.rules.0), a loop (nodes.again) or an "
            "edge with a condition (edges.3)",
        )
    found = numbers(value)
    if not found:
        _refuse(path, f"`{value}` has no number that could be tried at other values")
    if not which and len(found) > 1:
        said = ", ".join(f"#{number} is {one.text}" for number, one in enumerate(found, 1))
        _refuse(path, f"`{value}` has {len(found)} numbers: write {where}#1 and so on ({said})")
    if which and not (which.isdecimal() and len(which) < 4 and 1 <= int(which) <= len(found)):
        _refuse(path, f"`{value}` has {len(found)} number{'s' * (len(found) > 1)}: #{which} is none of them")
    return Threshold(pointer(*place), value, found[int(which or 1) - 1], condition, node)


def read_values(values: Sequence[Any]) -> list[float]:
    """Raises InvalidDocument: numbers, each once, at most MOST_VALUES."""
    if not 1 <= len(values) <= MOST_VALUES:
        _refuse_values(f"between 1 and {MOST_VALUES} values can be tried, and not {len(values)}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
            _refuse_values(f"{value!r:.60} is no number up to 1e15")
    return list(dict.fromkeys(values))


def _walk(workflow: Mapping[str, Any], steps: Sequence[str], path: str) -> tuple[list[str], Any, str]:
    """The place of what the steps lead to, its value, and the node around it; `config` may be left out."""
    place: list[str] = []
    value: Any = workflow
    node = ""
    for step in steps:
        if isinstance(value, Mapping) and step not in value and "config" in value:
            place, value = [*place, "config"], value["config"]
        found = _member(value, step)
        if isinstance(found, Missing):
            _refuse(path, f"`{step}` is not there: the workflow has none under /{'/'.join(place)}")
        if isinstance(found, Mapping) and "id" in found and "type" in found:
            node = str(found["id"])
        if isinstance(found, Mapping) and "from" in found and "to" in found:
            node = str(found["from"])
        place, value = [*place, step], found
    if isinstance(value, Mapping) and "condition" not in value and "condition" in (value.get("config") or {}):
        place, value = [*place, "config"], value["config"]
    return place, value, node


def _member(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, Missing())
    if isinstance(value, list):
        named = [one for one in value if isinstance(one, Mapping) and one.get("id") == step]
        if named:
            return named[0]
        if step.isdecimal() and len(step) < 7 and int(step) < len(value):
            return value[int(step)]
    return Missing()


def _refuse(path: str, message: str) -> NoReturn:
    raise InvalidDocument([Problem("/sweep/path", "bad-path", f"{path[:200]}: {message}.")])


def _refuse_values(message: str) -> NoReturn:
    raise InvalidDocument([Problem("/sweep/values", "bad-values", f"{message[:1].upper()}{message[1:]}.")])
