"""Simulated engines over real HTTP, and adapters to them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from agent_runner.engines.engine import ChatReply, ChatRequest
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.server import SimulatedServer

FAST = {"speed": 500.0, "keep_alive_s": math.inf}
Start = Callable[..., Awaitable[tuple[SimulatedServer, OllamaEngine]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(script=..., ...)` gives a running simulated engine and an adapter to it.

    It is fast, so a keep-alive in simulated seconds would soon be over on a busy machine: idle models stay.
    """
    async with AsyncExitStack() as stack:

        async def start(**about: Any) -> tuple[SimulatedServer, OllamaEngine]:
            server = await stack.enter_async_context(SimulatedServer(**{**FAST, **about}))
            engine = OllamaEngine(server.url)
            stack.push_async_callback(engine.close)
            return server, engine

        yield start


async def ask(engine: OllamaEngine, prompt: str = "Hello there.", model: str = "phi3", **about: Any) -> ChatReply:
    return await engine.chat(ChatRequest(**{"model": model, "prompt": prompt, "timeout_s": 20.0, **about}))
