"""One engine behind breakers, one for itself and one for each pool: whose fault is it when something fails?

- The engine is not there, or does not answer: all streams wait until it does.
- A model is missing, does not load, is busy, or answers not even a simple question: its stream waits, others go on.
- Anything else is the failure of the one item that asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agent_runner.breaker import Breaker
from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    Engine,
    EngineAway,
    EngineError,
    Footprint,
    Resident,
    short_name,
)

log = logging.getLogger("pavane.runner")

T = TypeVar("T")
Probe = Callable[[], Awaitable[bool]]
GB = 10**9

ANSWER_S = 2.0
"""A short question that has no answer by then counts as unanswered."""
PATIENCE = 3
"""So many short questions unanswered in a row, and nothing else answered between: the engine hangs."""
LOADING_PATIENCE = 15
"""The same while a model is loaded: engines answer slowly then."""
LONGEST_LOAD_PAUSE_S = 300.0
"""Between two tries to load a model that does not load: each costs a drain, and the loads of what it displaced."""
LISTED_S = 1.0
"""How long the list of the engine's models serves all that wait for one."""
SIMPLE_S = 30.0
"""For the answer to the simple question, which waits in the engine behind what runs there."""
_NOBODYS = frozenset({"not_found", "engine_busy", "rate_limit"})
"""Failures that every item of the model would meet now."""


class EngineHeld(Exception):
    """Nobody's fault: wait until it is not held any more, and ask again. `pool` None: the engine as a whole."""

    def __init__(self, reason: str, pool: str | None = None) -> None:
        super().__init__(reason if pool is None else f"{pool}: {reason}")
        self.pool = pool
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Held:
    """What an open breaker says: since when (seconds since the epoch), and why."""

    since: float
    reason: str


@dataclass(slots=True)
class _Pool:
    breaker: Breaker
    until: Probe | None = None  # what must be true before it is tried again
    worked_at: float = float("-inf")  # when a load or a chat last succeeded, on the monotonic clock
    in_doubt: asyncio.Lock = field(default_factory=asyncio.Lock)


