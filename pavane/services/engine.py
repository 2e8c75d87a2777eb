"""The simulated engine as a process: one GPU with Ollama's protocol."""

import asyncio

from agent_runner.engines.simulated.server import SimulatedServer
from pavane.services.process import Readiness

MAX_LOADED = 16
"""Memory decides which models lie side by side, not a count."""


async def serve(stop: asyncio.Event, readiness: Readiness, *, gpu: str, speed: float, slots: int, port: int) -> None:
    """Raises ValueError for what the engine does not know, and OSError where the port is taken."""
    async with SimulatedServer(gpu, speed, slots, port=port, max_loaded=MAX_LOADED) as server:
        readiness.say(server.url)
        await stop.wait()
