"""Family: the run that called this one, and the runs that this one has called; from Redis, and what is recorded."""

from __future__ import annotations

from typing import Any

import orjson

from history.families import Families
from lua.run_store import RunStore

SHOWN = 200
"""Children of one run in one answer."""


class Family:
    def __init__(self, store: RunStore, recorded: Families) -> None:
        self.store = store
        self.recorded = recorded

    async def of(self, run_id: str) -> dict[str, Any]:
        """{parent: run id or null, children: [{node_id, run_id, status}]}: those that go on first, then the newest."""
        keys = self.store.keys
        async with self.store.redis.pipeline(transaction=False) as pipe:
            pipe.exists(keys.run(run_id))
            pipe.hget(keys.run(run_id), "parent")
            pipe.get(keys.ir(run_id))
            pipe.smembers(keys.children(run_id))
            known, parent, ir, live = await pipe.execute()
        if not known:
            return {"parent": await self.recorded.parent(run_id), "children": await self._children(run_id, [])}
        # A run that calls nobody does not wait for Postgres.
        calls = b'"type":"workflow"' in (ir or b"")
        children = await self._children(run_id, sorted(child.decode() for child in live)) if calls else []
        return {"parent": parent.decode() if parent else None, "children": children}

    async def _children(self, run_id: str, live: list[str]) -> list[dict[str, Any]]:
        recorded = {child.run_id: child for child in await self.recorded.children(run_id, SHOWN)}
        shown = [*live, *(child for child in recorded if child not in live)][:SHOWN]
        nodes = (
            await self.recorded.nodes(run_id, [child.parent_token for child in recorded.values()]) if recorded else {}
        )
        async with self.store.redis.pipeline(transaction=False) as pipe:
            for child in shown:
                pipe.hmget(self.store.keys.run(child), "status", "parent_signal")
            now = await pipe.execute()
        found = []
        for child, (status, signal) in zip(shown, now, strict=True):
            was = recorded.get(child)
            node = orjson.loads(signal)["node_id"] if signal else nodes.get(was.parent_token) if was else None
            found.append(
                {"node_id": node, "run_id": child, "status": status.decode() if status else was and was.status}
            )
        return found
