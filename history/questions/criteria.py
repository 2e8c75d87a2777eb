"""Criteria: what a search asks of an input or an output - `score>=80`, `reasons[0].text~late` - read and made SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Operator = Literal["=", "~", "<", ">", "<=", ">="]

MAX_CRITERIA = 10
MAX_STEPS = 16
MAX_VALUE_CHARS = 1_000
_STEP = re.compile(r"(?:^|\.)([^.\[\]=<>~\x00-\x1f]{1,128})|\[(\d{1,6})\]")
_OPERATOR = re.compile(r"<=|>=|[=~<>]")
_NUMBER = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?")
_SQL_NUMBER = r"^-?\d{1,40}(\.\d{1,40})?([eE][+-]?\d{1,3})?$"


class InvalidCriterion(ValueError):
    """Not of the form PATH OPERATOR VALUE; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """`path` leads into a JSON value: names, and places of lists as digits."""

    path: tuple[str, ...]
    operator: Operator
    value: str

    @property
    def is_number(self) -> bool:
        return _NUMBER.fullmatch(self.value) is not None


def read_criterion(text: str) -> Criterion:
    """`PATH=VALUE` equal, `PATH~TEXT` contains (upper and lower case are the same), `PATH<N`, `>`, `<=`, `>=` of
    numbers; an empty path is the whole value. Raises InvalidCriterion."""
    found = _OPERATOR.search(text)
    if found is None:
        raise InvalidCriterion(f"{text[:80]!r} has no operator: write PATH=VALUE, PATH~TEXT, PATH<N or PATH>N")
    path, operator, value = text[: found.start()].strip(), found[0], text[found.end() :].strip()
    if len(value) > MAX_VALUE_CHARS or "\0" in value:
        raise InvalidCriterion(
            f"the value after {path or 'the path'}{operator} may have {MAX_VALUE_CHARS} characters, and no U+0000"
        )
    criterion = Criterion(_steps(path), operator, value)  # type: ignore[arg-type]
    if operator in ("<", ">", "<=", ">=") and not criterion.is_number:
        raise InvalidCriterion(f"{operator} compares numbers, and {value[:80]!r} is none")
    if operator == "~" and not value:
        raise InvalidCriterion(f"{path}~ needs a text to look for")
    return criterion


def _steps(path: str) -> tuple[str, ...]:
    steps, place = [], 0
    if path.startswith("."):
        path = f".{path}"  # so that it is none
    while place < len(path):
        found = _STEP.match(path, place)
        if found is None:
            raise InvalidCriterion(f"the path {path[:80]!r} is not of the form name.name[0].name")
        steps.append(found[1] if found[1] is not None else str(int(found[2])))
        place = found.end()
    if len(steps) > MAX_STEPS:
        raise InvalidCriterion(f"the path {path[:80]!r} has over {MAX_STEPS} steps")
    return tuple(steps)


def criterion_sql(criterion: Criterion, value: str, name: str) -> tuple[str, dict[str, Any]]:
    """The condition on `value` (SQL of a `json` whose fields can be read), its parameters beginning with `name`.

    Whatever the value is, it is true, false or null, and no error.
    """
    at, given = f"{name}_path", f"{name}_value"
    found = f"({value} #> %({at})s::text[])"
    text = f"({value} #>> %({at})s::text[])"
    parameters: dict[str, Any] = {at: list(criterion.path), given: criterion.value}
    if criterion.operator == "~":
        return f"strpos(lower({text}), lower(%({given})s::text)) > 0", parameters
    compared = (
        f"CASE WHEN json_typeof({found}) = 'number' AND {text} ~ '{_SQL_NUMBER}' "
        f"THEN {text}::numeric {criterion.operator} %({given})s::numeric ELSE false END"
    )
    if criterion.operator != "=":
        return compared, parameters
    same = f"(json_typeof({found}) NOT IN ('object', 'array') AND coalesce({text}, 'null') = %({given})s::text)"
    return (f"({same} OR {compared})" if criterion.is_number else same), parameters
