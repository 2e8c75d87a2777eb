"""A circuit breaker: open while an engine, or one model on it, cannot be used, so that nothing is claimed or fails."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from agent_runner.backoff import Backoff

log = logging.getLogger("pavane.runner")


class Breaker:
    """Opened by `trip`. It closes by itself when, after a pause, `probe` answers true; only use shows if that holds.

    The next `trip` continues the row of failures, with a longer pause, until `mend` says that the use succeeded.
    `changed` is called after each opening and closing. `name` is what it guards, for people. Times in seconds.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[bool]],
        changed: Callable[[], None],
        *,
        name: str = "the engine",
        first_s: float = 0.1,
        longest_s: float = 10.0,
    ) -> None:
        self.reason = ""
        self.opened_at: float | None = None  # since the epoch, the first of the row; None: closed
        self._probe = probe
        self._changed = changed
        self._name = name
        self._backoff = Backoff(first_s, longest_s)
        self._closed = asyncio.Event()
        self._closed.set()
        self._row_since: float | None = None
        self._said = ""
        self._prober: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    async def closed(self) -> None:
        """Returns when it may be used, or tried again."""
        await self._closed.wait()

    def trip(self, reason: str, *, longest_s: float | None = None) -> None:
        """Open it, if it is not; a row of failures is logged once for each reason. `longest_s`: of the pauses."""
        if self.is_open:
            return
        if longest_s is not None:
            self._backoff.longest_s = longest_s
        if self._row_since is None:
            self._row_since = time.time()
        if self._said != reason:
            log.warning("%s is held, nothing is asked of it: %s", self._name, reason)
            self._said = reason
        self.opened_at, self.reason = self._row_since, reason
        self._closed.clear()
        self._prober = asyncio.create_task(self._probe_until_back())
        self._changed()

    def mend(self) -> None:
        """It was used and worked: a failure from here on is a new one. While it is open, only the probe closes it."""
        if self._row_since is None or self.is_open:
            return
        log.info("%s works again after %.1f s", self._name, time.time() - self._row_since)
        self._row_since, self._said = None, ""
        self._backoff.reset()

    async def close(self) -> None:
        """Stop probing; an open breaker stays open."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    def drop(self) -> None:
        """Nobody asks any more: stop probing. It counts as closed."""
        if self._prober is not None:
            self._prober.cancel()
        self.opened_at, self.reason = None, ""
        self._closed.set()

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(self._backoff.next_s())
            if await self._answers():
                break
        self.opened_at, self.reason = None, ""
        self._closed.set()
        self._changed()

    async def _answers(self) -> bool:
        try:
            return await self._probe()
        except Exception:  # an adapter's bug must not leave the streams held for ever
            log.exception("the probe of %s failed", self._name)
            return False
