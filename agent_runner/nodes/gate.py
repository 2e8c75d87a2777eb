"""Gates: questions that many tasks ask at the same moment, each for its own key, asked once for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

QUIET_S = 0.03
"""Nobody new came for so long: those who are coming are in."""
LONGEST_S = 0.5
MOST_KEYS = 10_000

A = TypeVar("A")
Ask = Callable[[Sequence[str]], Awaitable[Mapping[str, A]]]
"""Keys, each once -> the answer to each."""


class Gates(Generic[A]):
    """Gathers by question. While a question is being asked the next tasks gather, so that more are asked together under
    load."""

    def __init__(self, quiet_s: float = QUIET_S, longest_s: float = LONGEST_S) -> None:
        self._quiet_s = quiet_s
        self._longest_s = longest_s
        self._gatherings: dict[Hashable, _Gathering[A]] = {}  # the newest of each question

    async def ask(self, question: Hashable, key: str, ask: Ask[A]) -> A:
        """The answer for this key; `ask` may be that of any task that it is asked with. Raises what that raises."""
        newest = self._gatherings.get(question)
        if newest is None or not newest.gathers:
            before = newest.task if newest is not None else None
            newest = self._gatherings[question] = _Gathering(ask, before, self._quiet_s, self._longest_s)
        try:
            return await newest.join(key)
        finally:
            if newest.task.done() and self._gatherings.get(question) is newest:
                del self._gatherings[question]


class _Gathering(Generic[A]):
    """Some tasks' keys, asked once. It is given up when all who joined have given up."""

    def __init__(
        self, ask: Ask[A], before: asyncio.Task[Mapping[str, A]] | None, quiet_s: float, longest_s: float
    ) -> None:
        self.gathers = True
        self._ask = ask
        self._keys: dict[str, None] = {}  # in the order in which they came
        self._waiting = 0
        self.task = asyncio.create_task(self._answers(before, quiet_s, longest_s))

    async def join(self, key: str) -> A:
        self._keys[key] = None
        self._waiting += 1
        try:
            return (await asyncio.shield(self.task))[key]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.gathers = False
                self.task.cancel()

    async def _answers(
        self, before: asyncio.Task[Mapping[str, A]] | None, quiet_s: float, longest_s: float
    ) -> Mapping[str, A]:
        if before is not None:
            await asyncio.wait([before])
        try:
            await self._gather(quiet_s, longest_s)
        finally:
            self.gathers = False
        return await self._ask(list(self._keys))

    async def _gather(self, quiet_s: float, longest_s: float) -> None:
        began, known = time.monotonic(), -1
        while known < len(self._keys) < MOST_KEYS and time.monotonic() - began < longest_s:
            known = len(self._keys)
            await asyncio.sleep(quiet_s)
