"""Warnings about what is valid and probably not meant: integer division that loses a fraction."""

from __future__ import annotations

from schemas.expressions.syntax import Binary, Call, Literal, Negate, Node, children

_INTEGER_FUNCTIONS = frozenset({"size", "int", "uint"})


def warnings(node: Node) -> tuple[str, ...]:
    """One sentence for each division `a / b` whose fraction seems to be wanted.

    A division with an integer on its right is one of integers, unless JSON gives a fraction on its left.
    It is reported where its result meets a fraction (`a / 2 > 0.5`), is multiplied (`a / b * 100`), or has
    a fraction for certain (`1 / 3`).
    """
    found: list[str] = []
    _visit(node, found)
    return tuple(dict.fromkeys(found))


def _visit(node: Node, found: list[str]) -> None:
    if _is_integer_division(node) and _is_inexact(node):
        found.append(_sentence(node))
    if isinstance(node, Binary):
        for side, other in ((node.left, node.right), (node.right, node.left)):
            if _is_integer_division(side) and (_is_fraction(other) or node.operator == "*"):
                found.append(_sentence(side))
    for child in children(node):
        _visit(child, found)


def _is_integer_division(node: Node) -> bool:
    return isinstance(node, Binary) and node.operator == "/" and _is_integer(node.right) and not _is_double(node.left)


def _is_integer(node: Node) -> bool:
    match node:
        case Literal(value=value):
            return isinstance(value, int) and not isinstance(value, bool)
        case Call(function=function):
            return function in _INTEGER_FUNCTIONS or function.startswith("get")
        case Negate(operand=operand):
            return _is_integer(operand)
        case Binary(operator="+" | "-" | "*" | "/" | "%", left=left, right=right):
            return _is_integer(left) and _is_integer(right)
    return False


def _is_double(node: Node) -> bool:
    match node:
        case Literal(value=float()) | Call(function="double"):
            return True
        case Negate(operand=operand):
            return _is_double(operand)
        case Binary(operator="+" | "-" | "*" | "/", left=left, right=right):
            return _is_double(left) or _is_double(right)
    return False


def _is_fraction(node: Node) -> bool:
    return isinstance(node, Literal) and isinstance(node.value, float) and not node.value.is_integer()


def _is_inexact(node: Node) -> bool:
    match node:
        case Binary(left=Literal(value=int() as left), right=Literal(value=int() as right)):
            return right != 0 and left % right != 0
    return False


def _sentence(node: Node) -> str:
    place = node.position + 1
    return f"the division at character {place} is one of integers and drops the fraction; use double()"
