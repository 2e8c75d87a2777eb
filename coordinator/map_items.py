"""Map items: started lazily, in slices, and gathered when all are done."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from coordinator.decide import Done
from coordinator.values import Values
from lua.answers import MapProgress
from lua.run_store import RunStore
from schemas.ir import IR
from schemas.keys import path_of
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Failure
from schemas.plan import Plan, start_plan
from schemas.values import ValueTooLarge, artifact_name, encode_value

SLICE = 100
"""Items that are started in one step, so that other runs' hops come in between (as in lua/parts/item.lua)."""
TOKENS = 1_000
"""Tokens that one step makes, where an item has many entries."""


class ResultsGone(LookupError):
    """The map was over before its results were read: somebody else was faster."""


class MapItems:
    """Starts and gathers the items of maps."""

    def __init__(self, store: RunStore, values: Values) -> None:
        self.store = store
        self.values = values

    async def start(self, signal: CompletionSignal, ir: IR, progress: MapProgress) -> list[str]:
        """Start the next slice, of no items where there is no room. Answers of start_items."""
        entries = len(ir.nodes[signal.node_id].analysis.entries)
        room = min(progress.parallel - progress.running, progress.total - progress.cursor)
        count = max(min(room, SLICE, max(TOKENS // max(entries, 1), 1)), 0)
        items = await self.values.get(signal.run_id, progress.items) if count else []
        plan = start_plan(ir, signal.node_id)
        for item in items[progress.cursor : progress.cursor + count]:
            text, artifact = encode_value(item)
            plan.items.append(text)
            if artifact:
                plan.artifacts.append(artifact)
        body = orjson.dumps({"first": progress.cursor, "count": count})
        return await self.store.start_items(signal.run_id, signal.token_id, ir, progress.cursor, plan, body)

    async def gather(self, run_id: str, token_id: str, progress: MapProgress, extra: Plan) -> Done | Failure:
        """The output of a map whose items are all done: their results in item order. Raises ResultsGone."""
        texts = await self.store.map_results(run_id, path_of(run_id, token_id), LIMITS.output_bytes)
        size = sum(map(len, texts.values())) + progress.total
        if size > LIMITS.output_bytes:
            return _too_large()
        if len(texts) < progress.total:
            raise ResultsGone(token_id)
        results: list[str] = []
        for index in range(progress.total):  # each may be an artifact: they are not all loaded where some are too many
            results.append(await self._json(run_id, texts[index]))
            size += len(results[-1]) - len(texts[index])
            if size > LIMITS.output_bytes:
                return _too_large()
        # Megabytes to parse, pack and compress: beside the event loop, so that other runs' hops go on.
        return await asyncio.to_thread(_gathered, results, extra)

    async def _json(self, run_id: str, text: str) -> str:
        """A result as JSON."""
        if artifact_name(text) is None:
            return text
        return orjson.dumps(await self.values.get(run_id, text)).decode()


def _too_large() -> Failure:
    message = f"the results are larger together than the limit output_bytes, {LIMITS.output_bytes}"
    return Failure("too_large", message, retryable=False)


def _gathered(results: list[str], extra: Plan) -> Done | Failure:
    return stored(orjson.loads(f"[{','.join(results)}]"), extra)


def stored(value: Any, extra: Plan) -> Done | Failure:
    """A value as an outcome; its artifact, if it is large, goes with the plan."""
    try:
        text, artifact = encode_value(value)
    except ValueTooLarge as error:
        return Failure("too_large", str(error), retryable=False)
    if artifact:
        extra.artifacts.append(artifact)
    return Done(value, text)
