"""Where in its text an expression is in error, for whoever tries one. Evaluations in a run do not pay for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from schemas.expressions.budget import Budget, BudgetExceededError
from schemas.expressions.compiler import compile_node
from schemas.expressions.error import EvaluationError
from schemas.expressions.expression import VARIABLES
from schemas.expressions.parser import parse
from schemas.expressions.syntax import Comprehension, Conditional, Node, children
from schemas.expressions.values import from_map_key

_MAX_ITEMS = 1_000
"""Items of a macro that are looked through."""

Variables: TypeAlias = Mapping[str, Any]


def fault_position(text: str, variables: Variables) -> int | None:
    """The offset of the innermost part that is in error while its own parts have values; None if there is none.

    Evaluates the parts one by one. `text` is an expression that has been parsed before.
    """
    return _find(parse(text), text, variables)


def _find(node: Node, text: str, variables: Variables) -> int | None:
    if not _fails(node, text, variables):
        return None
    for part, inner in _parts(node, text, variables):
        found = _find(part, text, inner)
        if found is not None:
            return found
    return node.position


def _parts(node: Node, text: str, variables: Variables) -> Iterator[tuple[Node, Variables]]:
    """What an evaluation of the node evaluates, each with the variables that it sees."""
    match node:
        case Conditional(condition=condition, yes=yes, no=no):
            yield condition, variables
            yield (yes if _value(condition, text, variables) is True else no), variables
        case Comprehension(source=source, variable=name, filter=condition, body=body):
            yield source, variables
            items = _value(source, text, variables)
            for item in islice(items if isinstance(items, list | dict) else (), _MAX_ITEMS):
                inner = {**variables, name: from_map_key(item) if isinstance(items, dict) else item}
                if condition is not None:
                    yield condition, inner
                if condition is None or _value(condition, text, inner) is True:
                    yield body, inner
        case _:
            yield from ((part, variables) for part in children(node))


def _fails(node: Node, text: str, variables: Variables) -> bool:
    try:
        _value(node, text, variables)
    except (EvaluationError, BudgetExceededError, RecursionError):
        return True
    return False


def _value(node: Node, text: str, variables: Variables) -> Any:
    return compile_node(node, text, frozenset(VARIABLES) | variables.keys()).run(variables, Budget())
