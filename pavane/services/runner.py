"""A runner process: one GPU's agent tasks, or the function tasks of handlers."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from agent_runner.engines.ollama import OllamaEngine
from agent_runner.handlers import Handlers
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from pavane.services.connections import run_store
from pavane.services.process import Readiness
from pavane.settings import Settings

ENGINES = ("ollama", "simulated")
"""Both speak Ollama's protocol, so that one adapter drives both."""
TYPES = ("function",)
"""Node types that need no engine."""


async def serve_engine(
    settings: Settings,
    stop: asyncio.Event,
    readiness: Readiness,
    *,
    runner_id: str,
    engine_name: str,
    url: str,
    runner: RunnerSettings,
) -> None:
    """The agent runner of the GPU behind `url`."""
    engine = OllamaEngine(url)
    engine.name = engine_name  # what people are told: a simulated GPU is never shown as a real one
    async with run_store(settings) as store:
        serving = Runner(store, runner_id, runner, engine=engine)
        readiness.say()
        await serving.run(stop)


async def serve_handlers(
    settings: Settings, stop: asyncio.Event, readiness: Readiness, *, runner_id: str, handlers: Handlers,
    runner: RunnerSettings,
) -> None:  # fmt: skip
    """A task runner: it calls handlers."""
    async with run_store(settings) as store:
        serving = Runner(store, runner_id, runner, handlers=handlers)
        readiness.say()
        await serving.run(stop)


def load_handlers(modules: Sequence[str]) -> Handlers:
    """Handlers of installed packages, of our demonstrations, and of `modules`, which may lie in this folder.

    Raises HandlerConflict.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last, so that nothing there stands in for a package of ours
    return Handlers.from_modules(modules)


def default_runner_id(kind: str) -> str:
    """Unique on the network, and telling where to look. Whatever the host is called, it is a NAME."""
    host = re.sub(r"[^A-Za-z0-9.]+", "-", socket.gethostname()).strip("-.")[:64]
    return f"{host or 'host'}-{kind}-{os.getpid()}"
