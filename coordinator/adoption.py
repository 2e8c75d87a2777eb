"""Adoption: after a patch the items of a run's maps follow it: slice by slice, and any of them before its next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

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

        async def adopt(ir: IR | None) -> list[list[str]]:
            return [await self.store.adopt_items(run_id, map_token, ir)]

        await self._adopt(run_id, adopt)

    async def items(self, places: Iterable[tuple[str, str]]) -> None:
        """Items, each a run and a scope, that somebody wants to go on; those of one map together."""
        by_run: dict[str, list[str]] = {}
        for run_id, scope in places:
            by_run.setdefault(run_id, []).append(scope)
        for run_id, scopes in by_run.items():
            await self._adopt(run_id, partial(self.store.adopt_scopes, run_id, scopes))

    async def _adopt(self, run_id: str, adopt: Callable[[IR | None], Awaitable[list[list[str]]]]) -> None:
        for _ in range(MAX_STALE):
            digest = await self.store.redis.hget(self.store.keys.run(run_id), "digest")
            ir = await self.irs.get(digest.decode(), run_id) if digest else None
            if not any(answer[0] == "stale" for answer in await adopt(ir)):
                return
