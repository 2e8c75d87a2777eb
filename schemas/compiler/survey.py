"""Reading a document field by field: what was found wrong, which nodes it names, and which expressions it holds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from schemas.errors import Problem, pointer
from schemas.expressions.error import ExpressionError
from schemas.expressions.expression import VARIABLES
from schemas.expressions.references import References
from schemas.limits import Limits


@dataclass(frozen=True, slots=True)
class Use:
    """One expression or template: where it stands, the node it belongs to, and what it reads."""

    path: str
    node: str
    references: References
    template: bool = False  # rendered before the node is executed or opened; else evaluated when a token is routed
    result: bool = False  # `output` is the node's own output (conditions of its edges); else what arrived at it
    in_map: bool = False


@dataclass(slots=True)
class Survey:
    """Everything that reading one document brings up. `faulty` tells that it has no graph to speak of."""

    limits: Limits
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    mentions: list[tuple[Place, str]] = field(default_factory=list)  # where a node id is named
    documents: list[tuple[Place, Mapping[str, Any]]] = field(default_factory=list)  # workflows inside this one
    level: int = 0  # how many documents this one lies in
    uses: list[Use] = field(default_factory=list)
    faulty: bool = False
    faulty_schemas: bool = False  # some JSON Schema can not be read: what it says of fields is not asked then
    suggestions: int = 50  # how many more names are searched for one that was meant: searching is slow

    def did_you_mean(self, name: str, known: Iterable[str]) -> str:
        """` (did you mean `x`?)` if one of the known names is close, else nothing."""
        self.suggestions -= 1
        close = difflib.get_close_matches(name[:128], list(known), n=1) if self.suggestions >= 0 else []
        return f" (did you mean `{close[0]}`?)" if close else ""


@dataclass(frozen=True, slots=True)
class Place:
    """One value of the document, by the steps that lead to it.

    `node` is the node whose field it is; `maps` are the maps in whose sub-graphs that node lies, the outermost first.
    `variables` are those that its templates may read.
    """

    survey: Survey
    steps: tuple[str | int, ...] = ()
    node: str = ""
    maps: tuple[str, ...] = ()
    variables: tuple[str, ...] = VARIABLES

    def at(self, *steps: str | int) -> Place:
        return replace(self, steps=(*self.steps, *steps))

    def inside(self) -> Place:
        """The same, for what lies in the sub-graph of the map whose field this is."""
        return replace(self, node="", maps=(*self.maps, self.node))

    @property
    def path(self) -> str:
        return pointer(*self.steps)

    @property
    def name(self) -> str:
        """The field's name for a sentence: `next[0]`."""
        names = [step for step in self.steps if isinstance(step, str)]
        last = self.steps[-1] if self.steps else "The document"
        if not names:
            return str(last)
        return f"`{names[-1]}[{last}]`" if isinstance(last, int) else f"`{last}`"

    def refuse(self, code: str, message: str, *, harmless: bool = False) -> None:
        """Notes a problem. `harmless` says that the graph can be analysed in spite of it."""
        self.survey.problems.append(Problem(self.path, code, message))
        self.survey.faulty |= not harmless

    def refuse_expression(self, error: ExpressionError) -> None:
        shown = error.expression if len(error.expression) <= 80 else error.expression[:77] + "..."
        where = "" if error.position is None else f" at character {error.position + 1}"
        text = f" in `{shown}`{where}" if shown else where
        self.refuse(error.code, f"{error.message}{text}.", harmless=True)

    def warn(self, code: str, message: str) -> None:
        self.survey.warnings.append(Problem(self.path, code, message))


Check = Callable[[Place, Any], None]
"""Looks at the value of a place and notes what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Field:
    check: Check
    required: bool = False


Fields = Mapping[str, Field]


def required(check: Check) -> Field:
    return Field(check, required=True)


def optional(check: Check) -> Field:
    return Field(check)


def check_fields(place: Place, value: Any, fields: Fields, holder: str) -> bool:
    """An object with the given fields and no other. `holder` says in words what it is. False if it is no object."""
    if not isinstance(value, Mapping):
        place.refuse("wrong-type", f"{place.name} must be an object, not {kind_of(value)}.")
        return False
    for name in value:
        if name not in fields:
            allowed = ", ".join(f"`{known}`" for known in fields) or "none"
            meant = place.survey.did_you_mean(name, fields)
            message = f"`{name[:128]}` is no field of {holder}{meant}; its fields are: {allowed}."
            place.at(name).refuse("unknown-field", message)
    for name, entry in fields.items():
        if name in value:
            entry.check(place.at(name), value[name])
        elif entry.required:
            place.refuse("missing-field", f"{holder[0].upper()}{holder[1:]} must have the field `{name}`.")
    return True


JsonKind = Literal["an object", "a list", "a string", "a number", "a boolean", "null"]


def kind_of(value: Any) -> JsonKind:
    """What a JSON value is, in words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int() | float():
            return "a number"
        case Mapping():
            return "an object"
        case _:
            return "a list"
