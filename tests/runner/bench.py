"""A GPU on a scripted engine, with what surrounds it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from agent_runner.buffer import Buffer
from agent_runner.capacity import Seat
from agent_runner.engines.engine import ChatRequest
from agent_runner.executions import Executions
from agent_runner.gpu import Gpu
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.hands import Hands
from agent_runner.measures import Measures
from agent_runner.work import Fetched
from lua.run_store import RunStore
from schemas.keys import agent_stream
from schemas.messages import Task
from tests.runner.engine import ScriptedEngine


class Bench:
    def __init__(self, store: RunStore) -> None:
        self.engine = ScriptedEngine(models=("a", "b", "c"))
        self.buffer = Buffer()
        self.measures = Measures(store, "8GB")
        hands = Hands(self.buffer, Executions())
        self.gpu = Gpu(GuardedEngine(self.engine, changed=self._changed), hands, self.measures, self._changed)

    def _changed(self) -> None:
        if hasattr(self, "gpu"):
            self.gpu.look_again()

    def task(self, pool: str, number: int = 0) -> Fetched:
        return Fetched(Task("run_1", f"run_1.{number}", "n", "", "d", agent_stream(pool), f"{number}-0"))

    def ask(self, pool: str) -> asyncio.Task[Any]:
        return asyncio.create_task(self.gpu.chat(pool, ChatRequest(pool, "?", 5.0)))

    def states(self) -> dict[str, str]:
        return {pool: loaded.state for pool, loaded in self.gpu.residents.items()}

    async def load(self, pool: str, *leaving: str) -> None:
        self.gpu.switch(Seat(pool, pool), leaving)
        await self.until(lambda: not self.gpu.target and self.states().get(pool) == "ready")

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until it is so."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    def stand_still(self) -> None:
        """So long that the lease is over; what another runner did meanwhile is not known yet."""
        self.gpu.renew(time.monotonic())

    def wake(self) -> None:
        """Nobody has taken the engine."""
        self.gpu.renew(time.monotonic() + 60)
