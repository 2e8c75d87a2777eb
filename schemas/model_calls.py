"""Model calls: how many a workflow makes at most, as far as its document tells. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from typing import Any

from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR, Node
from schemas.limits import LIMITS
from schemas.revision import successors

ROUNDS = 8
CALLS = 32
"""How far an agent with tools goes if its node does not say: how often its model is asked, and calls of its tools."""
UNKNOWN = 10**12
"""Calls of a registered workflow, whose document is not at hand: more than any bound."""


def most_calls(ir: IR) -> int:
    """Model calls of one run at most: attempts, rounds, passes of loops, items of maps and child runs included."""
    return sum(_calls_by_node(ir).values())


def added_calls(old: IR, new: IR) -> int:
    """Those that a revision adds. What one node makes less is not another's: it may have made its calls already."""
    before = _calls_by_node(old)
    return sum(max(0, calls - before.get(node_id, 0)) for node_id, calls in _calls_by_node(new).items())


def _calls_by_node(ir: IR) -> dict[str, int]:
    """Of each node that makes any.

    Executions that died with their runner are not counted: they are tried again for a reason of ours.
    """

    @cache
    def executions(node_id: str) -> int:
        node = ir.nodes[node_id]
        within = [other.loop for other in ir.nodes.values() if other.loop and node_id in other.loop.body]
        passes: int = prod(loop.max_iterations + (loop.form == "paths") for loop in within)
        enclosing = node.analysis.map
        return passes * lanes.get(node_id, 1) * (LIMITS.map_items * executions(enclosing) if enclosing else 1)

    lanes = _lanes(ir) if ir.lanes else {}
    return {node.id: executions(node.id) * calls for node in ir.nodes.values() if (calls := _calls(node))}


def _calls(node: Node) -> int:
    """Of one execution, those that are tried again included."""
    if node.type == "workflow":
        return _calls_inside(node.config)
    if node.type != "agent":
        return 0
    tools = node.config.get("tools", ())
    rounds = node.config.get("max_rounds", ROUNDS) + ("response_format" in node.config) if tools else 1
    children = max((_calls_inside(tool["workflow"]) for tool in tools if "workflow" in tool), default=0)
    inside: int = children * node.config.get("max_calls", CALLS)
    return node.retry.max_attempts * (rounds + inside)


def _calls_inside(config: Mapping[str, Any]) -> int:
    return most_calls(compile_workflow(config["document"]).ir) if "document" in config else UNKNOWN


def _lanes(ir: IR) -> dict[str, int]:
    """How often a node may be executed because nodes before it, or itself, are `join: any`."""
    before: dict[str, set[str]] = {node_id: set() for node_id in ir.nodes}
    ways = dict.fromkeys(ir.nodes, 0)
    for node in ir.nodes.values():
        for target in successors(node):
            before[target].add(node.id)
            ways[target] += 1

    def ahead_of(node_id: str) -> set[str]:
        seen, todo = {node_id}, [node_id]
        while todo:
            new = before[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    return {n: prod(max(1, ways[one]) for one in ahead_of(n) if ir.nodes[one].any) for n in ir.nodes}
