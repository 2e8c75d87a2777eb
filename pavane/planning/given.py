"""What the options say about an item's way: odds of branches, passes of loops, items of maps, times."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agent_runner.engines.simulated.gpu import ModelSpec
from pavane.planning.fault import PlanFault
from pavane.planning.workflow import PlannedWorkflow
from schemas.ir import Node

MAX_MAP_ITEMS = 10_000

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Given:
    """By node: `branches` the odds of its rules (then of its default) or of its conditional edges, `loops` expected
    passes, `maps` items, `times` solo seconds. By name: `models` that are not known, or otherwise."""

    branches: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    loops: Mapping[str, float] = field(default_factory=dict)
    maps: Mapping[str, int] = field(default_factory=dict)
    times: Mapping[str, float] = field(default_factory=dict)
    models: Mapping[str, ModelSpec] = field(default_factory=dict)

    def check(self, workflow: PlannedWorkflow) -> None:
        """Raises PlanFault for what does not fit the workflow."""
        nodes = {node.id: node for node in workflow.nodes()}
        for node_id, odds in self.branches.items():
            _check_odds(_node(nodes, node_id, "--branch"), odds)
        for node_id, passes in self.loops.items():
            _check_passes(_node(nodes, node_id, "--loop"), passes)
        for node_id in self.maps:
            if _node(nodes, node_id, "--map").map is None:
                raise PlanFault(f"--map: {node_id} is no map")
        for node_id in self.times:
            node = _node(nodes, node_id, "--time")
            if not node.is_task and node.type not in ("human", "wait", "workflow"):
                raise PlanFault(f"--time: {node_id} is a {node.type}, which takes no time of its own")


def conditional(node: Node) -> int:
    """How many of its edges have a condition."""
    return sum(edge.condition is not None for edge in node.edges)


def choices(node: Node) -> int:
    """The ways out of a branch."""
    return len(node.rules) + (node.default is not None)


def fewest_passes(node: Node) -> int:
    """A loop's passes when its condition is never true."""
    assert node.loop is not None
    return 0 if node.loop.form == "while" else 1


def _node(nodes: Mapping[str, Node], node_id: str, option: str) -> Node:
    if node_id not in nodes:
        raise PlanFault(f"{option}: the workflow has no node {node_id}")
    return nodes[node_id]


def _check_odds(node: Node, odds: tuple[float, ...]) -> None:
    if node.type == "branch":
        if len(odds) != choices(node):
            kinds = f"{len(node.rules)} rules" + (" and a default" if node.default is not None else "")
            raise PlanFault(f"--branch: {node.id} has {kinds}: give {choices(node)} numbers, not {len(odds)}")
        if not sum(odds):
            raise PlanFault(f"--branch: the odds of {node.id} are all 0")
    elif not conditional(node):
        raise PlanFault(f"--branch: {node.id} is no branch and has no edge with a condition")
    elif len(odds) != conditional(node) or max(odds) > 1:
        raise PlanFault(
            f"--branch: {node.id} has {conditional(node)} edges with a condition: a number up to 1 for each"
        )


def _check_passes(node: Node, passes: float) -> None:
    if node.loop is None:
        raise PlanFault(f"--loop: {node.id} is no loop")
    if not fewest_passes(node) <= passes <= node.loop.max_iterations:
        raise PlanFault(
            f"--loop: {node.id} makes {fewest_passes(node)} to {node.loop.max_iterations} passes, not {passes:g}"
        )


def read_given(
    branch: Iterable[str], loop: Iterable[str], map_: Iterable[str], time: Iterable[str], model: Iterable[str]
) -> Given:
    """The options as they are typed: `quality=0.55,0.45`, `again=1.6`, `pages=10`, `grade=4.0`, `my:7b=4.7,0.17,4.5`.

    Raises PlanFault.
    """
    return Given(
        branches=_pairs("--branch", branch, _numbers),
        loops=_pairs("--loop", loop, _number),
        maps=_pairs("--map", map_, _count),
        times=_pairs("--time", time, _number),
        models={name: _model(name, sizes) for name, sizes in _pairs("--model", model, _numbers).items()},
    )


def _pairs(option: str, texts: Iterable[str], read: Callable[[str], Value]) -> dict[str, Value]:
    found = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            if not equals or not name:
                raise ValueError
            found[name] = read(value)
        except ValueError:
            raise PlanFault(f"{option}: {text!r} is not NAME=NUMBER, or has a number that can not be") from None
    return found


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(_number(part) for part in text.split(","))


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MAX_MAP_ITEMS:
        raise ValueError
    return value


def _model(name: str, sizes: tuple[float, ...]) -> ModelSpec:
    if len(sizes) != 3 or not sizes[0]:
        raise PlanFault(f"--model {name}: give weights in GB, KV cache of a slot in GB, load time in seconds")
    return ModelSpec(name, *sizes)
