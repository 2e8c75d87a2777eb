"""The simulated engine as a process: one GPU with Ollama's protocol."""

import asyncio

from agent_runner.engines.simulated.server import SimulatedServer
from pavane.services.process import Readiness


async def serve(stop: asyncio.Event, readiness: Readiness, *, gpu: str, speed: float, slots: int, port: int) -> None:
    """Raises ValueError for what the engine does not know, and OSError where the port is taken."""
    async with SimulatedServer(gpu, speed, slots, port=port) as server:
        readiness.say(server.url)
        await stop.wait()
