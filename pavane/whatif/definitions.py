"""Definitions: whether two nodes would be executed alike, given the same input."""

from __future__ import annotations

from schemas.ir import Node

NOT_OF_THE_WORK = frozenset({"deadline_path"})
"""Fields of a config that say where a token goes, and not what is executed."""


class Definitions:
    """Compares the nodes of two workflows; each pair once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[Node, Node, bool]] = {}  # the nodes are kept, or their ids were reused

    def same(self, one: Node, other: Node) -> bool:
        if one is other:
            return True
        key = (id(one), id(other))
        if key not in self._known:
            self._known[key] = (one, other, _work(one) == _work(other))
        return self._known[key][2]


def _work(node: Node) -> tuple[object, ...]:
    return node.type, {name: value for name, value in node.config.items() if name not in NOT_OF_THE_WORK}
