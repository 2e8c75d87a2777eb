"""Closures for the macros `all`, `exists`, `exists_one`, `filter` and `map`.

A macro pays for all its iterations before the first: what an evaluation costs depends on sizes alone. The
variable lives in a copy of the variables, made once a macro, so that it shadows what it names and nothing
leaks out.
"""

from __future__ import annotations

from typing import Any

from schemas.expressions.budget import FAILURE_STEPS, Budget
from schemas.expressions.error import EvaluationError
from schemas.expressions.paths import Evaluate, Variables
from schemas.expressions.values import from_map_key, no_overload

# No identifier: the variables outside of all macros, for `.input` where a macro's variable is called `input`.
OUTERMOST = ""


def _inner(variables: Variables) -> dict[str, Any]:
    inner = dict(variables)
    inner.setdefault(OUTERMOST, variables)
    return inner


def _items(macro: str, source: Any, steps: int, budget: Budget) -> list[Any]:
    """The items of a list or the keys of a map, paid for at `steps` each."""
    if type(source) is list:
        budget.spend(steps * len(source))
        return source
    if type(source) is dict:
        budget.spend((steps + 1) * len(source))
        return [from_map_key(key) for key in source]
    raise no_overload(f"{macro}()", source)


def quantifier(macro: str, source: Evaluate, name: str, body: Evaluate, steps: int) -> Evaluate:
    """`all` and `exists`: like `&&` and `||` over the items, errors included."""
    decisive = macro == "exists"
    neutral = not decisive

    def run(variables: Variables, budget: Budget) -> bool:
        items = _items(macro, source(variables, budget), steps, budget)
        inner = _inner(variables)
        failure: EvaluationError | None = None
        for inner[name] in items:
            try:
                value: object = body(inner, budget)
            except EvaluationError as error:
                budget.spend(FAILURE_STEPS)
                failure = failure or error
                continue
            if value is decisive:
                return decisive
            if value is not neutral:
                failure = failure or no_overload(f"{macro}()", value)
        if failure is not None:
            raise failure
        return neutral

    return run


def exactly_one(source: Evaluate, name: str, body: Evaluate, steps: int) -> Evaluate:
    """`exists_one`: every item is tested, and an error of one is the error of all."""

    def run(variables: Variables, budget: Budget) -> bool:
        items = _items("exists_one", source(variables, budget), steps, budget)
        inner = _inner(variables)
        found = 0
        for inner[name] in items:
            found += _holds("exists_one", body(inner, budget))
        return found == 1

    return run


def filtered(source: Evaluate, name: str, body: Evaluate, steps: int) -> Evaluate:
    def run(variables: Variables, budget: Budget) -> list[Any]:
        items = _items("filter", source(variables, budget), steps, budget)
        inner = _inner(variables)
        kept = []
        for inner[name] in items:
            if _holds("filter", body(inner, budget)):
                kept.append(inner[name])
        budget.allocate(8 * len(kept))
        return kept

    return run


def mapped(source: Evaluate, name: str, condition: Evaluate | None, body: Evaluate, steps: int) -> Evaluate:
    def run(variables: Variables, budget: Budget) -> list[Any]:
        items = _items("map", source(variables, budget), steps, budget)
        budget.allocate(8 * len(items))
        inner = _inner(variables)
        made = []
        for inner[name] in items:
            if condition is None or _holds("map", condition(inner, budget)):
                made.append(body(inner, budget))
        return made

    return run


def _holds(macro: str, value: Any) -> bool:
    if type(value) is bool:
        return value
    raise no_overload(f"the condition of {macro}()", value)
