"""The workflows of the runs that the faults meet (courses.py)."""

from __future__ import annotations

import random
from typing import Any

from tests.reference.blocks import node_of


def _step(name: str, **more: Any) -> dict[str, Any]:
    return {**node_of(random.Random(0), name, "function"), "retry": {"max_attempts": 3, "backoff_ms": 1}, **more}


def _edges(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"from": source, "to": target} for source, target in pairs]


def _join(name: str) -> dict[str, Any]:
    return {"id": name, "type": "join", "config": {}}


def _again(head: str, after: str) -> dict[str, Any]:
    """A loop around `head`."""
    return {"id": "again", "type": "loop", "config": {
        "condition": {"type": "cel", "expression": "output.k < 3"}, "loop_back_to": head, "max_iterations": 3,
        "break_path": [after], "timeout_path": [after]}}  # fmt: skip


COURSE = {
    "id": "course",
    "nodes": [
        _step("first"), _step("second"), _step("left"), _step("right", on_error=["rescue"]), _step("rescue"),
        _join("both"),
        _step("flaky"),
        {"id": "sort", "type": "branch", "config": {
            "rules": [{"condition": {"type": "cel", "expression": "output.ok"}, "next": ["improve"]}],
            "default": ["last"]}},
        _step("improve"),
        _again("improve", "last"),
        _step("last"),
    ],
    "edges": _edges(
        ("first", "second"), ("second", "left"), ("second", "right"), ("left", "both"), ("right", "both"),
        ("rescue", "both"), ("both", "flaky"), ("flaky", "sort"), ("improve", "again"),
    ),
}  # fmt: skip

CHILD = {"id": "child", "nodes": [_step("work"), _step("check")], "edges": _edges(("work", "check"))}

_PARTS = {"items": "item.parts", "max_parallel": 2, "nodes": [_step("part")]}
_EACH = {
    "items": "ctx.plan.output.items",
    "max_parallel": 3,
    "on_item_error": "collect",
    "nodes": [
        _step("open"), _step("left"), _step("right"), _join("both"),
        {"id": "parts", "type": "map", "config": _PARTS, "on_error": ["rescue"]},
        _step("rescue"),
        {"id": "call", "type": "workflow", "config": {"document": CHILD}},
        _step("improve"),
        _again("improve", "close"),
        _step("close"),
    ],
    "edges": _edges(
        ("open", "left"), ("open", "right"), ("left", "both"), ("right", "both"), ("both", "parts"), ("parts", "call"),
        ("rescue", "call"), ("call", "improve"), ("improve", "again"),
    ),
}  # fmt: skip
TOUR = {
    "id": "tour",
    "nodes": [
        _step("plan"),
        {"id": "nap", "type": "wait", "config": {"for_ms": 20}},
        {"id": "ask", "type": "human", "config": {"prompt": "Go on?"}},
        {"id": "each", "type": "map", "config": _EACH},
        {"id": "visit", "type": "workflow", "config": {"document": CHILD}},
        _step("last"),
    ],
    "edges": _edges(("plan", "nap"), ("nap", "ask"), ("ask", "each"), ("each", "visit"), ("visit", "last")),
}

MASS = {
    "id": "mass",
    "nodes": [
        {"id": "all", "type": "map", "config": {
            "items": "input.items", "nodes": [_step("fetch"), _step("weigh")], "edges": _edges(("fetch", "weigh"))}},
        _step("sum"),
    ],
    "edges": _edges(("all", "sum")),
}  # fmt: skip
