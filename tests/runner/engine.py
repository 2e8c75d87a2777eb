"""An engine that does what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent_runner.engines.engine import ChatReply, ChatRequest, EngineAway, EngineError, Footprint, LoadReply, Resident
from agent_runner.engines.fence import Fence

Answer = Callable[[ChatRequest], str | ChatReply | Awaitable[str]]


class ScriptedEngine:
    """Answers with `answer(request)`. While `away`, every call raises EngineAway."""

    name = "scripted"
    url = "http://engine"

    def __init__(self, answer: Answer = lambda request: "ok", *, models: tuple[str, ...] = ("m", "n")) -> None:
        self.answer = answer
        self.held = list(models)
        self.away = False
        self.fence = Fence()
        self.loaded: list[str] = []
        self.memory: dict[str, int] = {}  # model -> bytes, of what is loaded
        self.sizes: dict[str, Footprint] = {}
        self.unloaded: list[str] = []
        self.asked: list[ChatRequest] = []
        self.at_once = 0
        self.most_at_once = 0
        self.closed = False

    async def chat(self, request: ChatRequest) -> ChatReply:
        self.fence.look()
        self._here(request.model)
        self.asked.append(request)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            text = self.answer(request)
            if isinstance(text, ChatReply):
                return text
            if not isinstance(text, str):
                text = await text
        finally:
            self.at_once -= 1
        self._here(request.model)
        return ChatReply(text, prompt_tokens=3, completion_tokens=2, wait_ms=1, total_ms=7)

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        self.fence.look()
        self._here(model)
        self.loaded.append(model)
        self.memory[model] = (self.sizes[model].memory(1) if model in self.sizes else None) or 1
        return LoadReply(load_ms=40)

    async def unload(self, model: str) -> None:
        self.fence.look()
        self.unloaded.append(model)
        self.memory.pop(model, None)

    async def residents(self) -> list[Resident]:
        return [Resident(model, size, size, None, None) for model, size in self.memory.items()]

    async def models(self) -> list[str]:
        return self.held

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        self._here(model)
        return self.sizes.get(model)

    async def healthy(self) -> bool:
        await asyncio.sleep(0)
        return not self.away

    async def close(self) -> None:
        self.closed = True

    def _here(self, model: str) -> None:
        if self.away:
            raise EngineAway("no engine at http://engine")
        if model not in self.held:
            raise EngineError("not_found", f"model {model!r} is not on the engine")
