"""The checks that node types and documents are described with: each looks at one value of a document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from schemas.compiler.json_schema import schema_problems
from schemas.compiler.survey import Check, Fields, Place, Use, check_fields, kind_of, optional, required
from schemas.conditions.condition import DEFAULT_OF, TYPES
from schemas.conditions.json_schema import schema_test
from schemas.conditions.jsonpath import path_test
from schemas.errors import Problem
from schemas.expressions.error import ExpressionError
from schemas.expressions.expression import Expression, parse_expression
from schemas.expressions.template import parse_template
from schemas.ids import NODE_ID


def text(low: int = 0, high: int = 1_000_000) -> Check:
    """A string of `low` to `high` characters."""

    def check(place: Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("wrong-type", f"{place.name} must be a string, not {kind_of(value)}.")
        elif not low <= len(value) <= high:
            place.refuse("out-of-range", f"{place.name} must have {low} to {high} characters, not {len(value)}.")

    return check


def name(pattern: re.Pattern[str], words: str) -> Check:
    """A string of the given pattern; `words` says what may stand there."""

    def check(place: Place, value: Any) -> None:
        if not isinstance(value, str):
            place.refuse("wrong-type", f"{place.name} must be a string, not {kind_of(value)}.")
        elif not pattern.fullmatch(value):
            place.refuse("bad-name", f"{place.name} must be {words}, and `{value[:128]}` is not.")

    return check


def one_of(*choices: str) -> Check:
    def check(place: Place, value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            place.refuse("bad-value", f"{place.name} must be {' or '.join(f'`{choice}`' for choice in choices)}.")

    return check


def boolean(place: Place, value: Any) -> None:
    if not isinstance(value, bool):
        place.refuse("wrong-type", f"{place.name} must be true or false, not {kind_of(value)}.")


def integer(low: int, high: int) -> Check:
    def check(place: Place, value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            place.refuse("wrong-type", f"{place.name} must be an integer, not {_number_kind(value)}.")
        elif not low <= value <= high:
            place.refuse("out-of-range", f"{place.name} must be {low} to {high}, not {value}.")

    return check


def number(low: float, high: float) -> Check:
    def check(place: Place, value: Any) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            place.refuse("wrong-type", f"{place.name} must be a number, not {kind_of(value)}.")
        elif not low <= value <= high:
            place.refuse("out-of-range", f"{place.name} must be {low} to {high}, not {value}.")

    return check


def fields(table: Fields, holder: str) -> Check:
    """An object with the given fields; `holder` says in words what it is."""

    def check(place: Place, value: Any) -> None:
        check_fields(place, value, table, holder)

    return check


def items(of: Check, low: int = 0) -> Check:
    """A list of at least `low` items."""

    def check(place: Place, value: Any) -> None:
        if not isinstance(value, list | tuple):
            place.refuse("wrong-type", f"{place.name} must be a list, not {kind_of(value)}.")
            return
        if len(value) < low:
            place.refuse("out-of-range", f"{place.name} must have at least {low} item{'s' * (low != 1)}.")
        for position, item in enumerate(value):
            of(place.at(position), item)

    return check


def entries(key: re.Pattern[str], words: str, of: Check, low: int = 0) -> Check:
    """An object whose names the author chooses. `words` says what they must be."""

    def check(place: Place, value: Any) -> None:
        if not isinstance(value, Mapping):
            place.refuse("wrong-type", f"{place.name} must be an object, not {kind_of(value)}.")
            return
        if len(value) < low:
            place.refuse("out-of-range", f"{place.name} must have at least {low} field{'s' * (low != 1)}.")
        for chosen, item in value.items():
            if not key.fullmatch(chosen):
                message = f"The names in {place.name} must be {words}, and `{chosen[:128]}` is not."
                place.at(chosen).refuse("bad-name", message)
            of(place.at(chosen), item)

    return check


def schema(place: Place, value: Any) -> None:
    """A JSON Schema (json_schema.py)."""
    for problem in schema_problems(value, place.path):
        place.survey.problems.append(problem)
        place.survey.faulty_schemas = True


def target(place: Place, value: Any) -> None:
    """The id of a node; whether there is one is seen when all nodes are known."""
    before = len(place.survey.problems)
    name(NODE_ID, "the id of a node")(place, value)
    if len(place.survey.problems) == before:
        place.survey.mentions.append((place, value))


targets = items(target)


def condition(place: Place, value: Any) -> None:
    """A condition (schemas/conditions) about what arrived at the node."""
    _condition(place, value, result=False)


def edge_condition(place: Place, value: Any) -> None:
    """A condition about the output of the node that the edge leaves."""
    _condition(place, value, result=True)


def expression(place: Place, value: Any, *, result: bool = False) -> None:
    """CEL, evaluated by the coordinator."""
    if not isinstance(value, str):
        place.refuse("wrong-type", f"{place.name} must be a CEL expression, not {kind_of(value)}.")
        return
    try:
        parsed = parse_expression(value)
    except ExpressionError as error:
        place.refuse_expression(error)
        return
    _use(place, parsed, result=result)


def template(place: Place, value: Any) -> None:
    """Text with CEL in `{{ }}`, rendered by a runner."""
    if not isinstance(value, str):
        place.refuse("wrong-type", f"{place.name} must be a string, not {kind_of(value)}.")
        return
    try:
        parsed = parse_template(value, place.variables)
    except ExpressionError as error:
        place.refuse_expression(error)
        return
    for part in parsed.expressions:
        _use(place, part, template=True)


def value_template(place: Place, value: Any) -> None:
    """Any JSON value; the strings in it are templates."""
    if isinstance(value, str):
        template(place, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            value_template(place.at(key), item)
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            value_template(place.at(position), item)


def _condition(place: Place, value: Any, *, result: bool) -> None:
    if not isinstance(value, Mapping):
        kinds = " or ".join(TYPES)
        place.refuse("wrong-type", f"{place.name} must be an object with the type {kinds}, not {kind_of(value)}.")
        return

    def own_expression(inner: Place, inner_value: Any) -> None:
        expression(inner, inner_value, result=result)

    common = {"type": required(one_of(*TYPES)), "invert": optional(boolean)}
    about = {"of": optional(own_expression)}
    fields_of = {
        "cel": {"expression": required(own_expression)},
        "json_schema": {"schema": required(condition_schema), **about},
        "jsonpath": {"path": required(json_path), **about},
    }
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in fields_of:
        check_fields(place, {name: kind for name in ("type",) if name in value}, common, "a condition")
        return
    check_fields(place, value, common | fields_of[kind], f"a {kind} condition")
    if kind != "cel" and "of" not in value:
        _use(place, parse_expression(DEFAULT_OF), result=result)


def condition_schema(place: Place, value: Any) -> None:
    """A JSON Schema that a condition can ask."""
    problems = schema_problems(value, place.path)
    place.survey.problems += problems
    if not problems:
        try:
            schema_test(value)
        except ExpressionError as error:
            place.survey.problems.append(Problem(place.path + error.pointer, error.code, f"{error.message}."))


def json_path(place: Place, value: Any) -> None:
    """A JSONPath."""
    if not isinstance(value, str):
        place.refuse("wrong-type", f"{place.name} must be a JSONPath, not {kind_of(value)}.")
        return
    try:
        path_test(value)
    except ExpressionError as error:
        place.refuse_expression(error)


def _use(place: Place, parsed: Expression, *, template: bool = False, result: bool = False) -> None:
    use = Use(place.path, place.node, parsed.references, template=template, result=result, in_map=bool(place.maps))
    place.survey.uses.append(use)
    for warning in parsed.warnings:
        place.warn("expression", f"In `{parsed.text}`, {warning}.")


def _number_kind(value: Any) -> str:
    return "a fraction" if isinstance(value, float) else kind_of(value)
