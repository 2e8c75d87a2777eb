"""JSONPath (RFC 9535): whether a path selects anything.

`jsonpath-rfc9535` parses, and its tree is the source of truth; evaluation walks the values in closures of ours, on a
budget and only as far as the answer needs. Patterns are I-Regexps (RFC 9485) and run in RE2.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.patterns import compile_pattern, matches
from schemas.expressions.values import NUMBERS, compare_numbers, equal
from schemas.limits import LIMITS

MAX_SEGMENTS = 100
"""Steps of one path, each of which is a generator around the one before."""

# (value, root of the document, budget); every closure here takes these three.
Nodes: TypeAlias = Callable[[Any, Any, Budget], Iterator[Any]]
Test: TypeAlias = Callable[[Any, Any, Budget], bool]
Value: TypeAlias = Callable[[Any, Any, Budget], Any]
LibraryNode: TypeAlias = Any

NOTHING = object()
"""What a path that selects nothing is worth in a comparison; no JSON value equals it."""

_ORDERINGS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
# The grammar of RFC 9485, but for what RE2 refuses as well: parentheses that do not match, nothing to repeat.
_ESCAPE = r"\\(?:[(-+.?\[-^nrt{-}-]|[pP]\{[A-Z][a-z]?\})"
_RANGE = rf"(?:[^\[\\\]-]|{_ESCAPE})(?:-(?:[^\[\\\]-]|{_ESCAPE}))?"
_CLASS = rf"\[\^?(?:-|{_RANGE})(?:{_RANGE})*+-?\]"
_IREGEXP = re.compile(
    rf"(?:(?:[^()*+?\[\\\]{{|}}]|{_ESCAPE}|{_CLASS}|\))(?:[*+?]|\{{\d+(?:,\d*)?\}})?|[(|])*+", re.ASCII
)
_DOT = re.compile(rf"{_ESCAPE}|{_CLASS}|(\.)")


@functools.lru_cache(maxsize=512)
def path_test(path: str) -> Callable[[Any, Budget], bool]:
    """test(value, budget): whether the path selects at least one node. Raises ExpressionError for what is no path.

    The test raises EvaluationError, and BudgetExceededError.
    """
    if len(path.encode(errors="replace")) > LIMITS.expression_bytes:
        raise ExpressionError("too-long", f"the path is longer than {LIMITS.expression_bytes} bytes", path[:80])
    try:
        nodes = _Compiler(path).query(_parse(path))
    except RecursionError:
        raise ExpressionError("too-deep", "the path is nested too deep", path[:80]) from None
    return lambda value, budget: _any(nodes(value, value, budget))


def _parse(path: str) -> LibraryNode:
    from jsonpath_rfc9535.environment import JSONPathEnvironment  # only for those who parse
    from jsonpath_rfc9535.exceptions import JSONPathError

    try:
        return JSONPathEnvironment().compile(path)
    except JSONPathError as error:
        position = error.token.index if error.token is not None else None
        raise ExpressionError("syntax", str(error.args[0]), path, position) from None
    except (ValueError, ArithmeticError) as error:  # the library's words for `1e999`
        raise ExpressionError("syntax", f"a number that is out of range: {error}", path) from None


class _Compiler:
    """The library's tree to closures."""

    def __init__(self, path: str) -> None:
        from jsonpath_rfc9535 import filter_expressions, segments, selectors

        self.path = path
        self.expressions = filter_expressions
        self.segments = segments
        self.selectors = selectors

    def error(self, code: str, message: str, node: LibraryNode) -> ExpressionError:
        return ExpressionError(code, message, self.path, node.token.index)

    # -- paths -----------------------------------------------------------------------------------
    def query(self, query: LibraryNode) -> Nodes:
        if len(query.segments) > MAX_SEGMENTS:
            raise self.error("too-deep", f"the path has more than {MAX_SEGMENTS} steps", query.segments[MAX_SEGMENTS])
        nodes: Nodes = _itself
        for segment in query.segments:
            selectors = tuple(map(self.selector, segment.selectors))
            if isinstance(segment, self.segments.JSONPathRecursiveDescentSegment):
                nodes = _descendants(nodes)
            nodes = _children(nodes, selectors)
        return nodes

    def selector(self, selector: LibraryNode) -> Nodes:
        match selector:
            case self.selectors.NameSelector():
                return _name(selector.name)
            case self.selectors.IndexSelector():
                return _index(selector.index)
            case self.selectors.SliceSelector():
                return _slice(selector.slice)
            case self.selectors.FilterSelector():
                return _filter(self.test(selector.expression.expression))
        return _every

    # -- filters ---------------------------------------------------------------------------------
    def test(self, node: LibraryNode) -> Test:
        match node:
            case self.expressions.LogicalExpression(operator=symbol):
                terms = tuple(map(self.test, self.terms(node, symbol)))
                return _connective(terms, decisive=symbol == "||")
            case self.expressions.PrefixExpression(right=right):
                operand = self.test(right)
                return lambda value, root, budget: not operand(value, root, budget)
            case self.expressions.ComparisonExpression(left=left, operator=symbol, right=right):
                return _comparison(symbol, self.value(left), self.value(right))
            case self.expressions.FilterQuery(query=query):
                nodes = self.nodes(node, query)
                return lambda value, root, budget: _any(nodes(value, root, budget))
        return self.pattern(node)

    def terms(self, node: LibraryNode, symbol: str) -> list[LibraryNode]:
        """The terms of `a && b && c`, which the library nests to the left, without recursion."""
        found, todo = [], [node]
        while todo:
            term = todo.pop()
            if isinstance(term, self.expressions.LogicalExpression) and term.operator == symbol:
                todo += (term.right, term.left)
            else:
                found.append(term)
        return found

    def nodes(self, node: LibraryNode, query: LibraryNode) -> Nodes:
        """The query of a filter: from the item that is tested, or from the root."""
        nodes = self.query(query)
        if isinstance(node, self.expressions.RootFilterQuery):
            return lambda value, root, budget: nodes(root, root, budget)
        return nodes

    def value(self, node: LibraryNode) -> Value:
        """A side of a comparison, or an argument: a literal, the one value of a path, a function's result."""
        if isinstance(node, self.expressions.FilterExpressionLiteral):
            constant = node.value
            return lambda value, root, budget: constant
        if isinstance(node, self.expressions.FilterQuery):
            nodes = self.nodes(node, node.query)
            return lambda value, root, budget: next(nodes(value, root, budget), NOTHING)
        argument = node.args[0]
        if node.name == "length":
            return _length(self.value(argument))
        return (_count if node.name == "count" else _only)(self.nodes(argument, argument.query))

    def pattern(self, node: LibraryNode) -> Test:
        """match() and search()."""
        whole = node.name == "match"
        text, pattern = node.args
        if isinstance(pattern, self.expressions.FilterExpressionLiteral):
            translated = _translated(pattern.value, whole)
            if translated is None:
                raise self.error("bad-pattern", "the pattern is no I-Regexp (RFC 9485)", pattern)
            try:
                compile_pattern(translated)
            except EvaluationError as error:
                raise self.error("bad-pattern", error.message, pattern) from None
        return _matches(self.value(text), self.value(pattern), whole)


