"""The laws of one simulated GPU: memory, loads, and the sharing of its time. Pure: the caller says the time.

Times are simulated seconds, memory is GB. The laws:

- `c` requests on one model run at 1 / (1 + 0.2 (c - 1)) of solo speed each (continuous batching).
- Models that are active at the same time share the card equally; while one loads, the others run at 92 %.
- A model takes weights + 0.5 + slots * KV. One that exceeds the whole card is in part on the CPU, and slow.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

BATCH_COST = 0.2
LOADING_PACE = 0.92
OVERHEAD_GB = 0.5
CPU_PENALTY = 8.0  # a model wholly on the CPU takes 1 + this many times as long
KV_CONTEXT = 4096  # the context that a model's `kv_gb` is for; another one costs in proportion


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Weights and KV cache per slot in GB (Q4 weights, q8 cache), load time in seconds; whether it can call tools."""

    name: str
    weights_gb: float
    kv_gb: float
    load_s: float
    tools: bool = False

    def vram_gb(self, slots: int, context: int = KV_CONTEXT) -> float:
        return self.weights_gb + OVERHEAD_GB + slots * self.kv_gb * context / KV_CONTEXT


CATALOGUE: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec("gemma3:4b", 3.3, 0.125, 3.0),
        ModelSpec("gemma2:2b", 1.6, 0.16, 1.8),
        ModelSpec("qwen2.5:7b", 4.7, 0.17, 4.5, tools=True),
        ModelSpec("phi3", 2.2, 0.40, 2.2),
        ModelSpec("llama3.1:8b", 4.9, 0.18, 4.8, tools=True),
        ModelSpec("qwen2.5:14b", 9.0, 0.30, 8.0, tools=True),
    )
}


@dataclass(frozen=True, slots=True)
class Card:
    """A kind of GPU: usable memory, and its pace against the 8 GB card."""

    name: str
    usable_gb: float
    pace: float


