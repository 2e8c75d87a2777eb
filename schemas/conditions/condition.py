"""A condition of an edge, a branch or a loop: what it asks, what it reads, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from schemas.conditions.json_schema import schema_test
from schemas.conditions.jsonpath import path_test
from schemas.expressions.budget import Budget, BudgetExceededError
from schemas.expressions.error import EvaluationError
from schemas.expressions.expression import Expression, parse_expression
from schemas.expressions.references import References

TYPES = ("cel", "json_schema", "jsonpath")
DEFAULT_OF = "output"
"""What a schema or path is about, if the condition does not say."""

Variables: TypeAlias = Mapping[str, Any]


class Condition:
    """A condition, ready to evaluate: immutable, and equal to others by its source.

    text: in one line, for events and messages. references: what it reads.
    """

    __slots__ = ("_invert", "_source", "_test", "references", "text")

    text: str
    references: References

    def __init__(self, source: Mapping[str, Any]) -> None:
        """`source` is one that the compiler accepted (checks.py); else ExpressionError, or KeyError for a field."""
        expression = parse_expression(source["expression"] if source["type"] == "cel" else source.get("of", DEFAULT_OF))
        self._source = source
        self._invert = bool(source.get("invert", False))
        self.references = expression.references
        self._test, text = _test(source, expression)
        self.text = f"not ({text})" if self._invert else text

    def holds(self, variables: Variables) -> bool:
        """Whether it holds for plain JSON values by name. Raises EvaluationError; `invert` never applies to one."""
        return self._test(variables) is not self._invert

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and other._source == self._source

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def _test(source: Mapping[str, Any], expression: Expression) -> tuple[Callable[[Variables], bool], str]:
    """The test, and its text."""
    about = "" if expression.text == DEFAULT_OF else f" of {expression.text}"
    match source["type"]:
        case "cel":
            return expression.holds, expression.text
        case "json_schema":
            text = f"json_schema of {expression.text}"
            return _bounded(schema_test(source["schema"]), expression, text), text
        case _:
            text = source["path"] + about
            return _bounded(path_test(source["path"]), expression, text), text


def _bounded(test: Callable[[Any, Budget], bool], expression: Expression, text: str) -> Callable[[Variables], bool]:
    """A test of the value of `expression`, on one budget with it."""

    def run(variables: Variables) -> bool:
        budget = Budget()
        value = expression.evaluate_within(budget, variables)
        try:
            return test(value, budget)
        except EvaluationError as error:
            error.expression = text
            raise
        except BudgetExceededError as error:
            raise EvaluationError("budget", str(error), text) from None
        except RecursionError:
            raise EvaluationError("too-deep", "the data are nested too deep", text) from None

    return run
