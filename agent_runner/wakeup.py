"""Waiting for a condition inside one process, without polling."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Wakeup:
    """One waiter looks at its condition again at each `notify`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self._event.clear()
            await self._event.wait()

    async def within(self, seconds: float) -> bool:
        """Wait for a `notify` since the last wait, at most so long; whether it came."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True
