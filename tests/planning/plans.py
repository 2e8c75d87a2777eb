"""Workflows, items and GPUs as these tests write them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from agent_runner.engines.simulated.gpu import CARDS, CATALOGUE, ModelSpec
from pavane.planning.course import Course
from pavane.planning.fleet import models_of
from pavane.planning.given import Given
from pavane.planning.item import Item
from pavane.planning.paths import sample_item
from pavane.planning.recorded import Recorded
from pavane.planning.workflow import PlannedWorkflow

GEMMA3, GEMMA2, QWEN, PHI = "gemma3:4b", "gemma2:2b", "qwen2.5:7b", "phi3"
SMALL, LARGE = CARDS["8GB"], CARDS["24GB"]


def chain(*steps: tuple[str | None, float]) -> Item:
    """Steps one after the other: pool (None: no model) and seconds of each."""
    item = Item()
    before: tuple[int, ...] = ()
    for number, (pool, seconds) in enumerate(steps):
        before = (item.add(f"step_{number}", pool, seconds, before),)
    return item


def specs(items: Sequence[Item]) -> dict[str, ModelSpec]:
    return {pool: CATALOGUE[pool] for item in items for step in item.steps if (pool := step.pool)}


def agent(node_id: str, model: str = GEMMA3, **fields: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "agent", "config": {"model": model, "prompt": "p"}, **fields}


def function(node_id: str, **fields: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "function", "config": {"handler": "f"}, **fields}


def cel(expression: str = "true") -> dict[str, Any]:
    return {"type": "cel", "expression": expression}


def workflow(*nodes: dict[str, Any], edges: Sequence[str] = ()) -> dict[str, Any]:
    """`edges` as `a -> b`, or `a ? b` for one with a condition."""
    made = []
    for edge in edges:
        begin, arrow, end = edge.split(" ")
        made.append({"from": begin, "to": end} | ({"condition": cel()} if arrow == "?" else {}))
    return {"id": "w", "nodes": list(nodes), "edges": made}


def walked(
    document: dict[str, Any], given: Given | None = None, recorded: Recorded | None = None, seed: int = 1
) -> Item:
    """One item's steps."""
    planned, options = PlannedWorkflow.of(document), given or Given()
    options.check(planned)
    return sample_item(planned, Course(models_of(planned, options.models), options, recorded, random.Random(seed)))


def names(item: Item) -> list[str]:
    return [step.node for step in item.steps]


def before(item: Item, node: str) -> set[str]:
    """The nodes whose steps the (only) step of a node waits for, at once or through others."""
    found: set[int] = set()
    wanted = {names(item).index(node)}
    while wanted:
        place = wanted.pop()
        nearer = {number for number, step in enumerate(item.steps) if place in step.next}
        wanted |= nearer - found
        found |= nearer
    return {item.steps[number].node for number in found}
