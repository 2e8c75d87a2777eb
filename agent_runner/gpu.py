"""A GPU's memory: which models are in it, and how they come and go. Effects only; scheduler.py decides."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from agent_runner.capacity import Seat
from agent_runner.engine_time import Cost, EngineTime
from agent_runner.engines.engine import ChatReply, ChatRequest, EngineError, Resident, short_name
from agent_runner.engines.fence import NotOurs
from agent_runner.guarded_engine import EngineHeld, GuardedEngine
from agent_runner.hands import Hands
from agent_runner.measures import Measures
from agent_runner.wakeup import Wakeup

log = logging.getLogger("pavane.runner")

T = TypeVar("T")

CRASHES = 5
"""So often an engine may go away while it answers one request; then the request fails, as any other may."""
SUSPECT = 2
"""After so many crashes, a request is asked while no other such one is: one that brings the engine down fails alone."""


@dataclass(eq=False, slots=True)
class Loaded:
    """A model in memory, or on its way in or out. `load_ms`: of a load that no execution has used yet."""

    seat: Seat
    state: Literal["loading", "ready", "draining"] = "loading"
    load_ms: int = 0


@dataclass(eq=False, slots=True)
class Need:
    """Executions that wait until their model is in memory: it went while they did something else."""

    since: float
    options: Mapping[str, Any]
    count: int = 0


@dataclass(eq=False, slots=True)
class Clock:
    """Seconds of something that goes on and off."""

    total_s: float = 0.0
    _since: float | None = None

    @property
    def is_on(self) -> bool:
        return self._since is not None

    @property
    def seconds(self) -> float:
        return self.total_s + (time.monotonic() - self._since if self._since is not None else 0.0)

    def turn(self, on: bool) -> None:
        if on and self._since is None:
            self._since = time.monotonic()
        elif not on and self._since is not None:
            self.total_s, self._since = self.seconds, None


class Gpu:
    """The models of one engine. Loading and unloading is explicit, so that no task's timeout pays for it.

    Times are of this process's monotonic clock, in seconds. `changed` is called whenever a decision may come out
    differently.
    """

    def __init__(self, guarded: GuardedEngine, hands: Hands, measures: Measures, changed: Callable[[], None]) -> None:
        self.guarded = guarded
        self.residents: dict[str, Loaded] = {}
        self.target: str | None = None
        self.focus: str | None = None
        self.focus_since = 0.0
        self.switched_at = float("-inf")
        self.loads: Counter[str] = Counter()  # in this runner's life, by pool
        self.needs: dict[str, Need] = {}
        self.active, self.loading, self.loading_alone = Clock(), Clock(), Clock()  # loading_alone: nothing runs beside
        self._ours_until = float("inf")
        self._hands = hands
        self._measures = measures
        self._changed = changed
        self._waiting: Counter[str] = Counter()
        self._waits_since: dict[asyncio.Task[Any] | None, float] = {}  # by the task that executes
        self._time = EngineTime()
        self._freed, self._arrived = Wakeup(), asyncio.Event()
        self._suspect = asyncio.Lock()  # whoever is asked, of those that the engine has gone away with
        self._switching: asyncio.Task[None] | None = None
        guarded.engine.fence.may_send = lambda: self._is_ours

    # -- what is there -----------------------------------------------------------------------------
    def slots(self, pool: str) -> int:
        """Tasks of the pool that may be executed at once: its requests are taken while it is in memory."""
        loaded = self.residents.get(pool)
        return loaded.seat.slots if loaded is not None and self._can_ask(pool) and not self.guarded.held(pool) else 0

    def held_pools(self) -> list[str]:
        """In memory, on its way there, or chosen as the next. What goes, or is held here, others may take over."""
        staying = [pool for pool, loaded in self.residents.items() if loaded.state != "draining"]
        held = [*staying, *([self.target] if self.target is not None else [])]
        return [pool for pool in held if self.guarded.held(pool) is None]

    def refocus(self, pool: str | None) -> None:
        if pool != self.focus:
            self.focus, self.focus_since = pool, time.monotonic()

    def running(self, pool: str) -> int:
        """Tasks of the pool in this runner's hands, but for those that wait for an engine."""
        there = self._hands.busy(pool) if self.guarded.held(pool) else self._hands.count(pool)
        return max(there - self._waiting[pool], 0)

    def waited_s(self, executing: asyncio.Task[Any] | None) -> float:
        """How long an execution has waited for its model or its engine; 0 if it does not."""
        now = time.monotonic()
        return now - self._waits_since.get(executing, now)

    @property
    def waiting(self) -> int:
        """Executions that wait for their model or their engine."""
        return sum(self._waiting.values())

    @property
    def _is_ours(self) -> bool:
        """Whether this runner drives the engine for certain: one that stood still finds that out by its next look."""
        return time.monotonic() < self._ours_until

    def renew(self, until: float) -> None:
        """The lease lasts until then."""
        was_ours, self._ours_until = self._is_ours, until
        if not was_ours:
            self._arrived.set()
            self._changed()

    def look_again(self) -> None:
        """Something in this runner's hands has changed."""
        self._meter()
        self._freed.notify()

    # -- the executions' side ----------------------------------------------------------------------
    async def chat(self, pool: str, request: ChatRequest, cost: Cost | None = None) -> ChatReply:
        """Ask the model, however long it or the engine is away meanwhile. What that took is added to `cost`.

        Raises EngineError. The request's timeout begins anew with each try.
        """
        crashes, cost = 0, cost or Cost()
        while True:
            if not self._can_ask(pool):
                await self._until_there(pool, request.options, cost)
            try:
                async with self._suspect if crashes >= SUSPECT else nullcontext():
                    if not self._can_ask(pool):  # it went away with another suspect
                        continue
                    return await self._ask(pool, request, cost)
            except NotOurs:
                continue
            except EngineHeld as held:
                if held.pool is None:
                    self.lose()
                    crashes += 1
                if crashes == CRASHES:
                    raise EngineError("connection", f"the engine went away {crashes} times: {held.reason}") from None
                with self._aside(pool, cost):
                    await self.guarded.until_closed(pool)

    async def _ask(self, pool: str, request: ChatRequest, cost: Cost) -> ChatReply:
        loaded = self.residents[pool]
        cost.load_ms, loaded.load_ms = cost.load_ms + loaded.load_ms, 0
        mark = self._time.begin(time.monotonic())
        try:
            reply = await self.guarded.chat(pool, request)
        finally:
            cost.gpu_ms += self._time.end(mark, time.monotonic()) * 1000
        cost.wait_ms += reply.wait_ms
        return reply

    def _can_ask(self, pool: str) -> bool:
        loaded = self.residents.get(pool)
        return loaded is not None and loaded.state != "loading" and self._is_ours

    async def _until_there(self, pool: str, options: Mapping[str, Any], cost: Cost) -> None:
        need = self.needs.setdefault(pool, Need(time.monotonic(), options))
        need.count += 1
        try:
            with self._aside(pool, cost):
                while not self._can_ask(pool):
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            need.count -= 1
            if not need.count:
                self.needs.pop(pool, None)

    @contextmanager
    def _aside(self, pool: str, cost: Cost) -> Iterator[None]:
        """An execution that waits keeps its slot, and nothing else from going on."""
        self._waiting[pool] += 1
        self._waits_since[asyncio.current_task()] = time.monotonic()
        self._measures.disturb(pool)
        self.look_again()
        self._changed()
        try:
            yield
        finally:
            self._waiting[pool] -= 1
            cost.held_ms += round((time.monotonic() - self._waits_since.pop(asyncio.current_task())) * 1000)
            self._measures.disturb(pool)
            self._meter()

    # -- switches ----------------------------------------------------------------------------------
    def switch(self, seat: Seat, leaving: Sequence[str]) -> None:
        """Begin: let `leaving` end their tasks, unload them, load the model of `seat`. One at a time."""
        assert self._switching is None or self._switching.done()
        # An engine holds a model once: with other load-time options it is loaded in its own place.
        twins = [pool for pool, loaded in self.residents.items() if loaded.seat.model == seat.model]
        away = [pool for pool in dict.fromkeys([*leaving, *twins]) if pool in self.residents]
        for pool in away:
            self.residents[pool].state = "draining"
        self.target = seat.pool
        self._switching = asyncio.create_task(self._switch(seat, away))

    async def _switch(self, seat: Seat, leaving: Sequence[str]) -> None:
        began = time.monotonic()
        try:
            await self._freed.until(lambda: self._is_ours and not any(map(self.running, leaving)))
            for pool in leaving:
                await self._while_ours(partial(self._unload, pool))
            await self._make_room(seat)
            drained = time.monotonic()
            had_to_load = await self._load(seat)
            self.switched_at = time.monotonic()
            if had_to_load:
                self._measures.take(seat.pool, "drain_s", drained - began)
                self._measures.take(seat.pool, "load_s", self.switched_at - drained)
        except EngineHeld as held:
            if held.pool is None:
                self.lose()
        except Exception as error:  # an adapter's bug; what it has done is not known
            log.exception("the switch to %s failed", seat.pool)
            self.guarded.hold(seat.pool, f"not loaded: {error}")
            self.lose()
        finally:
            if (loaded := self.residents.get(seat.pool)) is not None and loaded.state == "loading":
                del self.residents[seat.pool]
            self.target = None
            self._meter()
            self._arrived.set()
            self._changed()

    async def _unload(self, pool: str) -> None:
        loaded = self.residents.get(pool)
        if loaded is not None:
            await self.guarded.unload(pool, loaded.seat.model)
            self.residents.pop(pool, None)
            self._changed()

    async def _make_room(self, seat: Seat) -> None:
        """What somebody else has loaded into this engine goes before ours does not fit."""
        ours = {short_name(loaded.seat.model) for loaded in self.residents.values()}
        others = [
            one
            for one in await self.guarded.look() or ()
            if short_name(one.model) not in ours | {short_name(seat.model)}
        ]
        free = seat.capacity - sum(loaded.seat.memory for loaded in self.residents.values())
        for other in others if seat.memory > free - sum(one.size_vram for one in others) else ():
            log.warning("%s, which somebody else has loaded, makes room for %s", other.model, seat.pool)
            await self._while_ours(partial(self.guarded.unload, other.model, other.model))

    async def _load(self, seat: Seat) -> bool:
        """Whether it had to be loaded: an engine may have kept it."""
        was_there = (
            short_name(seat.model) in [one.model for one in await self.guarded.look() or ()] and not seat.options
        )
        self.residents[seat.pool] = Loaded(seat)
        self.target = None
        self._meter()
        load_ms = await self._while_ours(partial(self.guarded.load, seat.pool, seat.model, seat.options))
        if seat.pool not in self.residents:  # given up meanwhile
            return False
        self.residents[seat.pool].state = "ready"
        if not was_there:
            self.residents[seat.pool].load_ms = load_ms
            self.loads[seat.pool] += 1
            log.info("loaded %s in %d ms", seat.pool, load_ms)
        return not was_there

    async def _while_ours(self, act: Callable[[], Awaitable[T]]) -> T:
        """What `act` gives, which has an effect on the engine. A runner that stood still in between first looks whose
        that is: it goes on when it is its own still, and leaves (`leave`) when it is another's."""
        while True:
            while not self._is_ours:
                self._arrived.clear()
                await self._arrived.wait()
            try:
                return await act()
            except NotOurs:
                continue

    def leave(self) -> None:
        """Another runner has the engine: a switch that was under way is none of ours."""
        if self._switching is not None:
            self._switching.cancel()
        self.residents.clear()
        self._changed()

    def lose(self) -> None:
        """The engine went away: what it holds is not known any more."""
        for pool in [pool for pool, loaded in self.residents.items() if loaded.state != "loading"]:
            del self.residents[pool]
        self._freed.notify()
        self._changed()

    # -- the engine's side -------------------------------------------------------------------------
    async def look(self) -> Sequence[Resident]:
        """What the engine says that it holds. Of ours, what it does not hold any more is loaded again when wanted."""
        before = {pool: loaded for pool, loaded in self.residents.items() if loaded.state == "ready"}
        found = await self.guarded.look()
        if found is None:
            return ()
        there = {short_name(one.model): one for one in found}
        for pool, loaded in before.items():
            one = there.get(short_name(loaded.seat.model))
            if self.residents.get(pool) is not loaded or loaded.state != "ready":
                continue
            if one is None:
                log.warning("%s is not in the engine's memory any more", pool)
                del self.residents[pool]
                self._changed()
            elif one.size and loaded.seat.measured != one.size:
                if one.size_vram < one.size:
                    log.warning(
                        "%s does not fit: %.1f of %.1f GB are on the GPU", pool, one.size_vram / 1e9, one.size / 1e9
                    )
                loaded.seat = replace(loaded.seat, memory=one.size, measured=one.size)
                self._measures.take(pool, "memory", one.size)
        return found

    async def close(self) -> None:
        """Let go what was loaded here: it was pinned, and the GPU is somebody else's now."""
        if self._switching is not None:
            self._switching.cancel()
            await asyncio.gather(self._switching, return_exceptions=True)
        try:
            for pool in list(self.residents) if self._is_ours else ():
                await self._unload(pool)
        except (EngineHeld, NotOurs) as held:
            log.info("models stay loaded: %s", held or "the engine may be another runner's")
        finally:
            await self.guarded.close()

    def _meter(self) -> None:
        is_loading = any(loaded.state == "loading" for loaded in self.residents.values())
        is_active = self._hands.executions.running > self.waiting
        self.active.turn(is_active)
        self.loading.turn(is_loading)
        self.loading_alone.turn(is_loading and not is_active)
