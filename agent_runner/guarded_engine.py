"""One engine as the runner uses it: models are loaded before they are asked, and it is waited for while it is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent_runner.breaker import Breaker
from agent_runner.engines.engine import ChatReply, ChatRequest, Engine, EngineAway, EngineError, short_name

log = logging.getLogger("pavane.runner")

RESIDENTS_S = 2.0
"""An engine that is slow to say what it holds must not stop the heartbeat."""


class GuardedEngine:
    """An engine behind its breaker.

    Loading is explicit, so that the time it takes is measured and counts against no task's timeout.
    A pool is a model with its load-time options (`<model>` or `<model>#<8 hex>`).
    """

    def __init__(self, engine: Engine, *, changed: Callable[[], None], first_probe_s: float = 0.1) -> None:
        self.engine = engine
        self.breaker = Breaker(engine.healthy, changed, first_s=first_probe_s)
        self.loading: str | None = None  # the pool that is being loaded
        self.loads: dict[str, int] = {}  # pool -> loads in this runner's life
        self._pool: str | None = None  # the pool that was loaded last
        self._loaded_as: dict[str, str] = {}  # model -> its pool; what `close` lets go
        self._lock = asyncio.Lock()
        self._loading_s = 0.0
        self._loading_since: float | None = None

    async def chat(self, pool: str, request: ChatRequest) -> ChatReply:
        """Ask the model, however long the engine is away meanwhile. `load_ms` includes a load that it waited for.

        Raises EngineError, never EngineAway; the request's timeout begins anew with each try.
        """
        while True:
            await self.breaker.closed()
            try:
                waited_ms = await self._ready(pool, request.model, request.options)
                try:
                    async with asyncio.timeout(request.timeout_s):
                        reply = await self.engine.chat(request)
                except TimeoutError:
                    raise EngineError("timeout", f"no answer within {request.timeout_s:g} s") from None
                return replace(reply, load_ms=reply.load_ms + waited_ms)
            except EngineAway as error:
                self._pool = None  # it may come back with nothing loaded
                self.breaker.trip(error.message)

    async def residents(self) -> list[str]:
        """Models in the engine's memory; none where it can not be asked."""
        if self.breaker.is_open:
            return []
        try:
            async with asyncio.timeout(RESIDENTS_S):
                return [resident.model for resident in await self.engine.residents()]
        except (EngineError, TimeoutError):
            return []

    @property
    def loading_s(self) -> float:
        """Seconds spent loading."""
        now = time.monotonic()
        return self._loading_s + (now - self._loading_since if self._loading_since is not None else 0.0)

    async def close(self) -> None:
        """Let go what was loaded here: it was pinned, and the GPU is somebody else's now."""
        await self.breaker.close()
        try:
            if not self.breaker.is_open:
                for model in self._loaded_as:
                    await self.engine.unload(model)
        except EngineError as error:
            log.info("models stay loaded: %s", error.message)
        finally:
            await self.engine.close()

    async def _ready(self, pool: str, model: str, options: Mapping[str, Any]) -> int:
        """Load the pool unless it was the last one loaded; the ms that this took here."""
        if self._pool == pool:
            return 0
        async with self._lock:
            if self._pool == pool:
                return 0
            if self.breaker.is_open:  # found out by the one that held the lock
                raise EngineAway(self.breaker.reason)
            return await self._load(pool, model, options)

    async def _load(self, pool: str, model: str, options: Mapping[str, Any]) -> int:
        resident = self._loaded_as.get(model) == pool and short_name(model) in await self.residents()
        began = time.monotonic()
        if not resident:
            self.loading, self._loading_since = pool, began
        load_ms = 0
        try:
            load_ms = (await self.engine.load(model, options)).load_ms
            self._loaded_as[model] = pool
            if not resident:
                self.loads[pool] = self.loads.get(pool, 0) + 1
                log.info("loaded %s in %d ms", pool, load_ms)
        except EngineAway:
            raise
        except EngineError as error:  # the requests for it will say the same, each to its own item
            log.warning("%s was not loaded: %s", pool, error.message)
        finally:
            if not resident:
                self._loading_s += time.monotonic() - began
                self.loading, self._loading_since = None, None
        self._pool = pool
        return load_ms
