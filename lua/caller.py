"""Calling scripts: by their hash, many in one round trip, with the server's time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from lua.script import Script, load_script
from schemas.keys import Keys

CLOCK_S = 30
"""How long the server's time is kept before it is asked for again."""

Clock = Callable[[], Awaitable[int]]
"""Gives the time in ms since the epoch."""


class Caller:
    """Calls the scripts of one shard on one Redis."""

    def __init__(self, redis: Redis, keys: Keys, *, clock: Clock | None = None) -> None:
        """`clock` stands in for the server's time where time is passed in."""
        self.redis: Any = redis  # redis-py types every answer as bytes or str or more; here they are bytes
        self.keys = keys
        self._clock = clock
        self._scripts: dict[str, Script] = {}
        self._offset_ms = 0.0  # from this machine's clock to the server's
        self._asked_at = float("-inf")

    async def now(self) -> int:
        """The server's time in ms: asked now and then, kept by this machine's clock in between."""
        if self._clock is not None:
            return await self._clock()
        here = time.time()
        # The wall clock sees that a machine was suspended; one that was set back is asked about too.
        if not 0 <= here - self._asked_at < CLOCK_S:
            seconds, micros = await self.redis.time()
            here = self._asked_at = time.time()
            self._offset_ms = seconds * 1_000 + micros / 1_000 - here * 1_000
        return int(here * 1_000 + self._offset_ms)

    def _script(self, name: str) -> Script:
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = load_script(name)
        return script

    async def _call(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return (await self._call_many(name, [(keys, args)]))[0]

    async def _call_each(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """EVALSHA for each call, in one round trip; where the server has forgotten the script, once more. A call that
        the server refuses has its ResponseError for an answer.

        redis-py's own Script object asks SCRIPT EXISTS with every pipeline.
        """
        if not calls:
            return []
        script = self._script(name)
        answers = await self._evalsha(script, calls)
        missing = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if missing:
            await self.redis.script_load(script.source)
            again = await self._evalsha(script, [calls[i] for i in missing])
            for i, answer in zip(missing, again, strict=True):
                answers[i] = answer
        return answers

    async def _call_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        """As `_call_each`. Raises ResponseError if the server refuses one of them."""
        answers = await self._call_each(name, calls)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _evalsha(self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Any]]]) -> list[Any]:
        if len(calls) == 1:
            keys, args = calls[0]
            try:
                return [await self.redis.evalsha(script.sha, len(keys), *keys, *args)]
            except ResponseError as error:
                return [error]
        pipe = self.redis.pipeline(transaction=False)
        for keys, args in calls:
            pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
        return list(await pipe.execute(raise_on_error=False))

    async def _of_run(self, name: str, run_id: str, *args: Any) -> list[str]:
        """A script whose arguments begin with prefix, run and now."""
        full = [self.keys.prefix, run_id, await self.now(), *args]
        return texts(await self._call(name, [self.keys.run(run_id)], full))


def texts(answer: Sequence[bytes | int] | ResponseError) -> list[str]:
    """An answer as text; `refused` and why for one that the server refused."""
    if isinstance(answer, ResponseError):
        return ["refused", str(answer)]
    return [part.decode() if isinstance(part, bytes) else str(part) for part in answer]
