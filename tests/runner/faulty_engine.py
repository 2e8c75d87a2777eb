"""An engine that fails where a test says so, and what stands before it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    EngineError,
    Footprint,
    LoadReply,
    Resident,
    short_name,
)
from agent_runner.guarded_engine import EngineHeld, GuardedEngine
from tests.runner.engine import ScriptedEngine

SIMPLE = "Say yes."


class FaultyEngine(ScriptedEngine):
    """Fails where the test says so. While `mute` it takes every question and answers none."""

    def __init__(self, **about: Any) -> None:
        super().__init__(**about)
        self.unloadable: dict[str, EngineError] = {}
        self.mute = False
        self.listed = 0

    async def chat(self, request: ChatRequest) -> ChatReply:
        await self._silence()
        return await super().chat(request)

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        await self._silence()
        if model in self.unloadable:
            raise self.unloadable[model]
        return await super().load(model, options)

    async def unload(self, model: str) -> None:
        self._here(model)
        await super().unload(model)

    async def residents(self) -> list[Resident]:
        await self._silence()
        return await super().residents()

    async def models(self) -> list[str]:
        self.listed += 1
        return [short_name(model) for model in await super().models()]

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        await self._silence()
        return Footprint(40 * 10**9, 10**9)

    async def healthy(self) -> bool:
        await self._silence()
        return await super().healthy()

    async def _silence(self) -> None:
        if self.mute:
            await asyncio.Event().wait()


class Watched:
    """A guarded engine, and what it said about changes."""

    def __init__(self, engine: FaultyEngine) -> None:
        self.engine = engine
        self.changes = 0
        self.guarded = GuardedEngine(engine, changed=self._note, first_probe_s=0.001, longest_probe_s=0.01)

    def _note(self) -> None:
        self.changes += 1

    async def chat(self, prompt: str = "hello", model: str = "m", timeout_s: float = 20.0) -> str:
        return (await self.guarded.chat(model, ChatRequest(model, prompt, timeout_s))).text

    async def together(self, answer: Callable[[ChatRequest], Awaitable[str]], subject: str = "") -> list[Any]:
        """What comes of eight chats that were all under way before `answer` is given to any."""
        gate = asyncio.Event()

        async def held(request: ChatRequest) -> str:
            await gate.wait()
            return await answer(request)

        self.engine.answer = held
        asked = [asyncio.create_task(self.chat(f"{subject}{number}")) for number in range(8)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    @property
    def asked_simply(self) -> int:
        """How often it was looked into whether the model or the request is to blame."""
        return [request.prompt for request in self.engine.asked].count(SIMPLE)

    async def patiently(self, prompt: str = "hello", model: str = "m") -> str:
        """As its caller does: ask again when it is not held any more."""
        while True:
            try:
                return await self.chat(prompt, model)
            except EngineHeld:
                await self.guarded.until_closed(model)

    async def held(self, asked: Awaitable[Any]) -> EngineHeld:
        with pytest.raises(EngineHeld) as caught:
            await asked
        return caught.value

    async def failure(self, asked: Awaitable[Any]) -> EngineError:
        with pytest.raises(EngineError) as caught:
            await asked
        return caught.value
