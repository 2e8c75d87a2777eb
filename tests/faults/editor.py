"""Somebody who patches runs at random and changes no outcome: words, timeouts, nodes that nothing leads to."""

from __future__ import annotations

import random
from typing import Any

from lua.patching import Patch, Patched, Patching
from lua.run_store import RunStore
from schemas.ir import IR
from schemas.revision import Revision, revise

TIMEOUTS_MS = (400_000, 500_000, 600_000)


class Editor:
    """Patches up to `at_once` of the live runs whenever it comes by, until it has made `most` patches: it counts them.

    In courses and masses, which call no children, what runs under another timeout is begun anew now and then.
    """

    def __init__(self, store: RunStore, rng: random.Random, at_once: int = 2, most: int = 40) -> None:
        self.store, self.rng, self.at_once, self.most = store, rng, at_once, most
        self.patching = Patching(store)
        self.made = 0

    async def attend(self) -> None:
        live = [run_id.decode() for run_id in await self.store.redis.zrange(self.store.keys.live_runs, 0, -1)]
        for run_id in self.rng.sample(live, min(self.at_once, len(live), self.most - self.made)):
            restart = run_id.startswith(("course-", "mass-")) and self.rng.random() < 0.3
            patch = Patch(self._revise, {"by": "editor"}, restart=restart)
            (result,) = await self.patching.patch_all([run_id], patch)
            self.made += isinstance(result, Patched)

    def _revise(self, ir: IR) -> Revision:
        path = self.rng.choice([path for path, _ in _tasks(ir.workflow["nodes"], "/nodes")])
        operation: dict[str, Any] = self.rng.choice(
            [
                {"op": "add", "path": f"{path}/description", "value": f"{self.rng.random()}"},
                {"op": "add", "path": f"{path}/timeout_ms", "value": self.rng.choice(TIMEOUTS_MS)},
                {"op": "add", "path": f"/nodes/{len(ir.workflow['nodes'])}", "value": _idle(f"idle{len(ir.nodes)}")},
            ]
        )
        return revise(ir, [operation])


def _idle(node_id: str) -> dict[str, Any]:
    return {"id": node_id, "type": "function", "config": {"handler": "scripted"}}


def _tasks(nodes: list[dict[str, Any]], path: str) -> list[tuple[str, dict[str, Any]]]:
    """The tasks of a document, those in maps too, with their pointers."""
    found = [(f"{path}/{node['id']}", node) for node in nodes if node["type"] == "function"]
    for node in nodes:
        if node["type"] == "map":
            found += _tasks(node["config"]["nodes"], f"{path}/{node['id']}/config/nodes")
    return found
