"""An API process: uvicorn on a socket that it opens, or that `pavane up` has opened for it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Generator

import uvicorn

from history.history import History
from history.named_connections import NamedConnections
from orchestrator_api.app import create_app
from pavane.services.binding import api_options, check_host, listen, url_of
from pavane.services.connections import artifact_store, database_pool, run_store
from pavane.services.process import Readiness
from pavane.settings import Settings
from pavane.whatif.engine import WhatIf

GRACE_S = 5
"""How long open requests may go on after a stop."""
SWITCH_S = 0.001
"""How long a thread that computes, as a what-if does, keeps the interpreter from the requests beside it. Each request
waits for that several times: with Python's 5 ms one takes 50 ms."""


class _Server(uvicorn.Server):
    """uvicorn whose signals are ours to handle, and which says when it listens."""

    def __init__(self, config: uvicorn.Config, readiness: Readiness, url: str) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._url = url

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._readiness.say(self._url)


async def serve(
    settings: Settings, stop: asyncio.Event, readiness: Readiness, *, descriptor: int | None = None
) -> None:
    """Raises PreflightError, SettingsError, and OSError where the port is taken."""
    check_host(settings)
    sys.setswitchinterval(SWITCH_S)
    options = api_options(settings)
    listening = listen(settings.host, settings.port) if descriptor is None else socket.socket(fileno=descriptor)
    async with (
        run_store(settings) as store,
        database_pool(settings, most=10) as pool,
        NamedConnections(settings.connections) as connections,
    ):
        history = History(pool, artifact_store(settings))
        application = create_app(store, history, options, connections, WhatIf(history))
        config = uvicorn.Config(
            application, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
        )
        server = _Server(config, readiness, url_of(listening))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        application.state.services.tail.close()  # live event streams end only when they are told to
        server.should_exit = True
        await serving
        stopping.cancel()
