"""Small workflow documents, and random ones, for the tests of the compiler."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from schemas.workflow import read_workflow

Document = dict[str, Any]
PIPELINES: dict[str, Document] = {
    file.stem: read_workflow(file.read_bytes(), "yaml")
    for file in sorted((Path(__file__).parent / "pipelines").glob("*.yaml"))
}
"""Shapes that people need: maps, approvals, waits, gates, children, and loops and parallel paths around them."""


def cel(expression: str) -> dict[str, str]:
    return {"type": "cel", "expression": expression}


def task(name: str, **fields: Any) -> Document:
    return {"id": name, "type": "function", "config": {"handler": "h", **fields.pop("config", {})}, **fields}


def agent(name: str, prompt: str = "p", **config: Any) -> Document:
    return {"id": name, "type": "agent", "config": {"model": "gemma3:4b", "prompt": prompt, **config}}


def branch(name: str, *rules: tuple[str, list[str]], default: list[str] | None = None) -> Document:
    config: Document = {"rules": [{"condition": cel(test), "next": targets} for test, targets in rules]}
    return {"id": name, "type": "branch", "config": config | ({} if default is None else {"default": default})}


def loop(name: str, back: str, out: list[str], test: str = "output.again", **config: Any) -> Document:
    base = {"condition": cel(test), "loop_back_to": back, "max_iterations": 3, "break_path": out}
    return {"id": name, "type": "loop", "config": base | config}


def transform(name: str, **fields: str) -> Document:
    return {"id": name, "type": "transform", "config": {"set": fields}}


def join(name: str, **fields: Any) -> Document:
    return {"id": name, "type": "join", **fields}


def mapped(name: str, *nodes: Document, items: str = "input.rows", edges: str = "", **config: Any) -> Document:
    """A map with a sub-graph; `edges` as those of `flow`."""
    graph = flow(*nodes, edges=edges)
    inside = {part: graph[part] for part in ("nodes", "edges") if graph[part]}
    return {"id": name, "type": "map", "config": {"items": items, **inside, **config}}


def opened(kind: str, name: str, on_error: list[str] | None = None, **config: Any) -> Document:
    """A human, a wait or a workflow."""
    node = {"id": name, "type": kind, "config": config}
    return node if on_error is None else node | {"on_error": on_error}


def flow(*nodes: Document, edges: str = "", **fields: Any) -> Document:
    """A workflow. `edges` reads `a b, a c?`: from, to, and a `?` for an edge with a condition."""
    listed = []
    for source, target in (pair.split() for pair in edges.split(",") if pair.strip()):
        condition = {"condition": cel("output.yes")} if target.endswith("?") else {}
        listed.append({"from": source, "to": target.rstrip("?"), **condition})
    return {"id": "w", "nodes": list(nodes), "edges": listed, **fields}


def closed(**properties: Any) -> Document:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def wild(rng: random.Random) -> Document:
    """Edges thrown on a row of nodes: of good shape, and refused more often than not."""
    ids = [f"n{position}" for position in range(rng.randint(2, 9))]
    nodes, edges = [], []

    def ahead(place: int, low: int, high: int) -> list[str]:
        choices = ids if rng.random() < 0.1 else ids[place + 1 :]
        return [rng.choice(choices) for _ in range(rng.randint(low, high))] if choices else []

    for place, name in enumerate(ids):
        kind = rng.choice(["function"] * 3 + ["branch", "loop", "loop", "join"])
        if kind == "branch":
            rules = [("output.k > 1", ahead(place, 0, 2)) for _ in range(rng.randint(1, 2))]
            node = branch(name, *rules, default=ahead(place, 0, 1) if rng.random() < 0.7 else None)
        elif kind == "loop":
            back = ids[:place] if place and rng.random() < 0.8 else [other for other in ids if other != name]
            node = loop(name, rng.choice(back), ahead(place, 0, 2))
        else:
            node = task(name) if kind == "function" else join(name)
            if kind == "function" and rng.random() < 0.15:
                node["on_error"] = ahead(place, 1, 2)
            for target in ahead(place, rng.random() > 0.3, 2):
                condition = {"condition": cel("output.k > 1")} if rng.random() < 0.3 else {}
                edges.append({"from": name, "to": target, **condition})
        if rng.random() < 0.07:
            node["join"] = "any"
        nodes.append(node)
    return {"id": "wild", "nodes": nodes, "edges": edges}
