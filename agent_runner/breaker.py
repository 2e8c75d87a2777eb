"""The circuit breaker of one engine: open while the engine is away, so that nothing is claimed and nothing fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from agent_runner.backoff import Backoff

log = logging.getLogger("pavane.runner")

CALM_S = 30.0
"""An engine that goes away again sooner than this after it came back is probed as slowly as before."""


class Breaker:
    """Opened by `trip`; closed again when `probe` answers true. `changed` is called after each change."""

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        changed: Callable[[], None],
        *,
        first_s: float = 0.1,
        longest_s: float = 10.0,
    ) -> None:
        self.reason = ""
        self.opened_at: float | None = None  # seconds since the epoch; None: closed
        self._probe = probe
        self._changed = changed
        self._backoff = Backoff(first_s, longest_s)
        self._closed = asyncio.Event()
        self._closed.set()
        self._closed_since = float("-inf")
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    async def closed(self) -> None:
        """Returns when the engine is there."""
        await self._closed.wait()

    def trip(self, reason: str) -> None:
        if self.is_open:
            return
        if time.monotonic() - self._closed_since > CALM_S:
            self._backoff.reset()
        self.opened_at, self.reason = time.time(), reason
        self._closed.clear()
        log.warning("engine away, its streams are held: %s", reason)
        self._prober = asyncio.create_task(self._probe_until_back())
        self._changed()

    async def close(self) -> None:
        """Stop probing; an open breaker stays open."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_s())
            if await self._answers():
                break
        log.info("engine back after %.1f s", time.time() - (self.opened_at or 0.0))
        self.opened_at, self.reason = None, ""
        self._closed_since = time.monotonic()
        self._closed.set()
        self._changed()

    async def _answers(self) -> bool:
        try:
            return await self._probe()
        except Exception:  # an adapter's bug must not leave the streams held for ever
            log.exception("the probe of an engine failed")
            return False
