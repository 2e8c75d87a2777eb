"""An API process: uvicorn on a socket that it opens, or that `pavane up` has opened for it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Generator, Sequence

import uvicorn

from history.history import History
from history.named_connections import NamedConnections
from orchestrator_api.app import create_app
from orchestrator_api.guard import check_binding
from orchestrator_api.options import ApiKey, ApiOptions, hash_key
from pavane.services.connections import artifact_store, database_pool, run_store
from pavane.services.process import Readiness
from pavane.settings import Settings, SettingsError
from pavane.whatif.engine import WhatIf

GRACE_S = 5
"""How long open requests may go on after a stop."""
BACKLOG = 2_048
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


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # What it accepts inherits this. asyncio sets it only where the socket's protocol is named, and every answer would
    # else wait some 40 ms for the client's delayed acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


def check_host(settings: Settings) -> None:
    """Raises SettingsError where the API would listen beyond this machine without keys."""
    try:
        check_binding(settings.host, api_options(settings))
    except ValueError as error:
        raise SettingsError(f"PAVANE_HOST: {error}") from None


def api_options(settings: Settings) -> ApiOptions:
    return ApiOptions(
        keys=read_keys([key.get_secret_value() for key in settings.api_keys]),
        hosts=settings.hosts if settings.host in ("0.0.0.0", "::") else (settings.host, *settings.hosts),
        origins=settings.origins,
        events_limit=settings.limits.waiting_events,
        retention_ms=settings.retention_s * 1_000,
        prices=settings.prices,
    )


def read_keys(entries: Sequence[str]) -> tuple[ApiKey, ...]:
    """Keys as `name:role:key`, or the bare key of an admin. Raises SettingsError, which never shows a key."""
    keys = []
    for number, entry in enumerate(entries, 1):
        name, role, key = entry.split(":", 2) if entry.count(":") >= 2 else (f"key{number}", "admin", entry)
        if role not in ("reader", "operator", "admin"):
            raise SettingsError(f"PAVANE_API_KEYS: key {number} has no role: reader, operator or admin")
        keys.append(ApiKey(name, role, hash_key(key)))  # type: ignore[arg-type]
    return tuple(keys)
