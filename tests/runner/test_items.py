"""Tasks of a map's items: what their templates see."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import orjson

from agent_runner.work import Result, Work
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.values import artifact_name, unpack
from tests.runner.conftest import Completed, Serve
from tests.runner.test_claims import patch
from tests.runner.workflows import start


def echo(**values: Any) -> Any:
    return values


def function(node_id: str, **args: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "function", "config": {"handler": "echo", "args": args}}


def mapped(node_id: str, items: str, *nodes: dict[str, Any], edges: Any = ()) -> dict[str, Any]:
    return {"id": node_id, "type": "map", "config": {"items": items, "nodes": list(nodes), "edges": list(edges)}}


def workflow(*nodes: dict[str, Any]) -> IR:
    ids = [node["id"] for node in nodes]
    edges = [{"from": before, "to": after} for before, after in pairwise(ids)]
    return compile_workflow({"id": "w", "nodes": list(nodes), "edges": edges}).ir


async def output(store: RunStore, node_id: str, run_id: str = "run_1") -> Any:
    text = await store.redis.hget(store.keys.context(run_id), node_id)
    name = artifact_name(text.decode())
    return orjson.loads(text) if name is None else unpack(await store.redis.hget(store.keys.artifacts(run_id), name))


async def test_item_and_index(store: RunStore, serve: Serve, completed: Completed) -> None:
    """`output` at an entry is the item; `ctx` reads the item's own scope and the run's."""
    ir = workflow(
        function("before", factor="{{ input.factor }}"),
        mapped(
            "each", "input.xs",
            function("a", item="{{ item }}", index="{{ index }}", output="{{ output }}", input="{{ input.factor }}"),
            function("b", text="{{ index }}: {{ ctx.a.output.item }} x {{ ctx.before.output.factor }}"),
            edges=[{"from": "a", "to": "b"}],
        ),
        function("after", all="{{ output }}"),
    )  # fmt: skip
    serve(handlers=[echo])
    await start(store, "run_1", ir, {"factor": 2, "xs": ["p", {"q": 1}]})
    await completed("run_1")
    assert await output(store, "after") == {"all": [{"text": "0: p x 2"}, {"text": '1: {"q":1} x 2'}]}


async def test_maps_in_maps(store: RunStore, serve: Serve, completed: Completed) -> None:
    ir = workflow(
        function("run_wide", value="r"),
        mapped(
            "outer", "input",
            function("row", value="{{ item.name }}{{ index }}"),
            mapped("inner", "item.cells", function(
                "cell", text="{{ ctx.run_wide.output.value }} {{ ctx.row.output.value }} {{ item }}{{ index }}"
            )),
            edges=[{"from": "row", "to": "inner"}],
        ),
    )  # fmt: skip
    serve(handlers=[echo])
    await start(store, "run_1", ir, [{"name": "a", "cells": [1]}, {"name": "b", "cells": [2, 3]}])
    await completed("run_1")
    assert await output(store, "outer") == [[{"text": "r a0 10"}], [{"text": "r b1 20"}, {"text": "r b1 31"}]]


async def test_a_large_item_comes_as_its_value(store: RunStore, serve: Serve, completed: Completed) -> None:
    ir = workflow(mapped("each", "input.xs", function("a", size="{{ size(item) }}")))
    serve(handlers=[echo])
    await start(store, "run_1", ir, {"xs": ["x" * 20_000, "y"]})
    await completed("run_1")
    assert await output(store, "each") == [{"size": 20_000}, {"size": 1}]


class Rendering:
    """Nodes whose output is their rendered url."""

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        return Result(work.node.templates["url"].render(variables))

    async def close(self) -> None: ...


async def test_outputs_of_enclosing_scopes_after_a_patch(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    """A claim that could not name what the node reads now: it is loaded from the scope that has it."""

    def version(url: str) -> IR:
        cell = {"id": "cell", "type": "http", "config": {"method": "GET", "url": url}}
        inner = mapped("inner", "[item]", function("own", value="o"), cell, edges=[{"from": "own", "to": "cell"}])
        outer = mapped("outer", "input", function("row", value="w"), inner, edges=[{"from": "row", "to": "inner"}])
        return workflow(function("before", value="b"), outer)

    serve(handlers=[echo])
    await start(store, "run_1", version("http://h/"), [7])
    await wait_until(lambda: store.redis.xlen("wf.tasks.http"))
    url = "http://h/{{ ctx.before.output.value }}{{ ctx.row.output.value }}{{ ctx.own.output.value }}{{ item }}"
    await patch(store, "run_1", version(url))
    serve("r2", nodes={"http": Rendering()})
    await completed("run_1")
    assert await output(store, "outer") == [["http://h/bwo7"]]