CARDS: dict[str, Card] = {card.name: card for card in (Card("8GB", 7.4, 1.0), Card("24GB", 22.5, 1.8))}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The options that a model is loaded with: Ollama loads it again when a request asks for others."""

    num_ctx: int = KV_CONTEXT
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None


@dataclass(eq=False, slots=True)
class Demand:
    """One request's claim: `work_s` solo seconds on `spec` loaded with `options`; None only loads the model.

    `keep_alive_s` is how long the model stays when idle (infinity: for good), None leaves that as it is.
    `ended` is called once, when the work is done.
    """

    spec: ModelSpec
    options: LoadOptions
    work_s: float | None
    keep_alive_s: float | None
    ended: Callable[[Demand], None]
    state: Literal["new", "queued", "joining", "waiting", "running", "ended", "cancelled"] = "new"
    arrived_at: float = 0.0
    granted_at: float = 0.0
    ended_at: float = 0.0


@dataclass(eq=False, slots=True)
class Tenant:
    """A model in memory, or on its way there. `holders` counts the requests that run or wait on it."""

    spec: ModelSpec
    options: LoadOptions
    slots: int
    size_gb: float
    vram_gb: float
    keep_alive_s: float
    loading: bool = True
    holders: int = 0
    expires_at: float = math.inf
    requests: list[Demand] = field(default_factory=list)  # joining while it loads, then waiting for a slot
    running: int = 0
    # Processor sharing in virtual time: a request running since the tenant came has had `served` solo seconds
    # of work done, and one that started when that was `s`, with work `w`, ends when it reaches `s + w`.
    served: float = 0.0
    rate: float = 0.0
    ends: list[tuple[float, int, Demand]] = field(default_factory=list)


@dataclass(slots=True)
class Meter:
    """Where the card's time went: active + loading + idle is all of it. `loading_s` has nothing running
    beside, `all_loading_s` is every load's. `work_s` is the solo seconds done, `loads` the loads by model.
    """

    active_s: float = 0.0
    loading_s: float = 0.0
    idle_s: float = 0.0
    all_loading_s: float = 0.0
    work_s: float = 0.0
    loads: dict[str, int] = field(default_factory=dict)


class Gpu:
    """One card. `elapse` brings it no further than `next_event`, then `finish` ends what is due there."""

    def __init__(self, card: Card, slots: int) -> None:
        self.card = card
        self.slots = slots
        self.now = 0.0
        self.tenants: dict[str, Tenant] = {}
        self.loading: Tenant | None = None
        self.loaded_at = math.inf
        self.meter = Meter()
        self._started = 0

    @property
    def free_gb(self) -> float:
        return self.card.usable_gb - sum(tenant.vram_gb for tenant in self.tenants.values())

    def fits(self, spec: ModelSpec, options: LoadOptions) -> bool:
        """Whether the model fits beside the others; alone, every model does (in part)."""
        return not self.tenants or spec.vram_gb(self.slots, options.num_ctx) <= self.free_gb + 1e-9

    def load(self, spec: ModelSpec, options: LoadOptions, keep_alive_s: float) -> Tenant:
        """Begin a load. One at a time, and only what `fits`."""
        assert self.loading is None and self.fits(spec, options)
        size = spec.vram_gb(self.slots, options.num_ctx)
        tenant = Tenant(spec, options, self.slots, size, min(size, self.free_gb), keep_alive_s)
        self.tenants[spec.name] = self.loading = tenant
        self.loaded_at = self.now + spec.load_s
        self.meter.loads[spec.name] = self.meter.loads.get(spec.name, 0) + 1
        self._repace()
        return tenant

    def evict(self, tenant: Tenant) -> None:
        assert not tenant.running
        del self.tenants[tenant.spec.name]
        self._repace()

    def start(self, tenant: Tenant, demand: Demand) -> None:
        """Put a request with work into a free slot of a loaded model."""
        assert demand.work_s is not None and tenant.running < tenant.slots and not tenant.loading
        self._started += 1  # equal ends leave in the order of their start
        heapq.heappush(tenant.ends, (tenant.served + demand.work_s, self._started, demand))
        tenant.running += 1
        demand.state = "running"
        self._repace()

    def withdraw(self, tenant: Tenant, demand: Demand) -> None:
        """Take a running request out, unfinished."""
        tenant.ends = [entry for entry in tenant.ends if entry[2] is not demand]
        heapq.heapify(tenant.ends)
        tenant.running -= 1
        self._repace()

    def next_event(self) -> tuple[float, Tenant | None]:
        """When the next load or request ends, and where; (infinity, None) when nothing will."""
        at, whose = self.loaded_at, self.loading
        for tenant in self.tenants.values():
            if tenant.ends:
                ends = self.now + max(0.0, tenant.ends[0][0] - tenant.served) / tenant.rate
                if ends < at:
                    at, whose = ends, tenant
        return at, whose

    def elapse(self, until: float) -> None:
        """Let time pass, with nothing ending before `until`."""
        seconds = until - self.now
        if seconds <= 0:
            return
        self.now = until
        active = [tenant for tenant in self.tenants.values() if tenant.running]
        for tenant in active:
            tenant.served += tenant.rate * seconds
            self.meter.work_s += tenant.rate * seconds * tenant.running
        if self.loading is not None:
            self.meter.all_loading_s += seconds
        if active:
            self.meter.active_s += seconds
        elif self.loading is not None:
            self.meter.loading_s += seconds
        else:
            self.meter.idle_s += seconds

    def finish(self, tenant: Tenant) -> Demand | None:
        """End what `next_event` named: the load (None), or the request, which is returned."""
        if tenant.loading:
            tenant.loading, self.loading, self.loaded_at = False, None, math.inf
            self._repace()
            return None
        ends, _, demand = heapq.heappop(tenant.ends)
        tenant.served = max(tenant.served, ends)  # rounding must not leave it a hair short for ever
        tenant.running -= 1
        self._repace()
        return demand

    def _repace(self) -> None:
        active = [tenant for tenant in self.tenants.values() if tenant.running]
        for tenant in active:
            pace = self.card.pace / len(active) * (LOADING_PACE if self.loading is not None else 1.0)
            on_cpu = 1.0 - tenant.vram_gb / tenant.size_gb
            tenant.rate = pace / (1 + BATCH_COST * (tenant.running - 1)) / (1 + CPU_PENALTY * on_cpu)
