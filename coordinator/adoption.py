"""Adoption: after a patch the items of a run's maps follow it: slice by slice, and any of them before its next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coordinator.ir_cache import IRCache
from lua.run_store import RunStore
from schemas.ir import IR

MAX_STALE = 4
"""Times that it is tried again because the run was patched in between; then a timer does."""


class Adoption:
    """Brings items over to the newest graph of their run. Any number of coordinators may do so side by side."""

    def __init__(self, store: RunStore, irs: IRCache) -> None:
        self.store = store
        self.irs = irs

    async def slice(self, run_id: str, map_token: str) -> None:
        """The next slice of a map's items."""
        await self._adopt(run_id, lambda ir: self.store.adopt_items(run_id, map_token, ir))

    async def item(self, run_id: str, scope: str) -> None:
        """One item, which somebody wants to go on."""
        await self._adopt(run_id, lambda ir: self.store.adopt_item(run_id, scope, ir))

    async def _adopt(self, run_id: str, adopt: Callable[[IR | None], Awaitable[list[str]]]) -> None:
        for _ in range(MAX_STALE):
            digest = await self.store.redis.hget(self.store.keys.run(run_id), "digest")
            ir = await self.irs.get(digest.decode(), run_id) if digest else None
            if (await adopt(ir))[0] != "stale":
                return
