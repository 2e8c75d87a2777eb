"""Closures for `&&`, `||`, `!` and `? :`."""

from __future__ import annotations

from typing import Any

from schemas.expressions.budget import FAILURE_STEPS, Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.paths import Evaluate, Variables
from schemas.expressions.values import no_overload


def negation(operand: Evaluate) -> Evaluate:
    def run(variables: Variables, budget: Budget) -> bool:
        value = operand(variables, budget)
        if type(value) is bool:
            return not value
        raise no_overload("!", value)

    return run


def connective(symbol: str, terms: tuple[Evaluate, ...], in_macro: bool) -> Evaluate:
    """`&&` or `||`. An error yields to a term that decides, whichever comes first."""
    decisive = symbol == "||"
    neutral = not decisive

    def run(variables: Variables, budget: Budget) -> bool:
        failure: EvaluationError | None = None
        for term in terms:
            try:
                value: object = term(variables, budget)
            except EvaluationError as error:
                if in_macro:
                    budget.spend(FAILURE_STEPS)
                failure = failure or error
                continue
            if value is decisive:
                return decisive
            if value is not neutral:
                failure = failure or no_overload(symbol, value)
        if failure is not None:
            raise failure
        return neutral

    return run


def conditional(condition: Evaluate, yes: Evaluate, no: Evaluate) -> Evaluate:
    def run(variables: Variables, budget: Budget) -> Any:
        value = condition(variables, budget)
        if value is True:
            return yes(variables, budget)
        if value is False:
            return no(variables, budget)
        raise no_overload("? :", value)

    return run
