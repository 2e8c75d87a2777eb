"""A workflow of 1,000 nodes compiles in well under two seconds, whatever its graph."""

from __future__ import annotations

import itertools
import time

import pytest

from schemas.compiler.compiler import compile_workflow
from tests.compiler.documents import Document, loop, task

SIZE = 1_000


def reading(name: str, read: str) -> Document:
    return task(name, config={"args": {"x": f"{{{{ ctx.{read}.output.k }}}}"}})


def workflow(nodes: list[Document], edges: list[tuple[str, str]]) -> Document:
    return {"id": "large", "nodes": nodes, "edges": [{"from": source, "to": target} for source, target in edges]}


def chain() -> Document:
    names = [f"n{i}" for i in range(SIZE)]
    steps = list(itertools.pairwise(names))
    return workflow([task(names[0]), *(reading(name, before) for before, name in steps)], steps)


def lattice() -> Document:
    """50 layers of 20, each node of one leads to each of the next."""
    layers = [[f"n{layer}_{i}" for i in range(20)] for layer in range(SIZE // 20)]
    pairs = list(itertools.pairwise(layers))
    nodes = [task(name) for name in layers[0]] + [reading(name, above[0]) for above, layer in pairs for name in layer]
    return workflow(nodes, [(above, below) for upper, lower in pairs for above in upper for below in lower])


def many_chains() -> Document:
    """499 chains of two between one node and another: half a million pairs run side by side."""
    arms = range((SIZE - 2) // 2)
    nodes = [task("s"), *(reading(f"a{i}", "s") for i in arms), *(reading(f"b{i}", f"a{i}") for i in arms), task("e")]
    edges = [edge for i in arms for edge in (("s", f"a{i}"), (f"a{i}", f"b{i}"), (f"b{i}", "e"))]
    return workflow(nodes, edges)


def nested_loops() -> Document:
    """100 loops, each in the next, around a chain."""
    depth, middle = 100, SIZE - 200
    heads, inside = [f"h{i}" for i in range(depth)], [f"m{i}" for i in range(middle)]
    loops = [loop(f"L{i}", f"h{i}", [f"L{i - 1}"] if i else []) for i in range(depth)]
    row = [*heads, *inside, f"L{depth - 1}"]
    return workflow([*map(task, heads), *loops, *map(task, inside)], list(itertools.pairwise(row)))


def loops_in_a_row() -> Document:
    """250 loops one after the other, each around a fork."""
    count = SIZE // 4
    nodes, edges = [], []
    for i in range(count):
        head, left, right, last = (f"{letter}{i}" for letter in "habL")
        nodes += [task(head), reading(left, head), reading(right, head)]
        nodes.append(loop(last, head, [f"h{i + 1}"] if i + 1 < count else []))
        edges += [(head, left), (head, right), (left, last), (right, last)]
    return workflow(nodes, edges)


def mapped(name: str, items: str, nodes: list[Document], edges: list[tuple[str, str]]) -> Document:
    graph = workflow(nodes, edges)
    return {"id": name, "type": "map", "config": {"items": items, "nodes": nodes, "edges": graph["edges"]}}


def maps_in_a_row() -> Document:
    """200 maps one after the other, each around a fork, and each over the results of the one before."""
    count = SIZE // 5
    maps = []
    for i in range(count):
        head, left, right, last = (f"{letter}{i}" for letter in "habz")
        nodes = [task(head), reading(left, head), reading(right, head), reading(last, left)]
        items = f"ctx.m{i - 1}.output" if i else "input.rows"
        maps.append(mapped(f"m{i}", items, nodes, [(head, left), (head, right), (left, last), (right, last)]))
    return workflow(maps, [(f"m{i}", f"m{i + 1}") for i in range(count - 1)])


def nested_maps() -> Document:
    """Four maps in each other, each around a chain whose nodes all read the first node of the document."""

    def around(level: int) -> Document:
        nodes = [reading(f"n{level}_{i}", "first") for i in range(SIZE // 4 - 1 - (level == 3))]
        nodes += [around(level + 1)] if level < 3 else []
        return mapped(f"m{level}", "input.rows", nodes, list(itertools.pairwise(node["id"] for node in nodes)))

    return workflow([task("first"), around(0)], [("first", "m0")])


@pytest.mark.parametrize(
    "make", [chain, lattice, many_chains, nested_loops, loops_in_a_row, maps_in_a_row, nested_maps]
)
def test_a_thousand_nodes(make: object) -> None:
    assert callable(make)
    document = make()
    before = time.process_time()
    ir = compile_workflow(document).ir
    seconds = time.process_time() - before
    assert len(ir.nodes) == SIZE
    assert seconds < 2
