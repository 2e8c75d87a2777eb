"""What one GPU can hold: the models that its engine has, what each takes, and how many requests it serves at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_runner.engines.engine import EngineError, Footprint, short_name
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.settings import RunnerSettings

GB = 1e9
FRESH_S = 10.0
"""How long it is kept that the engine did not say what a model takes."""
ANSWER_S = 5.0
_POOL = re.compile(r"(.+?)(#[0-9a-f]{8})?")

OptionsOf = Callable[[str], Awaitable[Mapping[str, Any] | None]]
"""The load-time options that a pool's tasks ask for; None where no task is there to say."""


@dataclass(frozen=True, slots=True)
class Seat:
    """How a pool lies on this GPU, or would. Memory in bytes.

    Where the GPU's memory or the model's is unknown, the model takes the whole GPU: one at a time is always right.
    """

    pool: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)  # load-time ones
    slots: int = 1  # requests at once
    memory: float = 1.0
    capacity: float = 1.0
    measured: int = 0  # what the engine said that it takes; 0: estimated


@dataclass(frozen=True, slots=True)
class _Known:
    footprint: Footprint | None
    options: Mapping[str, Any]
    at: float


class Capacity:
    """Seats by pool; what does not fit, or is not there, is held by its breaker with the reason."""

    def __init__(self, guarded: GuardedEngine, settings: RunnerSettings, options_of: OptionsOf) -> None:
        self.memory = float(settings.memory) or 1.0
        self._guarded = guarded
        self._settings = settings
        self._options_of = options_of
        self._known: dict[str, _Known] = {}
        self._listed: frozenset[str] | None = None  # what the engine has; None: it does not say

    @property
    def serves(self) -> frozenset[str] | None:
        return self._listed

    def seat(self, pool: str, measured: float = 0.0) -> Seat | None:
        """None where it is not known yet, or the pool is held. `measured`: bytes that it was seen to take."""
        known = self._known.get(pool)
        if known is None or self._guarded.held(pool) is not None:
            return None
        slots, footprint = self._settings.slots, known.footprint
        if footprint is not None and footprint.slots is not None:
            slots = min(slots, footprint.slots)
        needed: float = measured
        if self._settings.memory and footprint is not None:
            slots = next((k for k in range(slots, 1, -1) if (footprint.memory(k) or 0) <= self.memory), 1)
            needed = measured or footprint.memory(slots) or 0.0
        if not self._settings.memory or not needed:
            needed = self.memory
        return Seat(pool, model_of(pool), known.options, slots, min(needed, self.memory), self.memory)

    async def learn(self, pools: Iterable[str]) -> None:
        """Ask the engine about pools that are not known, all at once."""
        now = time.monotonic()
        asked = [pool for pool in pools if self._guarded.held(pool) is None and not self._is_fresh(pool, now)]
        if not asked:
            return
        # One that was missing is asked about only when its breaker closes, because the engine has it now.
        if self._listed is None or not all(self.has(model_of(pool)) for pool in asked):
            await self._list()
        await asyncio.gather(*map(self._learn, asked))

    async def _learn(self, pool: str) -> None:
        model = model_of(pool)
        if not self.has(model):
            reason = f"model {model!r} is not on the engine at {self._guarded.engine.url}"
            self._guarded.hold_missing(pool, model, reason)
            return
        options = {} if pool == model else await self._options_of(pool)
        if options is None:
            return
        footprint = await self._guarded.footprint(model, options)
        least, capacity = footprint and footprint.memory(1), self._settings.memory
        if capacity and least and least > capacity:

            async def fits() -> bool:
                other = await self._guarded.footprint(model, options)
                return other is not None and (other.memory(1) or capacity) <= capacity

            needed = f"needs {least / GB:.1f} GB with one slot"
            self._guarded.hold(pool, f"too large: it {needed}, this GPU has {capacity / GB:.1f} GB", until=fits)
        else:
            self._known[pool] = _Known(footprint, options, time.monotonic())

    def _is_fresh(self, pool: str, now: float) -> bool:
        known = self._known.get(pool)
        return known is not None and (known.footprint is not None or now - known.at < FRESH_S)

    def has(self, model: str) -> bool:
        """Whether the engine has the model, as far as it says so."""
        return self._listed is None or short_name(model) in self._listed

    async def _list(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                self._listed = frozenset(map(short_name, await self._guarded.engine.models()))
        except (EngineError, TimeoutError):
            self._listed = None


def model_of(pool: str) -> str:
    """The model of a pool: `<model>` or `<model>#<8 hex>`."""
    found = _POOL.fullmatch(pool)
    return found[1] if found else pool
