"""The engine adapter for any server with OpenAI's HTTP protocol: vLLM, llama.cpp's, LM Studio, llama-swap.

Chats go to POST /v1/chat/completions, whole answers, no streaming. Which models are resident, and whether they can be
loaded and unloaded, such servers say in three ways: `dialects.py` has them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agent_runner.engines.dialects import Dialect, find_dialect, listed, listed_one, meta_size
from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    EngineError,
    Footprint,
    LoadReply,
    Resident,
    short_name,
)
from agent_runner.engines.fence import Fence
from agent_runner.engines.openai_chat import chat_body, chat_reply
from agent_runner.engines.wire import Wire


class OpenAIEngine:
    """One server, at `url` (without /v1). `key` goes to it as a bearer token.

    `load_timeout_s` bounds a load, `unload_timeout_s` an unload, `control_timeout_s` the short questions.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "openai",
        key: str = "",
        load_timeout_s: float = 600.0,
        unload_timeout_s: float = 30.0,
        control_timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.name = name
        self.url = url
        self._load_timeout_s = load_timeout_s
        self._unload_timeout_s = unload_timeout_s
        self._control_timeout_s = control_timeout_s
        self.fence = Fence()
        self._wire = Wire(url, self.healthy, self.fence, key=key, connect_timeout_s=connect_timeout_s)
        self._found: Dialect | None = None

    async def chat(self, request: ChatRequest) -> ChatReply:
        began = time.monotonic()
        return await self._wire.post(
            "/v1/chat/completions",
            chat_body(request),
            request.timeout_s,
            lambda body: chat_reply(body, _since(began)),
            model=request.model,
        )

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        """`options` change nothing: such a server had them when it started."""
        began = time.monotonic()
        await (await self._dialect()).load(model, self._load_timeout_s)
        return LoadReply(load_ms=_since(began))

    async def unload(self, model: str) -> None:
        await (await self._dialect()).unload(model, self._unload_timeout_s)

    async def residents(self) -> list[Resident]:
        return await (await self._dialect()).residents(self._control_timeout_s)

    async def models(self) -> list[str]:
        return sorted(map(short_name, await listed(self._wire, self._control_timeout_s)))

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        """Only llama.cpp says what the weights of a model that it has loaded take; none says it of the KV cache."""
        entry = await listed_one(self._wire, model, self._control_timeout_s)
        weights = meta_size(entry)
        if weights is None:
            return None
        return Footprint(weights, None, await (await self._dialect()).slots(model, self._control_timeout_s))

    async def healthy(self) -> bool:
        try:
            # llama.cpp answers 503 here until its model is loaded; some have no such route.
            await self._wire.look("/health", self._control_timeout_s, probe=True)
            await listed(self._wire, self._control_timeout_s, probe=True)
        except EngineError:
            return False
        return True

    async def close(self) -> None:
        await self._wire.close()

    async def _dialect(self) -> Dialect:
        if self._found is None:
            self._found = await find_dialect(self._wire, self._control_timeout_s)
        return self._found


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
