"""Syntax tree to Python closures, once per text.

What can be refused without data is refused here: unknown variables and functions, wrong numbers of arguments,
patterns that are no regular expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from schemas.expressions import logic, macros, paths, relations
from schemas.expressions.arithmetic import OPERATIONS, negate
from schemas.expressions.budget import Budget
from schemas.expressions.error import EvaluationError, ExpressionError
from schemas.expressions.functions import GLOBALS, METHODS, Function
from schemas.expressions.paths import Evaluate, Variables
from schemas.expressions.patterns import compile_pattern
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
    static_path,
    weight,
)
from schemas.expressions.values import TYPE_NAMES, TypeName, map_key

TYPES = {name: TypeName(name) for name in TYPE_NAMES.values()}


@dataclass(frozen=True, slots=True)
class Program:
    """run(variables, budget) gives the value. metered: whether it needs a budget of its own."""

    run: Evaluate
    metered: bool


def compile_node(node: Node, text: str, variables: frozenset[str]) -> Program:
    """Raises ExpressionError: `unknown-variable`, `unknown-function`, `wrong-arguments`, `bad-pattern`."""
    compiler = _Compiler(text, variables)
    run = compiler.compile(node, frozenset())
    return Program(run, compiler.metered)


class _Compiler:
    """`bound` is the set of names that macros around the node bind."""

    def __init__(self, text: str, variables: frozenset[str]) -> None:
        self.text = text
        self.variables = variables
        self.metered = False

    def error(self, code: str, message: str, node: Node) -> ExpressionError:
        return ExpressionError(code, message, self.text, node.position)

    def compile(self, node: Node, bound: frozenset[str]) -> Evaluate:
        return _COMPILE[type(node)](self, node, bound)

    def literal(self, node: Literal, bound: frozenset[str]) -> Evaluate:
        return _constant(node.value)

    def place(self, node: Variable | Select | Index, bound: frozenset[str]) -> Evaluate:
        """A path of a variable, a type by its name, or a field or item of another value."""
        names = static_path(node)
        if names is not None:
            root = _root(node)
            seen = frozenset() if root.rooted else bound
            if ".".join(names) in TYPES and names[0] not in seen:
                return _constant(TYPES[".".join(names)])
            if names[0] not in seen and names[0] not in self.variables:
                known = ", ".join(sorted(self.variables | seen))
                message = f"unknown variable {names[0]!r}; there are {known}"
                raise self.error("unknown-variable", message, root)
            if root.rooted and names[0] in bound:
                return paths.path((macros.OUTERMOST, *names))
            return paths.path(names)
        assert not isinstance(node, Variable)
        operand = self.compile(node.operand, bound)
        if isinstance(node, Select):
            return paths.select(operand, node.field)
        return paths.index(operand, self.compile(node.key, bound))

    def presence(self, node: Presence, bound: frozenset[str]) -> Evaluate:
        operand = self.compile(node.operand, bound)
        names = static_path(node.operand)
        if names is not None and names[0] == "ctx" and "ctx" not in bound:
            return paths.context_presence((*names, node.field))
        return paths.presence(operand, node.field)

    def call(self, node: Call, bound: frozenset[str]) -> Evaluate:
        function = self.function(node)
        if node.function == "matches" and isinstance(node.arguments[-1], Literal):
            self.check_pattern(node.arguments[-1])
        operands = node.arguments if node.target is None else (node.target, *node.arguments)
        self.metered = True
        return _call(function, [self.compile(operand, bound) for operand in operands])

    def function(self, node: Call) -> Function:
        table, others = (GLOBALS, METHODS) if node.target is None else (METHODS, GLOBALS)
        function = table.get(node.function)
        if function is None:
            hint = ""
            if node.function in others:
                hint = "; write x.{}()" if node.target is None else "; write {}(x)"
            raise self.error(
                "unknown-function", f"unknown function {node.function}()" + hint.format(node.function), node
            )
        if len(node.arguments) not in function.counts:
            wanted = " or ".join(map(str, function.counts))
            raise self.error(
                "wrong-arguments",
                f"{node.function}() takes {wanted} arguments, not {len(node.arguments)}",
                node,
            )
        return function

    def check_pattern(self, node: Literal) -> None:
        if type(node.value) is str:
            try:
                compile_pattern(node.value)
            except EvaluationError as error:
                raise self.error("bad-pattern", error.message, node) from None

    def list_literal(self, node: ListLiteral, bound: frozenset[str]) -> Evaluate:
        items = [self.compile(item, bound) for item in node.items]
        return lambda variables, budget: [item(variables, budget) for item in items]

    def map_literal(self, node: MapLiteral, bound: frozenset[str]) -> Evaluate:
        return _map([(self.compile(key, bound), self.compile(value, bound)) for key, value in node.entries])

    def negation(self, node: Not, bound: frozenset[str]) -> Evaluate:
        return logic.negation(self.compile(node.operand, bound))

    def minus(self, node: Negate, bound: frozenset[str]) -> Evaluate:
        operand = self.compile(node.operand, bound)
        return lambda variables, budget: negate(operand(variables, budget))

    def connective(self, node: And | Or, bound: frozenset[str]) -> Evaluate:
        terms = tuple(self.compile(term, bound) for term in node.terms)
        return logic.connective("&&" if isinstance(node, And) else "||", terms, in_macro=bool(bound))

    def conditional(self, node: Conditional, bound: frozenset[str]) -> Evaluate:
        return logic.conditional(*(self.compile(part, bound) for part in (node.condition, node.yes, node.no)))

    def binary(self, node: Binary, bound: frozenset[str]) -> Evaluate:
        left, right = self.compile(node.left, bound), self.compile(node.right, bound)
        symbol = node.operator
        if symbol in OPERATIONS:
            self.metered = True
            return _arithmetic(symbol, left, right)
        if symbol == "in":
            return self.membership(node, left, right)
        if isinstance(node.right, Literal):
            quick = self.quick_relation(symbol, left, node.right.value)
        elif isinstance(node.left, Literal):
            quick = self.quick_relation(relations.MIRRORED[symbol], right, node.left.value)
        else:
            quick = None
        if quick is not None:
            return quick
        self.metered = True
        build = relations.ordering if symbol in relations.ORDERINGS else relations.equality
        return build(symbol, left, right)

    def quick_relation(self, symbol: str, operand: Evaluate, constant: Any) -> Evaluate | None:
        if not relations.is_quick(constant):
            return None
        if symbol in ("==", "!="):
            return relations.quick_equality(symbol, operand, constant)
        if constant is None or type(constant) is bool:
            return None
        return relations.quick_ordering(symbol, operand, constant)

    def membership(self, node: Binary, left: Evaluate, right: Evaluate) -> Evaluate:
        if isinstance(node.right, ListLiteral):
            texts = [item.value for item in node.right.items if isinstance(item, Literal)]
            if len(texts) == len(node.right.items) and all(type(text) is str for text in texts):
                return relations.membership_in_texts(left, frozenset(texts))
        self.metered = True
        return relations.membership(left, right)

    def comprehension(self, node: Comprehension, bound: frozenset[str]) -> Evaluate:
        self.metered = True
        source = self.compile(node.source, bound)
        inner = bound | {node.variable}
        body = self.compile(node.body, inner)
        condition = None if node.filter is None else self.compile(node.filter, inner)
        steps = 1 + weight(node.body) + (0 if node.filter is None else weight(node.filter))
        match node.macro:
            case "all" | "exists":
                return macros.quantifier(node.macro, source, node.variable, body, steps)
            case "exists_one":
                return macros.exactly_one(source, node.variable, body, steps)
            case "filter":
                return macros.filtered(source, node.variable, body, steps)
        return macros.mapped(source, node.variable, condition, body, steps)


def _root(node: Node) -> Variable:
    while not isinstance(node, Variable):
        assert isinstance(node, Select | Index)
        node = node.operand
    return node


def _constant(value: Any) -> Evaluate:
    return lambda variables, budget: value


def _call(function: Function, operands: list[Evaluate]) -> Evaluate:
    run, steps = function.run, function.steps
    if len(operands) == 1:
        (operand,) = operands

        def call_one(variables: Variables, budget: Budget) -> Any:
            budget.spend(steps)
            return run(budget, operand(variables, budget))

        return call_one

    def call(variables: Variables, budget: Budget) -> Any:
        budget.spend(steps)
        return run(budget, *[operand(variables, budget) for operand in operands])

    return call


def _arithmetic(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    operation = OPERATIONS[symbol]
    return lambda variables, budget: operation(left(variables, budget), right(variables, budget), budget)


def _map(entries: list[tuple[Evaluate, Evaluate]]) -> Evaluate:
    def make(variables: Variables, budget: Budget) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, value in entries:
            name = map_key(key(variables, budget))
            if name in made:
                raise EvaluationError("duplicate-key", "a map can not have the same key twice")
            made[name] = value(variables, budget)
        return made

    return make


_COMPILE: dict[type, Callable[[_Compiler, Any, frozenset[str]], Evaluate]] = {
    Literal: _Compiler.literal,
    Variable: _Compiler.place,
    Select: _Compiler.place,
    Index: _Compiler.place,
    Presence: _Compiler.presence,
    Call: _Compiler.call,
    ListLiteral: _Compiler.list_literal,
    MapLiteral: _Compiler.map_literal,
    Not: _Compiler.negation,
    Negate: _Compiler.minus,
    Binary: _Compiler.binary,
    And: _Compiler.connective,
    Or: _Compiler.connective,
    Conditional: _Compiler.conditional,
    Comprehension: _Compiler.comprehension,
}
