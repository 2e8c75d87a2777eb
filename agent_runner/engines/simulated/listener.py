"""uvicorn, made to be embedded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from starlette.applications import Starlette


class Listener(uvicorn.Server):
    """uvicorn without its polling and its signal handlers: whoever embeds the engine owns the signals."""

    def __init__(self, application: Starlette) -> None:
        quiet: dict[str, Any] = {"log_config": None, "log_level": None, "access_log": False}
        super().__init__(uvicorn.Config(application, lifespan="off", ws="none", date_header=False, **quiet))
        self.ready = asyncio.Event()
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self._ending.wait()

    def end(self) -> None:
        """Close what listens and what is open."""
        self.should_exit = self.force_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        self._ending.set()


def bound(address: tuple[str, int]) -> socket.socket:
    """A TCP socket at (host, port). Raises OSError.

    Its protocol is named because asyncio sets TCP_NODELAY only then, and every answer would else wait some 40 ms
    for the client's delayed acknowledgement.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening
