"""Closures that read: variables, fields, indexes and `has()`.

A closure takes the variables and the budget. A path such as `ctx.extract.output.summary` is one closure, not
four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.values import BoolKey, Uint, no_overload, type_name

Variables: TypeAlias = Mapping[str, Any]
Evaluate: TypeAlias = Callable[[Variables, Budget], Any]


def path(names: tuple[str, ...]) -> Evaluate:
    """`names[0].names[1]...`, of a variable."""
    root, *fields = names
    match fields:
        case []:
            return _variable(root)
        case [field]:

            def one(variables: Variables, budget: Budget) -> Any:
                try:
                    return variables[root][field]
                except (KeyError, TypeError, AttributeError):
                    raise _missing(variables, names) from None

            return one
        case [first, second]:

            def two(variables: Variables, budget: Budget) -> Any:
                try:
                    return variables[root][first][second]
                except (KeyError, TypeError, AttributeError):
                    raise _missing(variables, names) from None

            return two
        case [first, second, third]:

            def three(variables: Variables, budget: Budget) -> Any:
                try:
                    return variables[root][first][second][third]
                except (KeyError, TypeError, AttributeError):
                    raise _missing(variables, names) from None

            return three

    def many(variables: Variables, budget: Budget) -> Any:
        try:
            value = variables[root]
            for field in fields:
                value = value[field]
            return value
        except (KeyError, TypeError, AttributeError):
            raise _missing(variables, names) from None

    return many


def _variable(name: str) -> Evaluate:
    def read(variables: Variables, budget: Budget) -> Any:
        try:
            return variables[name]
        except KeyError:
            raise _missing(variables, (name,)) from None

    return read


def _missing(variables: Variables, names: tuple[str, ...]) -> EvaluationError:
    """Walk the path again to say where it ends. The names are the author's; no value is shown."""
    if names[0] not in variables:
        return EvaluationError("no-such-variable", f"{names[0]} has no value here")
    value = variables[names[0]]
    for depth, name in enumerate(names[1:], start=1):
        if type(value) is not dict:
            return _no_fields(".".join(names[:depth]), value)
        if name not in value:
            if names[0] == "ctx" and depth == 1:
                return EvaluationError("no-such-field", f"node {name} has no output here; use has(ctx.{name})")
            return EvaluationError("no-such-field", f"{'.'.join(names[:depth])} has no field {name!r}")
        value = value[name]
    return EvaluationError("no-such-field", f"{'.'.join(names)} has no value")


def _no_fields(what: str, value: Any) -> EvaluationError:
    return EvaluationError("no-such-overload", f"{what} is a {type_name(value)} and has no fields")


def select(operand: Evaluate, field: str) -> Evaluate:
    """`operand.field` of anything but a path."""

    def read(variables: Variables, budget: Budget) -> Any:
        value = operand(variables, budget)
        if type(value) is not dict:
            raise _no_fields("the value", value)
        if field not in value:
            raise EvaluationError("no-such-field", f"the map has no field {field!r}")
        return value[field]

    return read


def presence(operand: Evaluate, field: str) -> Evaluate:
    """`has(operand.field)`: an error where the operand itself is one, as CEL has it."""

    def test(variables: Variables, budget: Budget) -> bool:
        value = operand(variables, budget)
        if type(value) is not dict:
            raise _no_fields("the value of has()", value)
        return field in value

    return test


def context_presence(names: tuple[str, ...]) -> Evaluate:
    """`has(ctx.node...)`: false for a node that has not run, however deep the path goes on."""
    node = names[1]
    strict = presence(path(names[:-1]), names[-1])

    def test(variables: Variables, budget: Budget) -> bool:
        context = variables.get("ctx")
        if type(context) is dict and (
            node not in context or (len(names) > 2 and names[2] == "output" and "output" not in context[node])
        ):
            return False
        return bool(strict(variables, budget))

    return test


def index(operand: Evaluate, key: Evaluate) -> Evaluate:
    """`operand[key]` of a list or a map."""

    def read(variables: Variables, budget: Budget) -> Any:
        container = operand(variables, budget)
        place = key(variables, budget)
        if type(container) is dict:
            return _entry(container, place)
        if type(container) is list:
            return _item(container, place)
        raise no_overload("[]", container, place)

    return read


def _entry(container: dict[Any, Any], key: Any) -> Any:
    found = lookup_key("[]", container, key)
    if found is None or found not in container:
        raise EvaluationError("no-such-field", "the map has no such entry")
    return container[found]


def lookup_key(operation: str, container: dict[Any, Any], key: Any) -> Any:
    """The key to look for in a map. A whole double finds an int; None for any other double, which finds none."""
    kind = type(key)
    if kind is str or kind is int or kind is Uint:
        return key
    if kind is bool:
        return BoolKey(key)
    if kind is float:
        return int(key) if key.is_integer() else None
    raise no_overload(operation, key, container)


def _item(container: list[Any], place: Any) -> Any:
    kind = type(place)
    if kind is float and place.is_integer():
        place = int(place)
    elif kind is not int and kind is not Uint:
        raise no_overload("[]", container, place)
    if 0 <= place < len(container):
        return container[place]
    raise EvaluationError("index-out-of-range", f"the list of {len(container)} has no item at that index")
