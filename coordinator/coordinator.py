"""The coordinator: pops completion signals and moves their tokens on.

BLMPOP (one, then all that waits, up to a limit) -> read -> SignalBatch: load, decide, advance
"""

from __future__ import annotations

import asyncio

from coordinator.children import Workflows, no_workflows
from coordinator.ir_cache import IRCache
from coordinator.service_loop import repeat
from coordinator.signal_batch import SignalBatch
from lua.run_store import RunStore
from schemas.messages import CompletionSignal, MalformedSignal, read_signal

POP_LIMIT = 256
POP_TIMEOUT_S = 1.0


class Coordinator:
    """Routes completions of one shard until it is stopped. Nothing is kept here that another coordinator needs."""

    def __init__(
        self, store: RunStore, *, workers: int = 2, irs: IRCache | None = None,
        workflows: Workflows = no_workflows,
    ) -> None:  # fmt: skip
        self.store = store
        self.batch = SignalBatch(store, irs or IRCache(store), workflows)
        self.workers = workers

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what was popped.

        Two workers by default: while Redis applies the batch of one, the other decides.
        """
        await asyncio.gather(*(repeat("routing", stop, self._step) for _ in range(self.workers)))

    async def _step(self) -> float:
        # What was popped and not routed is still stored under its token: the supervisor signals it again.
        await self.route(await self.pop(POP_TIMEOUT_S))
        return 0.0

    async def pop(self, timeout_s: float) -> list[bytes]:
        """All signals that wait, at most POP_LIMIT; waits up to `timeout_s` for a first one."""
        answer = await self.store.redis.blmpop(timeout_s, 1, self.store.keys.signals, direction="LEFT", count=POP_LIMIT)
        return list(answer[1]) if answer else []

    async def route(self, raws: list[bytes]) -> None:
        signals: list[CompletionSignal] = []
        for raw in raws:
            try:
                signals.append(read_signal(raw))
            except MalformedSignal as error:
                await self.store.dead_letter("malformed", f"{error}: {raw[:2_000].decode(errors='replace')}")
        if signals:
            await self.batch.route(signals)
