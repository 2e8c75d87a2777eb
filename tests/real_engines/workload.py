"""Items of five steps over three models, done two ways: by Pavane, and item by item straight on the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson

from agent_runner.engines.engine import ChatRequest, Engine
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.submission import make_start
from tests.real_engines.models import TinyModel

MODELS = [TinyModel("alpha", 256, seed=1), TinyModel("beta", 320, seed=2), TinyModel("gamma", 384, seed=3)]
MEMORY = 45_000_000
"""Bytes. With 4 slots alpha takes 24 MB, beta 32, gamma 40: each fits alone, no two together."""

STEPS = (("read", "alpha"), ("judge", "beta"), ("improve", "gamma"), ("check", "alpha"), ("name", "beta"))
ANSWER = {
    "type": "object",
    "properties": {
        "grade": {"enum": ["low", "middle", "high"]},
        "word": {"type": "string", "pattern": "^[a-z]{3,6}$"},
    },
    "required": ["grade", "word"],
    "additionalProperties": False,
}
_TIMEOUT_S = 300.0


def pipeline() -> IR:
    """Each step is told the item and the answer before its own."""
    nodes = [
        {"id": node, "type": "agent", "retry": {"max_attempts": 5, "backoff_ms": 100}, "config": _config(number)}
        for number, (node, _) in enumerate(STEPS)
    ]
    edges = [{"from": STEPS[i][0], "to": STEPS[i + 1][0]} for i in range(len(STEPS) - 1)]
    return compile_workflow({"id": "real-engine", "nodes": nodes, "edges": edges}).ir


def _config(number: int) -> dict[str, Any]:
    node, model = STEPS[number]
    before = f"{{{{ ctx.{STEPS[number - 1][0]}.output.word }}}}" if number else ""
    return {"model": model, "prompt": _prompt(node, "{{ input.text }}", before), "response_format": ANSWER}


def _prompt(step: str, text: str, before: str) -> str:
    return f"{step}: {text} {before}"


def texts(items: int) -> list[str]:
    return [f"item {number}" for number in range(items)]


async def start_runs(store: RunStore, items: Sequence[str]) -> list[str]:
    """A run for each item; their ids."""
    ir = pipeline()
    run_ids = [f"run_{number}" for number in range(len(items))]
    for first in range(0, len(items), 100):
        named = list(zip(run_ids, items, strict=True))[first : first + 100]
        starts = [make_start(run_id, ir, {"text": text}, request=run_id).arguments() for run_id, text in named]
        await store.start_runs(starts)
    return run_ids


async def outputs(store: RunStore, run_id: str) -> dict[str, Any]:
    """What each step of a run gave. Raises AssertionError where the run has not completed."""
    status = await store.redis.hget(store.keys.run(run_id), "status")
    assert status == b"COMPLETED", f"{run_id} is {status!r}"
    said = await store.redis.hgetall(store.keys.context(run_id))
    return {node: orjson.loads(said[node.encode()]) for node, _ in STEPS}


async def item_first(engine: Engine, items: Sequence[str], at_once: int) -> None:
    """Each item through all its steps before the next, `at_once` side by side. The engine loads what it is asked."""
    waiting = iter(items)

    async def work() -> None:
        for text in waiting:
            before = ""
            for step, model in STEPS:
                prompt = _prompt(step, text, before)
                asked = ChatRequest(model, prompt, _TIMEOUT_S, response_format=ANSWER)
                before = orjson.loads((await engine.chat(asked)).text)["word"]

    await asyncio.gather(*(work() for _ in range(at_once)))
