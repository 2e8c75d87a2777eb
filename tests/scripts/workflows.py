"""Small workflows that the script tests share."""

from itertools import pairwise
from typing import Any


def task(node_id: str, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "function", "config": {"handler": "echo"}, **more}


def edges(*arrows: str) -> list[dict[str, Any]]:
    """`edges("a > b > c", "a > d")`"""
    pairs = []
    for arrow in arrows:
        nodes = arrow.split(" > ")
        pairs += [{"from": source, "to": target} for source, target in pairwise(nodes)]
    return pairs


def cel(expression: str) -> dict[str, str]:
    return {"type": "cel", "expression": expression}


CHAIN = {"id": "chain", "nodes": [task("a"), task("b")], "edges": edges("a > b")}

DIAMOND = {
    "id": "diamond",
    "nodes": [task("a"), task("b"), task("c"), task("d")],
    "edges": edges("a > b > d", "a > c > d"),
}

LOOP = {
    "id": "loop",
    "nodes": [
        task("work"),
        {
            "id": "again",
            "type": "loop",
            "config": {
                "condition": cel("output.n < 3"),
                "loop_back_to": "work",
                "max_iterations": 5,
                "break_path": ["last"],
            },
        },
        task("last"),
    ],
    "edges": edges("work > again"),
}


def retrying(attempts: int = 3, backoff_ms: int = 1_000, **more: Any) -> dict[str, Any]:
    retry = {"max_attempts": attempts, "backoff_ms": backoff_ms}
    return {"id": "retrying", "nodes": [task("a", retry=retry, **more), task("sorry")], "edges": []}


def mapped(**config):
    """A map over input.xs with one task an item."""
    item = {"id": "a", "type": "function", "config": {"handler": "h"}}
    each = {"items": "input.xs", "nodes": [item], **config}
    return {"id": "w", "nodes": [{"id": "each", "type": "map", "config": each}], "edges": []}
