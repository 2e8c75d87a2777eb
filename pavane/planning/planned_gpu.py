"""One GPU of a simulation: its laws, what the scheduler has decided for it, and what it did."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from agent_runner.engines.simulated.gpu import BATCH_COST, Card, Demand, Gpu, LoadOptions, ModelSpec, Tenant
from agent_runner.scheduler import Resident
from pavane.planning.timeline import Timeline

_OPTIONS = LoadOptions()
_GB = 1_000_000_000


def throughput(slots: int) -> float:
    """S(c) = c / (1 + 0.2 (c - 1)): what a model with `slots` requests does, against one alone."""
    return slots / (1 + BATCH_COST * (slots - 1))


def memory_bytes(spec: ModelSpec, slots: int) -> int:
    return round(spec.vram_gb(slots) * _GB)


class PlannedGpu:
    """Every change goes through `at`, which brings its time up to the simulation's."""

    def __init__(self, number: int, card: Card, models: Mapping[str, ModelSpec], slots: int) -> None:
        self.number = number
        self.card = card
        self.memory = round(card.usable_gb * _GB)
        self.servable = {pool: memory_bytes(spec, slots) <= self.memory for pool, spec in models.items()}
        self.laws = Gpu(card, slots)
        self.timeline = Timeline()
        self.due = math.inf  # when it will change by itself
        self.running = 0
        self.draining: set[str] = set()
        self.focus: str | None = None
        self.focus_since = 0.0
        self.target: str | None = None
        self.decided_at = 0.0
        self.switched_at = -math.inf
        self._memory = {pool: memory_bytes(spec, slots) for pool, spec in models.items()}
        self._models = models

    @property
    def is_idle(self) -> bool:
        return not self.running and self.target is None and self.laws.loading is None

    def residents(self) -> dict[str, Resident]:
        return {
            pool: Resident(tenant.slots, tenant.running, 0, self._memory[pool], self._state(pool, tenant))
            for pool, tenant in self.laws.tenants.items()
        }

    def _state(self, pool: str, tenant: Tenant) -> Literal["ready", "loading", "draining"]:
        return "loading" if tenant.loading else "draining" if pool in self.draining else "ready"

    def has_room(self, pool: str) -> bool:
        """Whether a task of the model could start at once."""
        tenant = self.laws.tenants.get(pool)
        return tenant is not None and tenant.running < tenant.slots and self._state(pool, tenant) == "ready"

    def start(self, pool: str, demand: Demand, now: float) -> None:
        self.laws.elapse(now)
        self.laws.start(self.laws.tenants[pool], demand)
        self.running += 1

    def finish(self) -> Demand | None:
        """Let happen what is due: a task's end, which is returned, or a load's."""
        at, tenant = self.laws.next_event()
        assert tenant is not None
        self.laws.elapse(at)
        demand = self.laws.finish(tenant)
        if demand is None:
            self.switched_at = at
        else:
            self.running -= 1
        return demand

    def unload_drained(self, now: float) -> list[str]:
        """Unload what drains and has nothing running."""
        over = [pool for pool in sorted(self.draining) if not self.laws.tenants[pool].running]
        for pool in over:
            self.laws.elapse(now)
            self.laws.evict(self.laws.tenants[pool])
            self.draining.remove(pool)
        return over

    def fits(self, pool: str) -> bool:
        return self.laws.fits(self._models[pool], _OPTIONS)

    def load(self, pool: str, now: float) -> None:
        self.laws.elapse(now)
        self.laws.load(self._models[pool], _OPTIONS, math.inf)
        self.target = None

    def settle(self) -> None:
        """After changes: what it does now goes into the timeline, and when it changes next is worked out."""
        loading = self.laws.loading
        active = tuple(pool for pool, tenant in self.laws.tenants.items() if tenant.running)
        self.timeline.note(self.laws.now, active, loading.spec.name if loading else None)
        self.due = self.laws.next_event()[0]
