"""An expression: its text, what it reads, and its value."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from schemas.expressions import advice
from schemas.expressions.budget import NOTHING_TO_SPEND, Budget, BudgetExceededError
from schemas.expressions.compiler import compile_node
from schemas.expressions.error import EvaluationError
from schemas.expressions.parser import parse
from schemas.expressions.paths import Evaluate
from schemas.expressions.references import References, collect
from schemas.expressions.result import is_json, to_json
from schemas.expressions.values import TYPE_NAMES

VARIABLES = ("input", "output", "ctx", "iteration", "item", "index", "run")


class Expression:
    """A CEL expression, ready to evaluate: immutable, usable from any thread, equal to others by its text.

    text: as written. references: what it reads. warnings: sentences about what is probably not meant.
    """

    __slots__ = ("_is_json", "_metered", "_run", "references", "text", "warnings")

    text: str
    references: References
    warnings: tuple[str, ...]

    def __init__(self, text: str, variables: frozenset[str] = frozenset(VARIABLES)) -> None:
        """Raises ExpressionError. `variables` are the names that the expression may use."""
        node = parse(text)
        program = compile_node(node, text, variables)
        self.text = text
        self.references = collect(node, variables)
        self.warnings = advice.warnings(node)
        self._run = program.run
        self._is_json = is_json(node)
        self._metered = program.metered or not self._is_json

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """The value as JSON. `variables` are plain JSON values by name. Raises EvaluationError."""
        return self.evaluate_within(self._budget(), variables)

    def evaluate_within(self, budget: Budget, variables: Mapping[str, Any]) -> Any:
        """`evaluate` on a budget that several expressions share."""
        if self._is_json:
            return self._attempt(self._run, variables, budget)
        return self._attempt(self._run_to_json, variables, budget)

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """The value of a condition. Raises EvaluationError, `not-a-bool` for any other value."""
        value = self._attempt(self._run, variables, self._budget())
        if value is True or value is False:
            return value
        message = f"a condition must give a bool, not a {TYPE_NAMES.get(type(value), 'Python object')}"
        raise EvaluationError("not-a-bool", message, self.text)

    def value(self, variables: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """The value as CEL has it: it may hold bytes, timestamps and the like (values.py)."""
        return self._attempt(self._run, variables, budget or self._budget())

    def _budget(self) -> Budget:
        return Budget() if self._metered else NOTHING_TO_SPEND

    def _run_to_json(self, variables: Mapping[str, Any], budget: Budget) -> Any:
        return to_json(self._run(variables, budget), budget)

    def _attempt(self, run: Evaluate, variables: Mapping[str, Any], budget: Budget) -> Any:
        try:
            return run(variables, budget)
        except EvaluationError as error:
            error.expression = self.text
            raise
        except BudgetExceededError as error:
            raise EvaluationError("budget", str(error), self.text) from None
        except RecursionError:
            raise EvaluationError("too-deep", "the data are nested too deep", self.text) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"


@functools.lru_cache(maxsize=512)
def parse_expression(text: str, variables: tuple[str, ...] = VARIABLES) -> Expression:
    """The expression of a text over `variables`; the same object for the same text. Raises ExpressionError."""
    return Expression(text, frozenset(variables))
