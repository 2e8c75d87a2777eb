"""Swept: one condition at several values at once. A run is played again only for the values that would route it
otherwise, so that a sweep over thirty values costs little more than one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pavane.whatif.play import Played, Player
from schemas.conditions.condition import Condition, Variables
from schemas.expressions.error import EvaluationError
from schemas.ir import IR, Node

Verdict = bool | str


class SweptCondition(Condition):
    """A condition that is asked at several values, and answers for the first of those that have agreed so far."""

    __slots__ = ("_all", "agreed", "left")

    def __init__(self, sources: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(sources[0])
        self._all = [Condition(source) for source in sources]
        self.agreed: list[int] = []
        self.left: list[int] = []

    def begin(self, values: Sequence[int]) -> None:
        self.agreed, self.left = list(values), []

    def holds(self, variables: Variables) -> bool:
        first, *others = self.agreed
        verdict = _verdict(self._all[first], variables)
        if others:
            same = [number for number in others if _verdict(self._all[number], variables) == verdict]
            if len(same) < len(others):
                self.left += [number for number in others if number not in same]
                self.agreed = [first, *same]
        return self._all[first].holds(variables) if isinstance(verdict, str) else verdict


def _verdict(condition: Condition, variables: Variables) -> Verdict:
    """What it says; of one that errs the code, as an error counts as false and is told."""
    try:
        return condition.holds(variables)
    except EvaluationError as error:
        return error.code


def swept_ir(base: IR, first: IR, sources: Sequence[Mapping[str, Any]]) -> tuple[IR, SweptCondition]:
    """`first`, whose one condition that is not as in `base` is asked at all values instead. `sources`: the condition
    at each value."""
    for name, node in first.nodes.items():
        for number, (was, now) in enumerate(zip(_conditions(base.nodes[name]), _conditions(node), strict=True)):
            if was != now:
                swept = SweptCondition(sources)
                return replace(first, nodes={**first.nodes, name: _with(node, number, swept)}), swept
    raise ValueError("the two workflows have the same conditions")


def plays(
    make: Callable[[], Player], swept: SweptCondition | None, values: int
) -> Iterator[tuple[Played, Sequence[int]]]:
    """Each way in which a run would go, with the values for which it would. Raises what Player.play raises."""
    ahead: Sequence[int] = range(values)
    while ahead:
        if swept is None:
            yield make().play(), tuple(ahead)
            return
        swept.begin(ahead)
        played = make().play()
        yield played, tuple(swept.agreed)
        ahead = sorted(swept.left)


def _conditions(node: Node) -> list[Condition]:
    found = [edge.condition for edge in node.edges if edge.condition is not None]
    found += [rule.condition for rule in node.rules]
    return found + ([node.loop.condition] if node.loop else [])


def _with(node: Node, number: int, condition: Condition) -> Node:
    """The node with another condition in the place `number` of `_conditions`."""
    with_condition = [place for place, edge in enumerate(node.edges) if edge.condition is not None]
    if number < len(with_condition):
        edges = list(node.edges)
        edges[with_condition[number]] = replace(edges[with_condition[number]], condition=condition)
        return replace(node, edges=tuple(edges))
    number -= len(with_condition)
    if number < len(node.rules):
        rules = list(node.rules)
        rules[number] = replace(rules[number], condition=condition)
        return replace(node, rules=tuple(rules))
    assert node.loop is not None
    return replace(node, loop=replace(node.loop, condition=condition))
