"""Runs a Residency against the event loop's clock, so many simulated seconds per second."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from agent_runner.engines.simulated.gpu import Demand
from agent_runner.engines.simulated.residency import Residency


class Timeline:
    """Simulated time begins with the object, on the loop that is running then."""

    def __init__(self, residency: Residency, speed: float) -> None:
        self.residency = residency
        self.speed = speed
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._changed: asyncio.Future[None] | None = None

    def catch_up(self) -> None:
        """Bring the simulated GPU to the present, and wake up again when its next thing happens."""
        self.residency.advance((self._loop.time() - self._began) * self.speed)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.residency.next_at()
        if at < math.inf:
            self._timer = self._loop.call_at(self._began + at / self.speed, self.catch_up)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, looked at whenever something happens on the GPU."""
        while not holds():
            if self._changed is None or self._changed.done():
                self._changed = self._loop.create_future()
            await asyncio.shield(self._changed)  # others wait on it, too

    def submit(self, demand: Demand) -> None:
        """Raises QueueFull."""
        self.catch_up()
        try:
            self.residency.submit(demand)
        finally:
            self.catch_up()

    def cancel(self, demand: Demand) -> None:
        self.catch_up()
        self.residency.cancel(demand)
        self.catch_up()

    def expire(self, model: str) -> None:
        self.catch_up()
        self.residency.expire(model)
        self.catch_up()

    def wall_ns(self, simulated_s: float) -> int:
        """Nanoseconds on a client's clock: what an engine that is this fast would report."""
        return round(simulated_s / self.speed * 1e9)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
