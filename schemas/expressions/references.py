"""What an expression reads: so that the compiler can check it and the coordinator load no more than that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from schemas.expressions.syntax import (
    And,
    Comprehension,
    Conditional,
    Index,
    Node,
    Not,
    Or,
    Presence,
    Select,
    Variable,
    children,
    static_path,
)

Path = tuple[str, ...]


@dataclass(frozen=True)
class References:
    """What is read, as far as the text tells.

    variables: those of VARIABLES. nodes: x of every `ctx.x` and `ctx["x"]`, also inside `has()`.
    whole_ctx: `ctx` is used otherwise, so every node may be read.
    paths: `("ctx", "extract", "output", "summary")`, the longest part that is in the text.
    optional_paths: those inside `has()`, or read only where a `has()` around them holds.
    guarded_nodes: the nodes that are read in such a way only.
    """

    variables: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    whole_ctx: bool = False
    paths: frozenset[Path] = frozenset()
    optional_paths: frozenset[Path] = frozenset()
    guarded_nodes: frozenset[str] = frozenset()


def union(parts: Iterable[References]) -> References:
    """The references of several expressions that are evaluated together."""
    seen = tuple(parts)
    paths: frozenset[Path] = frozenset().union(*(part.paths for part in seen))
    optional: frozenset[Path] = frozenset().union(*(part.optional_paths for part in seen))
    return _from_paths(paths, optional, any(part.whole_ctx for part in seen))


def collect(node: Node, variables: frozenset[str]) -> References:
    """The references of an expression over `variables`; what else it names are types and its macros' own."""
    reader = _Reader()
    reader.read(node, frozenset(), frozenset())
    required, optional = (
        frozenset(path for path in found if path[0] in variables) for found in (reader.required, reader.optional)
    )
    return _from_paths(required, optional, reader.whole_ctx)


def _from_paths(required: frozenset[Path], optional: frozenset[Path], whole_ctx: bool) -> References:
    every = required | optional
    nodes = frozenset(path[1] for path in every if path[0] == "ctx" and len(path) > 1)
    unguarded = frozenset(path[1] for path in required if path[0] == "ctx" and len(path) > 1)
    return References(
        variables=frozenset(path[0] for path in every),
        nodes=nodes,
        whole_ctx=whole_ctx,
        paths=required,
        optional_paths=optional - required,
        guarded_nodes=nodes - unguarded,
    )


@dataclass
class _Reader:
    """`bound`: the names that macros bind. `present`: the paths that a `has()` around has found."""

    required: set[Path] = field(default_factory=set)
    optional: set[Path] = field(default_factory=set)
    whole_ctx: bool = False

    def read(self, node: Node, bound: frozenset[str], present: frozenset[Path]) -> None:
        match node:
            case Variable() | Select() | Index():
                self.read_place(node, bound, present)
            case Presence(operand=operand, field=name):
                path = _path(operand, bound)
                if path is None:
                    self.read(operand, bound, present)
                else:
                    self.optional.add((*path, name))
            case And(terms=terms) | Or(terms=terms):
                # Whatever the order: a term that decides absorbs the errors of the others.
                facts = [_present(term, bound, isinstance(node, And)) for term in terms]
                for place, term in enumerate(terms):
                    others = [fact for other, fact in enumerate(facts) if fact and other != place]
                    self.read(term, bound, present.union(*others))
            case Conditional(condition=condition, yes=yes, no=no):
                self.read(condition, bound, present)
                self.read(yes, bound, present | _present(condition, bound, True))
                self.read(no, bound, present | _present(condition, bound, False))
            case Comprehension(source=source, variable=name, filter=condition, body=body):
                self.read(source, bound, present)
                inner = bound | {name}
                if condition is not None:
                    self.read(condition, inner, present)
                    present = present | _present(condition, inner, True)
                self.read(body, inner, present)
            case _:
                for child in children(node):
                    self.read(child, bound, present)

    def read_place(self, node: Variable | Select | Index, bound: frozenset[str], present: frozenset[Path]) -> None:
        path = _path(node, bound)
        if path is not None:
            if path == ("ctx",):
                self.whole_ctx = True
            target = self.optional if any(_proves(fact, path) for fact in present) else self.required
            target.add(path)
        elif isinstance(node, Select):
            self.read(node.operand, bound, present)
        elif isinstance(node, Index):
            self.read(node.operand, bound, present)
            self.read(node.key, bound, present)


def _path(node: Node, bound: frozenset[str]) -> Path | None:
    """The static path of a name that no macro binds; None for anything else."""
    path = static_path(node)
    root = node
    while isinstance(root, Select | Index):
        root = root.operand
    if path is None or not isinstance(root, Variable) or (root.name in bound and not root.rooted):
        return None
    return path


def _proves(fact: Path, path: Path) -> bool:
    """Whether `has(fact)` says that `path` may be read: one lies on the way to the other."""
    shorter = min(len(fact), len(path))
    return fact[:shorter] == path[:shorter] and shorter > 1


def _present(node: Node, bound: frozenset[str], outcome: bool) -> frozenset[Path]:
    """The paths that `has()` has found where the node is `outcome`."""
    match node:
        case Presence(operand=operand, field=name) if outcome:
            path = _path(operand, bound)
            return frozenset() if path is None else frozenset({(*path, name)})
        case Not(operand=operand):
            return _present(operand, bound, not outcome)
        case And(terms=terms) if outcome:
            return frozenset().union(*(_present(term, bound, True) for term in terms))
        case Or(terms=terms) if not outcome:
            return frozenset().union(*(_present(term, bound, False) for term in terms))
        case _:
            return frozenset()
