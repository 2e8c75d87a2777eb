"""A handler's parameters as a JSON Schema, from its signature and type hints."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import pydantic

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parameters_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The JSON Schema of the keywords that a function takes; what its hints do not tell may be anything."""
    hints = _hints(function)
    fields: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    is_open = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind in _NAMED:
            fields[name] = _schema(hints.get(name, Any))
            definitions |= fields[name].pop("$defs", {})
            if parameter.default is inspect.Parameter.empty:
                required.append(name)
    schema = {"type": "object", "properties": fields, "required": required, "additionalProperties": is_open}
    return schema | ({"$defs": definitions} if definitions else {})


def description_of(function: Callable[..., Any]) -> str:
    """The first paragraph of a function's docstring."""
    return (inspect.getdoc(function) or "").split("\n\n")[0].strip()


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # a hint that names what is imported for type checkers only
        return {}


def _schema(hint: Any) -> dict[str, Any]:
    try:
        schema = pydantic.TypeAdapter(hint).json_schema()
    except Exception:  # a hint that no JSON fits: the handler will say what it thinks of what it gets
        return {}
    schema.pop("title", None)
    return schema