def _any(nodes: Iterator[Any]) -> bool:
    return next(nodes, NOTHING) is not NOTHING


def _itself(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
    yield value


def _children(nodes: Nodes, selectors: tuple[Nodes, ...]) -> Nodes:
    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        for node in nodes(value, root, budget):
            budget.spend(7 * len(selectors))
            for selector in selectors:
                yield from selector(node, root, budget)

    return run


def _descendants(nodes: Nodes) -> Nodes:
    """The nodes and all lists and objects in them; in no order that matters to whether there is one."""

    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        for node in nodes(value, root, budget):
            todo = [node]
            while todo:
                current = todo.pop()
                yield current
                inner = current.values() if type(current) is dict else current if type(current) is list else ()
                budget.spend(4 + len(inner))
                todo += [item for item in inner if type(item) is dict or type(item) is list]

    return run


def _name(name: str) -> Nodes:
    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        if type(value) is dict and name in value:
            yield value[name]

    return run


def _index(place: int) -> Nodes:
    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        if type(value) is list and -len(value) <= place < len(value):
            yield value[place]

    return run


def _slice(chosen: slice) -> Nodes:
    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        if type(value) is list and chosen.step != 0:
            for place in range(*chosen.indices(len(value))):
                budget.spend(1)
                yield value[place]

    return run


def _every(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
    for item in value.values() if type(value) is dict else value if type(value) is list else ():
        budget.spend(1)
        yield item


def _filter(test: Test) -> Nodes:
    def run(value: Any, root: Any, budget: Budget) -> Iterator[Any]:
        for item in _every(value, root, budget):
            budget.spend(3)
            if test(item, root, budget):
                yield item

    return run


def _connective(terms: tuple[Test, ...], *, decisive: bool) -> Test:
    def run(value: Any, root: Any, budget: Budget) -> bool:
        for term in terms:
            budget.spend(2)
            if term(value, root, budget) is decisive:
                return decisive
        return not decisive

    return run


def _comparison(symbol: str, left: Value, right: Value) -> Test:
    relation = _ORDERINGS.get(symbol)

    def run(value: Any, root: Any, budget: Budget) -> bool:
        budget.spend(5)
        one, other = left(value, root, budget), right(value, root, budget)
        if relation is None or one is NOTHING or other is NOTHING:
            same = one is other or equal(one, other, budget)
            return not same if symbol == "!=" else same and symbol in ("==", "<=", ">=")
        if type(one) in NUMBERS and type(other) in NUMBERS:
            return compare_numbers(relation, one, other)
        if type(one) is str and type(other) is str:
            budget.spend(min(len(one), len(other)) // 4096)
            return bool(relation(one, other))
        return symbol in ("<=", ">=") and equal(one, other, budget)

    return run


def _length(argument: Value) -> Value:
    def run(value: Any, root: Any, budget: Budget) -> Any:
        measured = argument(value, root, budget)
        return len(measured) if type(measured) in (str, list, dict) else NOTHING

    return run


def _count(nodes: Nodes) -> Value:
    return lambda value, root, budget: sum(1 for _ in nodes(value, root, budget))


def _only(nodes: Nodes) -> Value:
    """value(): that of the one node, if there is one and no other."""

    def run(value: Any, root: Any, budget: Budget) -> Any:
        found = nodes(value, root, budget)
        first = next(found, NOTHING)
        return NOTHING if _any(found) else first

    return run


def _matches(text: Value, pattern: Value, whole: bool) -> Test:
    def run(value: Any, root: Any, budget: Budget) -> bool:
        subject, wanted = text(value, root, budget), pattern(value, root, budget)
        if type(subject) is not str or type(wanted) is not str:
            return False
        budget.spend(len(wanted))
        translated = _translated(wanted, whole)
        try:
            return translated is not None and matches(budget, subject, translated)
        except EvaluationError as error:
            if error.code != "bad-pattern":
                raise
            return False  # as RFC 9535 has it; a pattern in the path was looked at before

    return run


@functools.lru_cache(maxsize=512)
def _translated(pattern: Any, whole: bool) -> str | None:
    """An I-Regexp as RE2 writes it (RFC 9485, section 5.4); None for what is none."""
    if type(pattern) is not str or not _IREGEXP.fullmatch(pattern):
        return None
    translated = _DOT.sub(lambda found: r"[^\n\r]" if found[1] else found[0], pattern)
    return rf"\A(?:{translated})\z" if whole else translated