class GuardedEngine:
    """An engine behind its breakers. `changed` is called after every change of what is held."""

    def __init__(
        self, engine: Engine, *, changed: Callable[[], None], first_probe_s: float = 0.1, longest_probe_s: float = 10.0
    ) -> None:
        """The probes' pauses go from `first_probe_s` to `longest_probe_s`."""
        self.engine = engine
        self.breaker = Breaker(self._answers, changed, first_s=first_probe_s, longest_s=longest_probe_s)
        self._changed = changed
        self._first_s = first_probe_s
        self._longest_s = longest_probe_s
        self._pools: dict[str, _Pool] = {}
        self._asking: set[asyncio.Timeout] = set()  # one for each chat and load under way
        self._loading = 0
        self._silent = 0  # short questions unanswered in a row
        self._in_doubt = asyncio.Lock()
        self._doubting: asyncio.Task[None] | None = None
        self._list: asyncio.Future[Container[str]] | None = None
        self._list_asked_at = float("-inf")

    # -- what is held ------------------------------------------------------------------------------
    def held(self, pool: str | None = None) -> str | None:
        """Why the engine, or this pool on it, is held; None: it may be used."""
        if self.breaker.is_open:
            return self.breaker.reason
        known = self._pools.get(pool) if pool is not None else None
        return known.breaker.reason if known is not None and known.breaker.is_open else None

    def breakers(self) -> Mapping[str, Held]:
        """By pool, those that are held for their own sake."""
        named = ((name, pool.breaker) for name, pool in self._pools.items())
        return {name: Held(one.opened_at, one.reason) for name, one in named if one.opened_at is not None}

    def hold(self, name: str, reason: str, *, until: Probe | None = None, longest_s: float | None = None) -> EngineHeld:
        """Hold a pool, tried or not, for a pause of at most `longest_s`, and then until `until` answers true."""
        pool = self._pool(name)
        if not pool.breaker.is_open:
            pool.until = until
            pool.breaker.trip(reason, longest_s=self._longest_s if longest_s is None else longest_s)
        return EngineHeld(pool.breaker.reason, name)

    def hold_missing(self, name: str, model: str, reason: str) -> EngineHeld:
        """Hold a pool until the engine says that it has the model."""

        async def is_there() -> bool:
            return short_name(model) in await self._listed()

        return self.hold(name, reason, until=is_there)

    def keep(self, pools: Container[str]) -> None:
        """Forget the breakers of all other pools: nobody asks for them any more."""
        for name in [name for name in self._pools if name not in pools]:
            self._pools.pop(name).breaker.drop()

    async def _listed(self) -> Container[str]:
        """The models that the engine has, asked once for all that wait for one."""
        if self._list is None or time.monotonic() - self._list_asked_at > LISTED_S:
            self._list_asked_at = time.monotonic()
            self._list = asyncio.ensure_future(self._ask_list())
        return await asyncio.shield(self._list)

    async def _ask_list(self) -> Container[str]:
        try:
            async with asyncio.timeout(ANSWER_S):
                return frozenset(map(short_name, await self.engine.models()))
        except (EngineError, TimeoutError):
            return frozenset()

    async def until_closed(self, pool: str) -> None:
        """Returns when neither the engine nor the pool is held."""
        while self.held(pool) is not None:
            await self.breaker.closed()
            await self._pool(pool).breaker.closed()

    async def close(self) -> None:
        """Stop probing and let go of the engine. What it has loaded stays loaded."""
        if self._doubting is not None:
            self._doubting.cancel()
            await asyncio.gather(self._doubting, return_exceptions=True)
        await self.breaker.close()
        for pool in self._pools.values():
            await pool.breaker.close()
        await self.engine.close()

    # -- what is asked -----------------------------------------------------------------------------
    async def load(self, pool: str, model: str, options: Mapping[str, Any]) -> int:
        """Load the model; how long that took, in ms. Raises EngineHeld: the pool is held now, or the engine."""
        self._admit(pool)
        self._loading += 1
        try:
            reply = await self._within(None, self.engine.load(model, options))
        except EngineError as error:
            await self._blame_engine(error)
            raise await self._not_loaded(pool, model, options, error) from None
        finally:
            self._loading -= 1
        self._worked(pool)
        return reply.load_ms

    async def unload(self, pool: str, model: str) -> None:
        """Let the model go. Raises EngineHeld when the engine is away; other failures are only logged."""
        self._admit()
        try:
            await self.engine.unload(model)
        except EngineAway as error:
            raise self._away(error.message) from None
        except EngineError as error:
            log.info("%s was not unloaded: %s", pool, error.message)

    async def chat(self, pool: str, request: ChatRequest) -> ChatReply:
        """Ask the model. Raises EngineError, the request's own failure, or EngineHeld: it may be asked again later."""
        self._admit(pool)
        try:
            reply = await self._within(request.timeout_s, self.engine.chat(request))
        except EngineError as error:
            await self._blame_engine(error)
            await self._blame_model(pool, request, error)
            raise
        self._worked(pool)
        return reply

    async def look(self) -> list[Resident] | None:
        """What the engine has loaded; None while it cannot be asked. Takes ANSWER_S at most; to be asked regularly,
        since this is how an engine that hangs is noticed.
        """
        if self.breaker.is_open:
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                residents = await self.engine.residents()
        except EngineAway as error:
            self._away(error.message)
        except (EngineError, TimeoutError):
            self._silent += 1
            if self._doubting is None or self._doubting.done():
                self._doubting = asyncio.create_task(self._doubt())
        else:
            self._silent = 0
            return residents
        return None

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        """What the model takes of the GPU's memory; None where that cannot be known now."""
        if self.breaker.is_open:
            return None
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self.engine.footprint(model, options)
        except (EngineError, TimeoutError):
            return None

    # -- the engine's fault ------------------------------------------------------------------------
    def _admit(self, pool: str | None = None) -> None:
        if (reason := self.held(pool)) is not None:
            raise EngineHeld(reason, None if self.breaker.is_open else pool)

    def _away(self, reason: str) -> EngineHeld:
        self.breaker.trip(reason)
        return EngineHeld(self.breaker.reason)

    async def _blame_engine(self, error: EngineError) -> None:
        """Raises EngineHeld if it failed because the engine is away, or answers nothing at all any more."""
        if isinstance(error, EngineAway):
            raise self._away(error.message) from None
        if error.klass == "timeout":
            async with self._in_doubt:  # one question is enough for all that timed out together
                if not self.breaker.is_open and not await self._answers():
                    raise self._away(f"{error.message}, nor to a short question") from None
        if self.breaker.is_open and error.retryable:
            raise EngineHeld(self.breaker.reason) from None

    async def _answers(self) -> bool:
        """Whether the engine answers a short question. After too many unanswered in a row it hangs."""
        try:
            async with asyncio.timeout(ANSWER_S):
                answers = await self.engine.healthy()
        except TimeoutError:
            answers = False
        self._silent = 0 if answers else self._silent + 1
        if self._silent >= (LOADING_PATIENCE if self._loading else PATIENCE):
            self.breaker.trip(f"{self.engine.url} does not answer")
            self._free()
        return answers

    async def _doubt(self) -> None:
        """Ask again until it answers, or is held."""
        while not self.breaker.is_open:
            await asyncio.sleep(self._first_s)
            if await self._answers():
                return

    def _free(self) -> None:
        """What waits for the engine gets EngineHeld now, instead of waiting for its own timeout."""
        while self._asking:
            timeout = self._asking.pop()
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    async def _within(self, limit_s: float | None, asked: Awaitable[T]) -> T:
        """The answer. Raises EngineError: EngineAway too where the engine was found to hang meanwhile."""
        timeout = asyncio.timeout(limit_s)
        self._asking.add(timeout)
        try:
            async with timeout:
                return await asked
        except TimeoutError:
            if timeout not in self._asking:  # freed
                raise EngineAway(f"{self.engine.url} does not answer") from None
            raise EngineError("timeout", f"no answer within {limit_s or 0:g} s") from None
        finally:
            self._asking.discard(timeout)

    # -- the model's fault -------------------------------------------------------------------------
    def _pool(self, name: str) -> _Pool:
        if name not in self._pools:

            async def may_be_tried() -> bool:
                return pool.until is None or await pool.until()

            breaker = Breaker(may_be_tried, self._changed, name=name, first_s=self._first_s)
            self._pools[name] = pool = _Pool(breaker)
        return self._pools[name]

    def _worked(self, name: str) -> None:
        pool = self._pool(name)
        pool.worked_at = time.monotonic()
        pool.breaker.mend()
        self._silent = 0
        self.breaker.mend()

    async def _not_loaded(self, pool: str, model: str, options: Mapping[str, Any], error: EngineError) -> EngineHeld:
        if error.klass in _NOBODYS:
            return self._unavailable(pool, model, error)
        size = await self.footprint(model, options)
        least = size and size.memory(1)
        needs = f" (it takes {least / GB:.1f} GB with one slot)" if least else ""
        return self.hold(pool, f"not loaded: {error.message}{needs}", longest_s=LONGEST_LOAD_PAUSE_S)

    def _unavailable(self, pool: str, model: str, error: EngineError) -> EngineHeld:
        if error.klass == "not_found":
            return self.hold_missing(pool, model, error.message)
        return self.hold(pool, error.message)

    async def _blame_model(self, pool: str, request: ChatRequest, error: EngineError) -> None:
        """Raises EngineHeld if whatever is asked of the model would fail like this now."""
        if error.klass in _NOBODYS:
            raise self._unavailable(pool, request.model, error) from None
        if error.klass != "connection":
            return
        failed_at = time.monotonic()
        async with self._pool(pool).in_doubt:  # one question is enough for all that failed together
            self._admit(pool)
            if self._pool(pool).worked_at <= failed_at:
                await self._ask_something_simple(pool, request)

    async def _ask_something_simple(self, pool: str, request: ChatRequest) -> None:
        """A model that answers this is not to blame for what failed. Raises EngineHeld if it does not."""
        simple = ChatRequest(request.model, "Say yes.", SIMPLE_S, options={**request.options, "num_predict": 1})
        try:
            await self._within(SIMPLE_S, self.engine.chat(simple))
        except EngineError as error:
            await self._blame_engine(error)
            if error.retryable or error.klass in _NOBODYS:  # else it did answer: that it wants to be asked otherwise
                raise self._unavailable(pool, request.model, error) from None
        self._worked(pool)
