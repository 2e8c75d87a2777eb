"""The syntax tree of an expression, as references, advice and compiler read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any
    position: int


@dataclass(frozen=True, slots=True)
class Variable:
    name: str
    position: int
    rooted: bool = False  # `.name`: never a variable that a macro binds


@dataclass(frozen=True, slots=True)
class Select:
    operand: Node
    field: str
    position: int


@dataclass(frozen=True, slots=True)
class Presence:
    """`has(operand.field)`."""

    operand: Node
    field: str
    position: int


@dataclass(frozen=True, slots=True)
class Index:
    operand: Node
    key: Node
    position: int


@dataclass(frozen=True, slots=True)
class Call:
    """`function(arguments)`, or with a target `target.function(arguments)`."""

    function: str
    target: Node | None
    arguments: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class ListLiteral:
    items: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class MapLiteral:
    entries: tuple[tuple[Node, Node], ...]
    position: int


@dataclass(frozen=True, slots=True)
class Not:
    operand: Node
    position: int


@dataclass(frozen=True, slots=True)
class Negate:
    operand: Node
    position: int


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str  # + - * / % == != < <= > >= in
    left: Node
    right: Node
    position: int


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Conditional:
    condition: Node
    yes: Node
    no: Node
    position: int


@dataclass(frozen=True, slots=True)
class Comprehension:
    """`source.macro(variable, body)`; `map` may have a filter before its body."""

    macro: str  # all exists exists_one filter map
    source: Node
    variable: str
    filter: Node | None
    body: Node
    position: int


Node: TypeAlias = (
    Literal
    | Variable
    | Select
    | Presence
    | Index
    | Call
    | ListLiteral
    | MapLiteral
    | Not
    | Negate
    | Binary
    | And
    | Or
    | Conditional
    | Comprehension
)
NODE_TYPES = Node.__args__


def children(node: Node) -> Iterator[Node]:
    """The nodes directly below, in the order of the text."""
    for field in fields(node):
        value = getattr(node, field.name)
        if isinstance(value, NODE_TYPES):
            yield value
        elif isinstance(value, tuple):
            for item in value:
                yield from item if isinstance(item, tuple) else (item,)


def weight(node: Node) -> int:
    """How many steps (budget.py) one evaluation of the node is worth, what it charges itself aside."""
    match node:
        case Literal():
            own = 0
        case ListLiteral():
            own = 3
        case MapLiteral():
            own = 3 + 3 * len(node.entries)
        case Comprehension():
            own = 5
        case _:
            own = 1
    return own + sum(weight(child) for child in children(node))


def static_path(node: Node) -> tuple[str, ...] | None:
    """`("ctx", "a", "output")` for `ctx.a["output"]`, None where the path is not in the text alone."""
    match node:
        case Variable(name=name):
            return (name,)
        case Select(operand=operand, field=field):
            base = static_path(operand)
            return None if base is None else (*base, field)
        case Index(operand=operand, key=Literal(value=str() as key)):
            base = static_path(operand)
            return None if base is None else (*base, key)
        case _:
            return None
