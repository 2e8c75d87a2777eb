"""Text to syntax tree: celpy's grammar, its tree folded into ours, the macros recognised.

The grammar makes nine nested trees of every operand; the folding leaves one node for each thing that the
author wrote.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from schemas.expressions.error import ExpressionError
from schemas.expressions.scanner import Scan, scan
from schemas.expressions.syntax import (
    And,
    Binary,
    Call,
    Comprehension,
    Conditional,
    Index,
    ListLiteral,
    Literal,
    MapLiteral,
    Negate,
    Node,
    Not,
    Or,
    Presence,
    Select,
    Variable,
)
from schemas.expressions.values import INT_MAX, INT_MIN, UINT_MAX, Uint

MAX_DEPTH = 100
MACROS = {"all": (2,), "exists": (2,), "exists_one": (2,), "filter": (2,), "map": (2, 3)}
KEYWORDS = frozenset({"true", "false", "null", "in"})
RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"),
        *("package", "namespace", "return", "var", "void", "while"),
    }
)
_OPERATORS = {
    "relation_lt": "<",
    "relation_le": "<=",
    "relation_gt": ">",
    "relation_ge": ">=",
    "relation_eq": "==",
    "relation_ne": "!=",
    "relation_in": "in",
    "addition_add": "+",
    "addition_sub": "-",
    "multiplication_mul": "*",
    "multiplication_div": "/",
    "multiplication_mod": "%",
}
_DECIMAL = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?")
# lark types a child as "a tree or a token" at every turn; the rules in celpy/cel.lark say which it is.
LarkTree: TypeAlias = Any
_lock = threading.Lock()


@functools.cache
def _celpy() -> Any:
    from celpy.celparser import CELParser  # a fifth of a second: only for those who parse

    return CELParser()


def parse(text: str) -> Node:
    """Raises ExpressionError: `syntax`, `too-long`, `too-deep`, `unsupported`."""
    from celpy.celparser import CELParseError

    scanned = scan(text)
    try:
        with _lock:  # CELParser keeps the text it parses on itself
            tree = _celpy().parse(scanned.text)
    except CELParseError as error:
        raise _syntax_error(text, scanned, error) from None
    return _Folder(text, scanned).fold(tree, 0)


def _syntax_error(text: str, scanned: Scan, error: Any) -> ExpressionError:
    token = getattr(error.__context__, "token", None)
    if token is not None and token.type == "$END":
        return ExpressionError("syntax", "the expression ends too early", text, len(text))
    if error.line is None or error.column is None:
        return ExpressionError("syntax", f"unexpected {str(token)!r}", text)
    lines = scanned.text.split("\n")
    position = sum(len(line) + 1 for line in lines[: error.line - 1]) + error.column - 1
    found = re.match(r"\w+|.", text[position:], re.DOTALL)
    what = repr(found[0]) if found else "end"
    return ExpressionError("syntax", f"unexpected {what}", text, position)


class _Folder:
    """Folds one lark tree. Children come as the grammar's rules give them; see celpy/cel.lark."""

    def __init__(self, text: str, scanned: Scan) -> None:
        self.text = text
        self.scanned = scanned

    def error(self, code: str, message: str, position: int | None) -> ExpressionError:
        return ExpressionError(code, message, self.text, position)

    def fold(self, tree: LarkTree, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error("too-deep", f"the expression is nested deeper than {MAX_DEPTH}", None)
        while tree.data in _WRAPPERS and len(tree.children) == 1:
            tree = tree.children[0]
        return _FOLDS[tree.data](self, tree, depth + 1)

    def position(self, tree: LarkTree) -> int:
        return int(getattr(tree.meta, "start_pos", None) or 0)  # celpy makes `true` a token without a place

    def name(self, token: Any) -> str:
        """The name behind a token in the place of a field or function."""
        quoted = self.scanned.selectors.get(token.start_pos or 0)
        if quoted is None and token.value in KEYWORDS:
            raise self.error("syntax", f"{token.value!r} is a keyword; write [{token.value!r}]", token.start_pos)
        return str(token.value) if quoted is None else quoted

    def identifier(self, token: Any) -> str:
        if token.value in KEYWORDS or token.value in RESERVED:
            raise self.error("syntax", f"{token.value!r} is a reserved word", token.start_pos)
        return str(token.value)

    def conditional(self, tree: LarkTree, depth: int) -> Node:
        condition, yes, no = (self.fold(child, depth) for child in tree.children)
        return Conditional(condition, yes, no, self.position(tree))

    def logic(self, tree: LarkTree, depth: int) -> Node:
        """`a || b || c` is one node: however long, it nests nothing."""
        terms: list[Node] = []
        current = tree
        while current.data == tree.data and len(current.children) == 2:
            rest, last = current.children
            terms.append(self.fold(last, depth))
            current = rest
        terms.append(self.fold(current, depth))
        kind = Or if tree.data == "conditionalor" else And
        return kind(tuple(reversed(terms)), self.position(tree))

    def binary(self, tree: LarkTree, depth: int) -> Node:
        head, right = tree.children
        left = head.children[0]
        operator = _OPERATORS[head.data]
        return Binary(operator, self.fold(left, depth), self.fold(right, depth), self.position(tree))

    def unary(self, tree: LarkTree, depth: int) -> Node:
        head, operand = tree.children
        kind = Not if head.data == "unary_not" else Negate
        return kind(self.fold(operand, depth), self.position(tree))

    def member_dot(self, tree: LarkTree, depth: int) -> Node:
        operand, field = tree.children
        return Select(self.fold(operand, depth), self.name(field), field.start_pos or 0)

    def member_index(self, tree: LarkTree, depth: int) -> Node:
        operand, key = tree.children
        return Index(self.fold(operand, depth), self.fold(key, depth), self.position(tree))

    def member_object(self, tree: LarkTree, depth: int) -> Node:
        raise self.error("unsupported", "there are no message types; write a map", self.position(tree))

    def arguments(self, tree: LarkTree, start: int, depth: int) -> tuple[Node, ...]:
        if len(tree.children) <= start:
            return ()
        return tuple(self.fold(child, depth) for child in tree.children[start].children)

    def method(self, tree: LarkTree, depth: int) -> Node:
        target = self.fold(tree.children[0], depth)
        function = self.name(tree.children[1])
        arguments = self.arguments(tree, 2, depth)
        position = self.position(tree)
        if len(arguments) not in MACROS.get(function, ()):
            return Call(function, target, arguments, position)
        variable = arguments[0]
        if not isinstance(variable, Variable) or variable.rooted:
            raise self.error("syntax", f"the first argument of {function}() must be a plain name", position)
        condition = arguments[1] if len(arguments) == 3 else None
        return Comprehension(function, target, variable.name, condition, arguments[-1], position)

    def function(self, tree: LarkTree, depth: int) -> Node:
        function = self.identifier(tree.children[0])
        arguments = self.arguments(tree, 1, depth)
        position = self.position(tree)
        if function != "has" or len(arguments) != 1:
            return Call(function, None, arguments, position)
        field = arguments[0]
        if not isinstance(field, Select):
            raise self.error("syntax", "has() takes a field, as in has(output.score)", position)
        return Presence(field.operand, field.field, position)

    def variable(self, tree: LarkTree, depth: int) -> Node:
        rooted = tree.data == "dot_ident"
        return Variable(self.identifier(tree.children[0]), self.position(tree), rooted)

    def list_literal(self, tree: LarkTree, depth: int) -> Node:
        return ListLiteral(self.arguments(tree, 0, depth), self.position(tree))

    def map_literal(self, tree: LarkTree, depth: int) -> Node:
        parts = self.arguments(tree, 0, depth)
        return MapLiteral(tuple(zip(parts[::2], parts[1::2], strict=True)), self.position(tree))

    def literal(self, tree: LarkTree, depth: int) -> Node:
        token = tree.children[0]
        position = token.start_pos or 0
        text = str(token.value)
        match token.type:
            case "STRING_LIT" | "MLSTRING_LIT" | "BYTES_LIT":
                return Literal(self.scanned.literals[position], position)
            case "NULL_LIT":
                return Literal(None, position)
            case "BOOL_LIT":
                return Literal(text == "true", position)
            case "FLOAT_LIT":
                value = float(text) if _DECIMAL.fullmatch(text) else math.inf
                if math.isinf(value):
                    raise self.error("syntax", f"{text[:40]} is no double", position)
                return Literal(value, position)
        return Literal(self.integer(text, position), position)

    def integer(self, text: str, position: int) -> int:
        unsigned = text[-1] in "uU"
        value = int(text.rstrip("uU"), 16 if "x" in text else 10)
        low, high = (0, UINT_MAX) if unsigned else (INT_MIN, INT_MAX)
        if not low <= value <= high or (unsigned and text[0] == "-"):
            raise self.error("syntax", f"{text[:40]} is no {'uint' if unsigned else '64-bit int'}", position)
        return Uint(value) if unsigned else value


_WRAPPERS = frozenset(
    {
        *("expr", "conditionalor", "conditionaland", "relation", "addition", "multiplication", "unary"),
        *("member", "primary", "paren_expr"),
    }
)
_FOLDS: dict[str, Callable[[_Folder, LarkTree, int], Node]] = {
    "expr": _Folder.conditional,
    "conditionalor": _Folder.logic,
    "conditionaland": _Folder.logic,
    "relation": _Folder.binary,
    "addition": _Folder.binary,
    "multiplication": _Folder.binary,
    "unary": _Folder.unary,
    "member_dot": _Folder.member_dot,
    "member_dot_arg": _Folder.method,
    "member_index": _Folder.member_index,
    "member_object": _Folder.member_object,
    "ident_arg": _Folder.function,
    "dot_ident_arg": _Folder.function,
    "ident": _Folder.variable,
    "dot_ident": _Folder.variable,
    "literal": _Folder.literal,
    "list_lit": _Folder.list_literal,
    "map_lit": _Folder.map_literal,
}
