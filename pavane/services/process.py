"""What every service process does at its start and at its end."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable

import typer

from pavane import logs
from pavane.preflight import PreflightError
from pavane.settings import Settings, SettingsError
from schemas.limits import LIMITS

log = logging.getLogger("pavane")


class Readiness:
    """Says once, on the file descriptor that `pavane up` gave, that this service is ready."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def say(self, url: str = "ready") -> None:
        settle_memory()
        if self._descriptor is not None:
            os.write(self._descriptor, f"{url}\n".encode())
            os.close(self._descriptor)
            self._descriptor = None


Serve = Callable[[asyncio.Event, Readiness], Awaitable[None]]


def run_service(name: str, settings: Settings, serve: Serve, ready_fd: int | None = None) -> None:
    """Run `serve(stop, readiness)` until SIGTERM or Ctrl-C has set `stop` and it has returned."""
    logs.configure(settings.log_level, settings.log_format, service=name)
    apply_limits(settings)

    async def process() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await serve(stop, Readiness(ready_fd))
        log.info("stopped")

    try:
        asyncio.run(process())
    except (PreflightError, SettingsError) as error:
        log.error("%s", error)
        raise typer.Exit(3 if isinstance(error, PreflightError) else 2) from None
    except typer.BadParameter:
        raise
    except Exception:
        log.exception("the service failed")
        raise typer.Exit(1) from None


def stop_on_signals(stop: asyncio.Event) -> None:
    """Set `stop` on SIGTERM, and on Ctrl-C unless that is ignored, as it is under `pavane up`."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGINT, stop.set)


def settle_memory() -> None:
    """Spare the garbage collector what a process has from its start, and most of its rounds.

    Else it looks through every module again and again: a request then waits for some 100 ms, and a recorder spends a
    fifth of its time on it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def apply_limits(settings: Settings) -> None:
    """Make the operator's limits those of this process, once, before anything else runs in it."""
    for name in LIMITS.__dataclass_fields__:
        object.__setattr__(LIMITS, name, getattr(settings.limits, name))


async def until_first_ends(stop: asyncio.Event, *parts: Awaitable[None]) -> None:
    """Run the parts of a service side by side. One that ends or fails stops the others; its error is raised."""

    async def guarded(part: Awaitable[None]) -> None:
        try:
            await part
        finally:
            stop.set()

    await asyncio.gather(*(guarded(part) for part in parts))
