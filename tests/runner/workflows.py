"""Runs made by hand: an IR of task nodes without a compiler, started so that each node is at its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from lua.run_store import RunStore
from schemas.ir import IR, Analysis
from schemas.keys import agent_stream, task_stream
from schemas.plan import Arrival, Plan
from schemas.submission import make_start, request_digest
from schemas.values import Artifact


@dataclass(frozen=True)
class Made:
    """A node with what the compiler would have found out about it."""

    id: str
    type: str
    config: Mapping[str, Any]
    reads: Sequence[str] = ()
    waits: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


def function(node_id: str, handler: str, args: Any = None, **extra: Any) -> Made:
    config = {"handler": handler} | ({"args": args} if args is not None else {})
    return Made(node_id, "function", config, extra.pop("reads", ()), extra.pop("waits", False), extra)


def agent(node_id: str, model: str = "m", prompt: str = "hello", *, extra: Mapping[str, Any] | None = None,
          reads: Sequence[str] = (), **config: Any) -> Made:  # fmt: skip
    return Made(node_id, "agent", {"model": model, "prompt": prompt, **config}, reads, extra=extra or {})


def http(node_id: str, url: str, method: str = "GET", *, extra: Mapping[str, Any] | None = None, **config: Any) -> Made:
    return Made(node_id, "http", {"method": method, "url": url, **config}, extra=extra or {})


def make_ir(*nodes: Made, workflow_id: str = "made") -> IR:
    workflow = {
        "id": workflow_id,
        "nodes": [{"id": n.id, "type": n.type, "config": dict(n.config), **n.extra} for n in nodes],
    }
    analyses = {}
    for index, node in enumerate(nodes):
        pool = node.config.get("model")
        analyses[node.id] = Analysis(
            index=index,
            stream=agent_stream(pool) if pool else task_stream(node.type),
            pool=pool,
            waits=node.waits,
            task_reads=tuple(node.reads),
        )
    return IR.build(workflow, tuple(node.id for node in nodes), analyses)


async def noop() -> int:
    return 1


IR_NOOP = make_ir(function("a", "noop"))
STREAM = task_stream("function")


async def start(
    store: RunStore, run_id: str, ir: IR, value: Any = None, *, arrived: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None, artifacts: Sequence[Artifact] = (), **options: Any,
) -> None:  # fmt: skip
    """Start a run. With `arrived`, its one node is reached from those predecessors instead of being an entry."""
    submission = make_start(run_id, ir, value, request=request_digest(value), **options)
    arguments = submission.arguments()
    if arrived is not None:
        arguments["plan"] = _arrivals(ir, arrived)
    arguments["artifacts"] = [*arguments["artifacts"], *artifacts]
    if outputs:
        texts = {node: stored(output) for node, output in outputs.items()}
        await store.redis.hset(store.keys.context(run_id), mapping=texts)
    assert await store.start_run(**arguments) == "started"


def stored(value: Any) -> str:
    """JSON, or the reference itself where an artifact is given."""
    return value.reference if isinstance(value, Artifact) else orjson.dumps(value).decode()


def _arrivals(ir: IR, arrived: Mapping[str, Any]) -> Plan:
    plan = Plan()
    (node_id,) = ir.entries
    arrivals = [Arrival(node_id, source, stored(value), (1, ""), 2, "") for source, value in arrived.items()]
    if ir.nodes[node_id].analysis.waits:
        plan.arrivals += arrivals
    else:
        plan.fires += arrivals
    return plan
