"""The agent streams: a look at what waits, a decision of scheduler.py, and what follows from it on this GPU."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from agent_runner.capacity import Capacity, model_of
from agent_runner.executions import Execution
from agent_runner.gpu import Gpu
from agent_runner.hands import Hands
from agent_runner.measures import Measures
from agent_runner.news import News
from agent_runner.orphans import Orphans
from agent_runner.programs import Programs
from agent_runner.scheduler import Fill, Model, Policy, Resident, View, next_model, next_tasks, rates_given, victims
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.work import Fetched
from lua.gpu_leases import Lease, LeaseTable, Waiting
from lua.run_store import RunStore
from schemas.keys import FAST_LANE, agent_stream
from schemas.messages import Task

log = logging.getLogger("pavane.runner")

AHEAD_S = 0.02
"""Tasks of a model are fetched ahead for so long: some round trips. What one GPU holds, no other can take."""
IN_USE_MS = 3_600_000
"""A model that was served within this time, or never yet although the engine has it, is in use even if nothing
waits for it: the ageing bound counts it. Else that would be short until the runs come to their later models."""
LOOK_S = 0.02
"""News are looked at once in so long."""
TRIES = 3
"""Decisions on tables that others change meanwhile, before this runner looks again from the start."""


class ModelIntake:
    """Tasks of the models that lie on one GPU. `engine`: the key of its lease."""

    def __init__(
        self, store: RunStore, streams: Streams, settings: RunnerSettings, hands: Hands, gpu: Gpu,
        measures: Measures, *, engine: str, runner_id: str, policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.gpu = gpu
        self.reason = ""  # of the last decision; for people
        self.waits_for: str | None = None  # the runner that drives this engine
        self.waiting: Mapping[str, Waiting] = {}  # as it was at the last look
        self.measures = measures
        self.capacity = Capacity(gpu.guarded, settings, self._options_of)
        self._store = store
        self._streams = streams
        self._settings = settings
        self._hands = hands
        self._engine = engine
        self._runner_id = runner_id
        self._policy = policy or Policy()
        self._programs = Programs(store, capacity=64)
        self._orphans = Orphans(store, streams, settings)
        self._news = News(store, settings.block_ms)
        self._served: set[str] = set()
        self._are_others = False  # other engines are driven, too
        self._looked_at = 0.0
        self._changed = asyncio.Event()
        self._stopped = False

    # -- Intake ------------------------------------------------------------------------------------
    def slots(self, pool: str) -> int:
        return self.gpu.slots(pool)

    async def fetch(self) -> list[Fetched]:
        self._changed.clear()
        table = await self._look()
        view = await self._decide(table)
        if view is None:
            return await self._rest(frozenset())
        fill = next_tasks(view, self._policy)
        self.gpu.refocus(fill.focus)
        if counts := self._counts(view, fill):
            # First what dead runners held: it has waited longest, and a hot stream would never be empty.
            fetched = await self._adopt(counts) or await self._streams.read_each(counts)
            self._served |= {one.pool for one in fetched}
            if fetched:
                return fetched
        return await self._rest(self._of_interest(view))

    async def reclaim(self, most: int) -> list[Fetched]:
        """None here: a model's are taken over where they are served (`fetch`)."""
        if await self._orphans.find():
            self.wake()
        return []

    def wake(self) -> None:
        self._changed.set()

    def stop(self) -> None:
        self._stopped = True
        self.wake()

    async def close(self) -> None:
        await self._news.close()
        if self.waits_for is None:
            await self._store.end_lease(self._engine, self._runner_id)

    async def renew(self) -> None:
        """Of a runner that stops: the engine is its own until its last task has ended."""
        if self._stopped and self.waits_for is None:
            self._has_engine(await self._look())

    def measure(self, pool: str, running: int) -> None:
        """So many slots of the pool are in use from now on."""
        self.measures.executing(pool, running)

    def ended(self, pool: str, *, completed: bool) -> None:
        """An execution of the pool ended."""
        loaded = self.gpu.residents.get(pool)
        if completed and loaded is not None:
            self.measures.completed(pool, loaded.seat.slots)
        else:
            self.measures.disturb(pool)

    def is_stranded(self, execution: Execution) -> bool:
        """Whether it waits for an engine that another runner drives, or that is away for long while others go on."""
        waited_s = 0.0 if execution.ended else self.gpu.waited_s(execution.task)
        if not waited_s:
            return False
        is_away = self.gpu.guarded.held(execution.work.pool) is not None
        return self.waits_for is not None or (
            is_away and self._are_others and waited_s > self._settings.reclaim_idle_ms / 1000
        )

    # -- looking -----------------------------------------------------------------------------------
    async def _look(
        self, claim: str | None = None, version: int | None = None, leaving: Sequence[str] = ()
    ) -> LeaseTable:
        """Renew the lease, with `claim` in the place of `leaving` if the leases are still those of `version`."""
        held = [pool for pool in self.gpu.held_pools() if pool not in leaving]
        held += [claim] if claim is not None else []
        seats = {pool: loaded.seat for pool, loaded in self.gpu.residents.items()}
        rates = {
            pool: self.measures.rate(pool, seats[pool].slots if pool in seats else self._settings.slots)
            for pool in held
        }
        served, self._served = self._served, set()
        lease = Lease(self._engine, self._runner_id, self._settings.gpu, self._settings.kind, rates)
        asked = time.monotonic()
        table = await self._store.lease_models(
            lease, version=version, residents=list(self.gpu.residents), ttl_ms=self._settings.lease_ttl_ms,
            served=sorted(served),
        )  # fmt: skip
        self.waiting = table.waiting
        self._are_others = any(lease.engine != self._engine for lease in table.leases)
        self._looked_at = time.monotonic()
        if table.state != "taken":
            self.gpu.renew(asked + self._settings.lease_ttl_ms / 1000)
        return table

    async def _view(self, table: LeaseTable) -> View:
        """The table as scheduler.py takes it, on this process's clock."""
        now = time.monotonic()
        others = _rates_of_others(table.leases, table.waiting, self._engine)
        pools = {
            *table.waiting,
            *others,
            *self.gpu.residents,
            *self.gpu.needs,
            *self._hands.buffer.pools(),
            *self._orphans,
        }
        await self.capacity.learn(pools)
        self.gpu.guarded.keep({*pools, *self._hands.pools()})
        pools |= {pool for pool in self._news.known if self._is_in_use(pool, table)}
        models = {pool: self._model(pool, table, others.get(pool, 0.0), now) for pool in pools}
        return View(
            now=now,
            gpus=max(len(table.leases), 1),
            memory=self.capacity.memory,
            models=models,
            residents={pool: self._resident(pool) for pool in self.gpu.residents},
            focus=self.gpu.focus,
            focus_since=self.gpu.focus_since,
            target=self.gpu.target,
            switched_at=self.gpu.switched_at,
        )

    def _is_in_use(self, pool: str, table: LeaseTable) -> bool:
        at = table.served.get(pool)
        return self.capacity.has(model_of(pool)) if at is None else table.now - at < IN_USE_MS

    def _model(self, pool: str, table: LeaseTable, others: float, now: float) -> Model:
        waiting = table.waiting.get(pool, Waiting(0, 0, None, None, 0))
        seat = self.capacity.seat(pool, self.measures.memory(pool))
        loaded = self.gpu.residents.get(pool)
        if loaded is not None:
            seat = loaded.seat
        need = self.gpu.needs.get(pool)

        def here(at: int | None) -> float | None:
            return None if at is None else now - max(table.now - at, 0) / 1000

        fast = waiting.interactive + self._orphans.count(pool, fast=True) + (need.count if need is not None else 0)
        fast_heads = (here(waiting.interactive_at), None if need is None else need.since)
        slots = seat.slots if seat is not None else self._settings.slots
        return Model(
            queued=waiting.queued + self._orphans.count(pool, fast=False),
            interactive=fast,
            head_at=here(waiting.head_at),
            interactive_at=min((at for at in fast_heads if at is not None), default=None),
            served_at=here(waiting.served_at) or 0.0,
            rate=self.measures.rate(pool, slots),
            others=0.0 if need is not None else others,  # whoever else has it, these executions are here
            cost_s=self.measures.cost_s(pool),
            memory=seat.memory if seat is not None else self.capacity.memory,
            servable=seat is not None and self.gpu.guarded.held(pool) is None,
        )

    def _resident(self, pool: str) -> Resident:
        loaded = self.gpu.residents[pool]
        return Resident(
            slots=loaded.seat.slots,
            running=self.gpu.running(pool),
            interactive=self._hands.count(pool, interactive=True),
            memory=loaded.seat.memory,
            state=loaded.state,
        )

    # -- deciding ----------------------------------------------------------------------------------
    async def _decide(self, table: LeaseTable) -> View | None:
        """The view after the decision; None where there is nothing to serve: another runner has the engine."""
        for _ in range(TRIES):
            if not self._has_engine(table):
                return None
            view = await self._view(table)
            choice = next_model(view, self._policy)
            self.reason = choice.reason
            if choice.model is None or choice.delay_s > 0:
                self._look_again(choice.delay_s)
                return view
            seat = self.capacity.seat(choice.model, self.measures.memory(choice.model))
            if seat is None or self._stopped:
                return view
            leaving = victims(view, choice.model)
            table = await self._look(choice.model, table.version, leaving)
            if table.state == "held":
                log.info("switches to %s: %s", choice.model, choice.reason)
                self.gpu.switch(seat, leaving)
                return await self._view(table)
        return await self._view(table) if self._has_engine(table) else None

    def _has_engine(self, table: LeaseTable) -> bool:
        if table.state != "taken":
            if self.waits_for is not None:
                log.info("the engine at %s is this runner's now", self._engine)
            self.waits_for = None
            return True
        holder = next((lease.runner_id for lease in table.leases if lease.engine == self._engine), "another runner")
        if self.waits_for != holder:
            log.warning("the engine at %s is driven by %s; this runner waits until that ends", self._engine, holder)
            self.gpu.leave()
            self._hands.buffer.clear()  # not refreshed, it is taken over
        self.waits_for = holder
        self.reason = f"{holder} drives this engine"
        return False

    def _look_again(self, delay_s: float) -> None:
        """A bid: if nobody claims it sooner, this runner does."""
        if delay_s > 0:
            asyncio.get_running_loop().call_later(delay_s, self.wake)

    # -- taking ------------------------------------------------------------------------------------
    def _counts(self, view: View, fill: Fill) -> dict[str, int]:
        """Stream -> how many to read: what the fill says, and some ahead of the focus."""
        counts = {agent_stream(pool) + FAST_LANE: count for pool, count in fill.interactive.items()}
        counts |= {agent_stream(pool): count for pool, count in fill.normal.items()}
        if fill.focus is not None and (resident := view.residents.get(fill.focus)) and resident.state == "ready":
            ahead = self._hands.executions.within(fill.focus, resident.slots, AHEAD_S, self._settings.prefetch)
            taken = fill.normal.get(fill.focus, 0)
            more = min(resident.slots + ahead - resident.running, view.models[fill.focus].queued) - taken
            if more > 0:
                counts[agent_stream(fill.focus)] = taken + more
        return counts

    async def _adopt(self, counts: Mapping[str, int]) -> list[Fetched]:
        """What dead runners held of these streams' models, as many as would be read."""
        taken: list[Fetched] = []
        for pool in self._orphans:
            most = sum(counts.get(agent_stream(pool) + lane, 0) for lane in ("", FAST_LANE))
            taken += await self._orphans.adopt(pool, most) if most else []
        return taken

    def _of_interest(self, view: View) -> frozenset[str] | None:
        """Models whose new tasks may change something; None: all, since this GPU is out of work."""
        ready = {pool: one for pool, one in view.residents.items() if one.state == "ready"}
        if view.target is None and not any(view.models[pool].queued for pool in ready):
            return None
        return frozenset(pool for pool, one in ready.items() if one.running < one.slots)

    async def _rest(self, pools: frozenset[str] | None) -> list[Fetched]:
        """Until something happens in this runner, in a fast lane, or on the streams of these models."""
        if self._stopped or self._changed.is_set():
            return []
        if await self._news.wait(self._changed, pools):
            # Where entries come by the hundred a second, one look serves for many.
            try:
                async with asyncio.timeout(max(self._looked_at + LOOK_S - time.monotonic(), 0.0)):
                    await self._changed.wait()
            except TimeoutError:
                return []
        return []

    async def _options_of(self, pool: str) -> Mapping[str, Any] | None:
        if (need := self.gpu.needs.get(pool)) is not None:
            return need.options
        for lane in (agent_stream(pool), agent_stream(pool) + FAST_LANE):
            for task in await self._streams.oldest(lane):
                if (options := await self._asked_by(task, pool)) is not None:
                    return options
        return {} if pool in self.waiting else None  # tasks of runs that are gone are to be read, and dropped

    async def _asked_by(self, task: Task, pool: str) -> Mapping[str, Any] | None:
        """The options of a task; None where its run is gone, or was patched, or has a broken IR."""
        try:
            program = await self._programs.get(task.digest, task.run_id)
        except (RedisError, OSError):
            raise
        except Exception:  # it fails its own tasks when they are started
            return None
        node = program.ir.nodes.get(task.node_id) if program is not None else None
        return dict(node.config.get("options") or {}) if node is not None and node.analysis.pool == pool else None


def _rates_of_others(leases: Sequence[Lease], waiting: Container[str], engine: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    for lease in leases:
        if lease.engine != engine:
            for pool, rate in rates_given(lease.models, waiting).items():
                rates[pool] = rates.get(pool, 0.0) + max(rate, 1e-9)
    return rates
