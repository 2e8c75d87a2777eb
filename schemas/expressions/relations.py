"""Closures for `==`, `!=`, `<`, `<=`, `>`, `>=` and `in`, quick where one side is written in the text."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from schemas.expressions.budget import Budget
from schemas.expressions.paths import Evaluate, Variables, lookup_key
from schemas.expressions.values import NUMBERS, compare, equal, no_overload

ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
# Below this, Python, which compares an int with a double exactly, and CEL, which rounds it first, agree.
_EXACT = 2**53


def is_quick(constant: Any) -> bool:
    """Whether `quick` has a closure for comparisons with this constant."""
    kind = type(constant)
    if kind in NUMBERS:
        return bool(-_EXACT < constant < _EXACT)
    return kind is str or kind is bool or constant is None


def quick_equality(symbol: str, operand: Evaluate, constant: Any) -> Evaluate:
    """`operand == constant` or `!=`; the order of the sides does not matter."""
    wanted = symbol == "=="
    if constant is None or type(constant) is bool:

        def identical(variables: Variables, budget: Budget) -> bool:
            return (operand(variables, budget) is constant) is wanted

        return identical
    kinds = frozenset({str}) if type(constant) is str else NUMBERS

    def same(variables: Variables, budget: Budget) -> bool:
        value = operand(variables, budget)
        return (type(value) in kinds and bool(value == constant)) is wanted

    return same


def quick_ordering(symbol: str, operand: Evaluate, constant: Any) -> Evaluate:
    """`operand < constant` and the like, for a number or string."""
    relation = ORDERINGS[symbol]
    likely = str if type(constant) is str else int
    also = str if type(constant) is str else float

    def ordered(variables: Variables, budget: Budget) -> bool:
        value = operand(variables, budget)
        kind = type(value)
        if kind is likely or kind is also:
            return relation(value, constant)
        return compare(relation, symbol, value, constant, budget)

    return ordered


def equality(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    wanted = symbol == "=="

    def same(variables: Variables, budget: Budget) -> bool:
        return equal(left(variables, budget), right(variables, budget), budget) is wanted

    return same


def ordering(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    relation = ORDERINGS[symbol]

    def ordered(variables: Variables, budget: Budget) -> bool:
        return compare(relation, symbol, left(variables, budget), right(variables, budget), budget)

    return ordered


def membership(left: Evaluate, right: Evaluate) -> Evaluate:
    """`left in right`: an item of a list, or a key of a map."""

    def contained(variables: Variables, budget: Budget) -> bool:
        item = left(variables, budget)
        container = right(variables, budget)
        if type(container) is dict:
            key = lookup_key("in", container, item)
            return key is not None and key in container
        if type(container) is not list:
            raise no_overload("in", item, container)
        if type(item) is str:  # the only type for which Python's `in` is CEL's
            budget.spend(len(container) // 4 + len(container) * (len(item) // 4096))
            return item in container
        budget.spend(2 * len(container))
        return any(equal(item, other, budget) for other in container)

    return contained


def membership_in_texts(left: Evaluate, texts: frozenset[str]) -> Evaluate:
    """`left in ["a", "b"]`, with only strings in the text."""

    def contained(variables: Variables, budget: Budget) -> bool:
        item = left(variables, budget)
        return type(item) is str and item in texts

    return contained
