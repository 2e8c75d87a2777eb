"""A runner process: one GPU's agent tasks, or the tasks of types that need no engine."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from psycopg_pool import AsyncConnectionPool

from agent_runner.engines.engine import Engine
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.openai import OpenAIEngine
from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.nodes.http import HttpNodes
from agent_runner.nodes.sql import SqlNodes
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from agent_runner.tools.toolbox import ToolSources
from agent_runner.web.caller import WebCaller
from agent_runner.web.credential import Credential
from agent_runner.web.origin import Hosts
from agent_runner.work import NodeKind
from coordinator.registry import Registry
from history.named_connections import NamedConnections
from lua.run_store import RunStore
from pavane.preflight import PreflightError
from pavane.services.connections import POSTGRES_TIMEOUT_S, database_url, run_store
from pavane.services.process import Readiness, until_first_ends
from pavane.settings import Settings

ENGINES = ("ollama", "openai", "simulated")
"""The simulated one speaks Ollama's protocol, so that one adapter drives both."""
TYPES = ("function", "http", "sql")
"""Task types that need no engine."""
SQL_SLOTS = 1_000
"""sql tasks only wait: for the pool of their connection, or at a gate for each other."""


async def serve_engine(
    settings: Settings,
    stop: asyncio.Event,
    readiness: Readiness,
    *,
    runner_id: str,
    engine_name: str,
    url: str,
    handlers: Handlers,
    runner: RunnerSettings,
) -> None:
    """The agent runner of the GPU behind `url`. Raises SettingsError."""
    engine = _adapter(settings, engine_name, url)
    servers = settings.mcp()
    async with run_store(settings) as store, _registry(settings, store) as workflows:
        tools = ToolSources(handlers, web_caller(settings), servers, workflows)
        serving = Runner(store, runner_id, runner, engine=engine, tools=tools)
        readiness.say()
        await serving.run(stop)


async def serve_tasks(
    settings: Settings, stop: asyncio.Event, readiness: Readiness, *, runner_id: str, types: Sequence[str],
    handlers: Handlers, runner: RunnerSettings,
) -> None:  # fmt: skip
    """A task runner: it executes nodes of `types`, some of TYPES."""
    async with run_store(settings) as store, NamedConnections(settings.connections) as connections:
        nodes = {name: _node_kind(name, settings, handlers) for name in types if name != "sql"}
        serving = [Runner(store, runner_id, runner, nodes=nodes)] if nodes else []
        if "sql" in types:
            name = f"{runner_id}-sql" if nodes else runner_id
            slots = replace(runner, slots=SQL_SLOTS)
            serving.append(Runner(store, name, slots, nodes={"sql": SqlNodes(connections)}))
        readiness.say()
        await until_first_ends(stop, *(one.run(stop) for one in serving))


def _adapter(settings: Settings, name: str, url: str) -> Engine:
    key = settings.engine_key.get_secret_value() if settings.engine_key is not None else ""
    if name == "openai":
        return OpenAIEngine(url, key=key)
    return OllamaEngine(url, name=name, key=key)  # by its name: a simulated GPU is never shown as a real one


@asynccontextmanager
async def _registry(settings: Settings, store: RunStore) -> AsyncIterator[Registry]:
    """The registered workflows that tools may run; of a runner without Postgres, those that were used lately."""
    try:
        url = database_url(settings)
    except PreflightError:
        yield Registry(store, None)
        return
    # Nothing is connected until a tool asks: most runners never do.
    async with AsyncConnectionPool[Any](url, min_size=0, max_size=2, timeout=POSTGRES_TIMEOUT_S, open=False) as pool:
        yield Registry(store, pool)


def _node_kind(name: str, settings: Settings, handlers: Handlers) -> NodeKind:
    match name:
        case "function":
            return FunctionNodes(handlers)
        case "http":
            return HttpNodes(web_caller(settings))
    raise ValueError(f"{name!r} is none of {', '.join(TYPES)}")


def web_caller(settings: Settings) -> WebCaller:
    """Makes the calls of http nodes, within what the operator allows."""
    credentials = {
        name: Credential(given.header, given.value.get_secret_value(), Hosts(given.hosts, ("https",)))
        for name, given in settings.credentials.items()
    }
    return WebCaller(settings.http_hosts, credentials)


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
