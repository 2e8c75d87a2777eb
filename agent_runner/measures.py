"""What was measured on this kind of GPU: tasks per second, load times, memory. Moving averages, shared in Redis."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from lua.gpu_leases import Measure
from lua.run_store import RunStore

WEIGHT = 0.2
"""Of a new measurement in the average."""
FULL = 0.75
"""Slots in use, in the mean, from which on they count as full: a slot is empty for a moment between two tasks."""
UNKNOWN_S = 1.0
"""What a switch, and a task in its slot, are taken to need as long as nothing was measured on this kind of GPU."""

LEAST_S = 0.02
"""What a switch costs at least: some round trips, however quickly an engine says that it has loaded."""


@dataclass(slots=True)
class _Window:
    """Tasks that were completed since another one was. `used`: slot-seconds since then."""

    running: int = 0
    at: float = 0.0
    began: float | None = None
    used: float = 0.0
    completed: int = 0

    def elapse(self, now: float) -> None:
        self.used += self.running * (now - self.at)
        self.at = now


class Measures:
    """Averages by pool. Own measurements count at once; those of others are read now and then (`share`)."""

    def __init__(self, store: RunStore, kind: str) -> None:
        self._store = store
        self._kind = kind or "gpu"
        self._values: dict[str, dict[str, float]] = {}
        self._new: list[tuple[str, Measure, float]] = []
        self._windows: dict[str, _Window] = {}
        self._means: dict[str, float] = {}  # of all models that were measured, by what was

    # -- reading -----------------------------------------------------------------------------------
    def rate(self, pool: str, slots: int) -> float:
        """Tasks per second with full slots; the mean of the other models' for one that was never measured."""
        return self._value(pool, "rate", slots / UNKNOWN_S)

    def cost_s(self, pool: str) -> float:
        """Of a switch: load time + half a drain, in seconds."""
        return max(self._value(pool, "load_s", UNKNOWN_S) + self._value(pool, "drain_s", 0.0) / 2, LEAST_S)

    def memory(self, pool: str) -> float:
        """Bytes that the model was seen to take; 0: never seen."""
        return self._values.get(pool, {}).get("memory", 0.0)

    def _value(self, pool: str, field: Measure, unknown: float) -> float:
        known = self._values.get(pool, {}).get(field)
        return known if known is not None else self._means.get(field, unknown)

    # -- measuring ---------------------------------------------------------------------------------
    def take(self, pool: str, field: Measure, value: float) -> None:
        self._count(pool, field, value)
        self._new.append((pool, field, value))
        self._average()

    def executing(self, pool: str, running: int) -> None:
        """So many slots of a pool are in use from now on."""
        window = self._windows.setdefault(pool, _Window())
        window.elapse(time.monotonic())
        window.running = running

    def completed(self, pool: str, slots: int) -> None:
        """A task of the pool was completed; of one that failed nothing can be learnt."""
        window = self._windows.setdefault(pool, _Window())
        now = time.monotonic()
        window.elapse(now)
        if window.began is None:
            window.began, window.used, window.completed = now, 0.0, 0
            return
        window.completed += 1
        lasted = now - window.began
        if window.completed >= 2 * slots and lasted > 0:
            if window.used >= FULL * slots * lasted:
                self.take(pool, "rate", window.completed / lasted)
            window.began, window.used, window.completed = now, 0.0, 0

    def disturb(self, pool: str) -> None:
        """What was seen until now says nothing of the GPU: tasks failed, or waited for something else."""
        if (window := self._windows.get(pool)) is not None:
            window.began = None

    # -- sharing -----------------------------------------------------------------------------------
    async def share(self) -> None:
        """Write what is new, read what others have measured. Raises what Redis raises; nothing is lost then."""
        while self._new:
            pool, field, value = self._new[0]
            await self._store.measure_model(self._kind, pool, field, value, WEIGHT)
            self._new.pop(0)
        known: Mapping[str, Mapping[str, float]] = await self._store.measures(self._kind)
        self._values = {pool: dict(values) for pool, values in known.items()}
        for pool, field, value in self._new:  # measured while that was read
            self._count(pool, field, value)
        self._average()

    def _count(self, pool: str, field: Measure, value: float) -> None:
        values = self._values.setdefault(pool, {})
        values[field] = value if field not in values else values[field] + WEIGHT * (value - values[field])

    def _average(self) -> None:
        by_field: dict[str, list[float]] = {}
        for values in self._values.values():
            for field, value in values.items():
                by_field.setdefault(field, []).append(value)
        self._means = {field: fmean(values) for field, values in by_field.items()}
