"""Text with CEL in `{{ }}`, and JSON values that hold such text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.expressions.budget import Budget, BudgetExceededError
from schemas.expressions.error import EvaluationError, ExpressionError, TemplateError
from schemas.expressions.expression import VARIABLES, Expression, parse_expression
from schemas.expressions.references import References, union
from schemas.expressions.scanner import find_end
from schemas.limits import LIMITS

__all__ = ["Template", "TemplateError", "ValueTemplate", "parse_template", "parse_value"]


@dataclass(frozen=True)
class Template:
    """text: as written. parts: the literal text and the expressions, in order."""

    text: str
    parts: tuple[str | Expression, ...]
    references: References

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return tuple(part for part in self.parts if isinstance(part, Expression))

    def render(self, variables: Mapping[str, Any]) -> Any:
        """The text with the expressions' values in place; the value itself if it is exactly one `{{ }}`.

        Strings go in as they are, other values as compact JSON. Raises TemplateError: for an expression that
        is in error or null, and for a text over the limit `prompt_bytes`.
        """
        return self.render_within(Budget(), variables)

    def render_within(self, budget: Budget, variables: Mapping[str, Any]) -> Any:
        """`render` on a budget that several templates share."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return _value(self.parts[0], budget, variables)
        pieces: list[str] = []
        size = 0
        for part in self.parts:
            piece = part if isinstance(part, str) else _text(part, budget, variables)
            pieces.append(piece)
            size += _size(part, piece)
            if size > LIMITS.prompt_bytes:
                raise _refused(part, f"the text is longer than {LIMITS.prompt_bytes} bytes", "too-large")
        return "".join(pieces)


def _size(part: str | Expression, piece: str) -> int:
    try:
        return len(piece.encode())
    except UnicodeEncodeError:
        raise _refused(part, "the text is no valid Unicode", "bad-conversion") from None


def _refused(part: str | Expression, reason: str, code: str) -> TemplateError:
    return TemplateError(part[:80] if isinstance(part, str) else part.text, reason, code)


def _value(expression: Expression, budget: Budget, variables: Mapping[str, Any]) -> Any:
    try:
        value = expression.evaluate_within(budget, variables)
    except EvaluationError as error:
        raise TemplateError(expression.text, error.message, error.code) from None
    if value is None:
        raise TemplateError(expression.text, "the value is null", "null")
    return value


def _text(expression: Expression, budget: Budget, variables: Mapping[str, Any]) -> str:
    value = _value(expression, budget, variables)
    return value if isinstance(value, str) else _json(expression, value)


def _json(part: str | Expression, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):
        raise _refused(part, "the value has no JSON form", "not-json") from None
    except RecursionError:
        raise _refused(part, "the value is nested too deep", "too-deep") from None


@functools.lru_cache(maxsize=256)
def parse_template(text: str, variables: tuple[str, ...] = VARIABLES) -> Template:
    """A text whose expressions may read `variables`.

    Raises ExpressionError; its position is that in the expression, which the error holds.
    """
    parts: list[str | Expression] = []
    position = 0
    while (opening := text.find("{{", position)) >= 0:
        if opening > position:
            parts.append(text[position:opening])
        end = find_end(text, opening + 2)
        if end < 0:
            raise ExpressionError("unclosed", "a '{{' without its '}}'", text[opening:][:80], 0)
        parts.append(parse_expression(text[opening + 2 : end].strip(" \t\r\n"), variables))
        position = end + 2
    if position < len(text) or not parts:
        parts.append(text[position:])
    references = union(part.references for part in parts if isinstance(part, Expression))
    return Template(text, tuple(parts), references)


@dataclass(frozen=True)
class ValueTemplate:
    """A JSON value with templates in its strings. templates: those with an expression, by JSON pointer."""

    templates: tuple[tuple[str, Template], ...]
    references: References
    _render: Callable[[Budget, Mapping[str, Any]], Any]

    def render(self, variables: Mapping[str, Any]) -> Any:
        """The value with every template rendered. Raises TemplateError."""
        return self._render(Budget(), variables)


def parse_value(value: Any, variables: tuple[str, ...] = VARIABLES) -> ValueTemplate:
    """A JSON value: templates over `variables` in all strings, the keys of objects as they are.

    Raises ExpressionError, whose `pointer` is the JSON pointer (RFC 6901) of the string at fault.
    """
    templates: list[tuple[str, Template]] = []
    render = _compile(value, variables, "", 0, templates)
    references = union(template.references for _, template in templates)
    return ValueTemplate(tuple(templates), references, render)


def _compile(
    value: Any, variables: tuple[str, ...], pointer: str, depth: int, templates: list[tuple[str, Template]]
) -> Callable[[Budget, Mapping[str, Any]], Any]:
    if depth > LIMITS.json_depth:
        error = ExpressionError("too-deep", f"the value is nested deeper than {LIMITS.json_depth}")
        error.pointer = pointer
        raise error
    if isinstance(value, str) and "{{" in value:
        try:
            template = parse_template(value, variables)
        except ExpressionError as error:
            error.pointer = pointer
            raise
        templates.append((pointer, template))
        return functools.partial(_render_counted, template)
    if isinstance(value, list):
        items = [
            _compile(item, variables, f"{pointer}/{place}", depth + 1, templates) for place, item in enumerate(value)
        ]
        return lambda budget, variables: [item(budget, variables) for item in items]
    if isinstance(value, dict):
        fields = {
            key: _compile(item, variables, f"{pointer}/{_escaped(key)}", depth + 1, templates)
            for key, item in value.items()
        }
        return lambda budget, variables: {key: field(budget, variables) for key, field in fields.items()}
    return lambda budget, variables: value


def _render_counted(template: Template, budget: Budget, variables: Mapping[str, Any]) -> Any:
    """Count what each template puts in: a small document can name one large output a thousand times."""
    value = template.render_within(budget, variables)
    try:
        budget.allocate(len(value if isinstance(value, str) else _json(template.parts[0], value)))
    except BudgetExceededError:
        raise _refused(template.parts[0], "the values are too large together", "too-large") from None
    return value


def _escaped(key: str) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")
