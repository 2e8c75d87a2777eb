"""Which models are on the card and who waits for them: Ollama's own scheduling (its server/sched.go). Pure.

- A request for a loaded model joins it at once, however many wait there, even while it is being drained.
- Every other request waits in one queue, first in first out, bounded: past the bound it is refused. The head
  loads when its model fits; else it expires a victim and blocks the queue until something has been unloaded.
- The victim is an idle model, of those the one with the shortest keep-alive, then by name; when none is idle,
  the same order among all. It is not the least recently used.
- Other load-time options for a loaded model make that model the victim: it drains, and is loaded again.
- After an unload the card's memory is back at the first look, a quarter of a second later.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable

from agent_runner.engines.simulated.gpu import Demand, Gpu, Tenant

RECOVERY_S = 0.25
DEFAULT_KEEP_ALIVE_S = 300.0


class QueueFull(Exception):
    """The queue for models that are not loaded is at OLLAMA_MAX_QUEUE."""


class Residency:
    """Feeds one Gpu. Call `advance` with the time first, then `submit`, `cancel` or `expire`.

    A demand's `ended` only takes note: it must not call back in here.
    """

    def __init__(
        self,
        gpu: Gpu,
        *,
        max_loaded: int = 3,
        max_queue: int = 512,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
    ) -> None:
        self.gpu = gpu
        self.queue: deque[Demand] = deque()
        self._head: Demand | None = None  # taken from the queue, where it no longer counts
        self._max_loaded = max_loaded
        self._max_queue = max_queue
        self._keep_alive_s = keep_alive_s
        self._draining = False
        self._recovering = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def pending(self) -> int:
        """Requests that wait for a model to be loaded."""
        return len(self.queue) + (self._head is not None)

    def submit(self, demand: Demand) -> None:
        """Take a request at the present time. Raises QueueFull."""
        demand.arrived_at = self.gpu.now
        tenant = self.gpu.tenants.get(demand.spec.name)
        if tenant is not None and tenant.options == demand.options:
            self._join(tenant, demand)
            return
        if len(self.queue) >= self._max_queue:
            raise QueueFull
        demand.state = "queued"
        self.queue.append(demand)
        self._serve_queue()

    def cancel(self, demand: Demand) -> None:
        """The client has gone: whatever the request held is free."""
        state = demand.state
        if state in ("new", "ended", "cancelled"):
            return
        demand.state = "cancelled"
        if state == "queued":
            return  # it keeps its place until it comes to the head, and is dropped there
        tenant = self.gpu.tenants[demand.spec.name]
        if state == "running":
            self.gpu.withdraw(tenant, demand)
        else:
            tenant.requests.remove(demand)
        self._release(tenant)

    def expire(self, model: str) -> None:
        """Unload a model as soon as nobody uses it (`keep_alive: 0`)."""
        tenant = self.gpu.tenants.get(model)
        if tenant is not None:
            self._expire(tenant)

    def next_at(self) -> float:
        """When something will happen by itself; infinity when nothing will."""
        return min(self.gpu.next_event()[0], self._timers[0][0] if self._timers else math.inf)

    def advance(self, to: float) -> None:
        """Let time pass up to `to`, each thing happening at its own moment."""
        while (at := self.next_at()) <= to:
            whose = self.gpu.next_event()[1]
            if self._timers and self._timers[0][0] <= at:
                _, _, fire = heapq.heappop(self._timers)
                self.gpu.elapse(at)
                fire()
            elif whose is not None:
                self.gpu.elapse(at)
                self._finish(whose)
        self.gpu.elapse(to)

    def _finish(self, tenant: Tenant) -> None:
        demand = self.gpu.finish(tenant)
        if demand is not None:
            self._end(tenant, demand)
            return
        joined, tenant.requests = tenant.requests, []
        for waiting in joined:
            self._grant(tenant, waiting)
        if not joined:
            self._idle(tenant)  # all who asked for it have gone
        self._serve_queue()

    def _join(self, tenant: Tenant, demand: Demand) -> None:
        tenant.holders += 1
        tenant.expires_at = math.inf
        if demand.keep_alive_s is not None:
            tenant.keep_alive_s = demand.keep_alive_s
        if tenant.loading:
            demand.state = "joining"
            tenant.requests.append(demand)
        else:
            self._grant(tenant, demand)

    def _grant(self, tenant: Tenant, demand: Demand) -> None:
        demand.granted_at = self.gpu.now
        if demand.work_s is None:
            self._end(tenant, demand)
        elif tenant.running < tenant.slots:
            self.gpu.start(tenant, demand)
        else:
            demand.state = "waiting"
            tenant.requests.append(demand)

    def _end(self, tenant: Tenant, demand: Demand) -> None:
        demand.state, demand.ended_at = "ended", self.gpu.now
        self._release(tenant)
        demand.ended(demand)

    def _release(self, tenant: Tenant) -> None:
        """One request less on a model: the next waiting one gets its slot, or the model is idle."""
        tenant.holders -= 1
        if tenant.loading:
            return
        while tenant.requests and tenant.running < tenant.slots:
            self.gpu.start(tenant, tenant.requests.pop(0))
        if tenant.holders == 0:
            self._idle(tenant)

    def _idle(self, tenant: Tenant) -> None:
        if tenant.keep_alive_s <= 0:
            self._unload(tenant)
            return
        tenant.expires_at = self.gpu.now + tenant.keep_alive_s
        if tenant.expires_at < math.inf:
            self._at(tenant.expires_at, lambda: self._on_expiry(tenant))

    def _on_expiry(self, tenant: Tenant) -> None:
        """A keep-alive ran out; it counts only if no request came since."""
        if tenant.expires_at <= self.gpu.now and self.gpu.tenants.get(tenant.spec.name) is tenant:
            self._unload(tenant)

    def _expire(self, tenant: Tenant) -> None:
        tenant.keep_alive_s, tenant.expires_at = 0.0, math.inf
        if tenant.holders == 0 and not tenant.loading:
            self._unload(tenant)

    def _unload(self, tenant: Tenant) -> None:
        self.gpu.evict(tenant)
        self._recovering += 1
        self._at(self.gpu.now + RECOVERY_S, self._on_recovered)

    def _on_recovered(self) -> None:
        self._recovering -= 1
        self._draining = False
        self._serve_queue()

    def _serve_queue(self) -> None:
        """Serve the queue's head, and the next, until one has to wait for a load, a drain or memory."""
        while True:
            if self._head is None or self._head.state == "cancelled":
                if not self.queue:
                    self._head = None
                    return
                self._head = self.queue.popleft()
                continue
            if self._draining or not self._admit(self._head):
                return
            self._head = None

    def _admit(self, demand: Demand) -> bool:
        """Give the head its model; False when it has to wait, with a victim expired if it needs one."""
        tenant = self.gpu.tenants.get(demand.spec.name)
        if tenant is not None and tenant.options == demand.options:
            self._join(tenant, demand)
            return True
        if self.gpu.loading is not None or self._recovering:
            return False
        full = len(self.gpu.tenants) >= self._max_loaded
        if tenant is None and not full and self.gpu.fits(demand.spec, demand.options):
            keep_alive = self._keep_alive_s if demand.keep_alive_s is None else demand.keep_alive_s
            self._join(self.gpu.load(demand.spec, demand.options, keep_alive), demand)
            return True
        self._draining = True
        self._expire(tenant or self._victim())
        return False

    def _victim(self) -> Tenant:
        return min(self.gpu.tenants.values(), key=lambda t: (t.holders > 0, t.keep_alive_s, t.spec.name))

    def _at(self, when: float, fire: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), fire))
