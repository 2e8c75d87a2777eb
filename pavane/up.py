"""Everything on this machine in one process group: servers, engines, services; kept running, drained at the end."""

import asyncio
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from agent_runner.engines.simulated.gpu import CARDS
from pavane.data_folder import DataFolder, Instance
from pavane.process_group import ProcessGroup, Service, StartFailed
from pavane.servers import Servers
from pavane.services.binding import check_host, listen
from pavane.services.recorder import prepare_database
from pavane.services.recovery import LOST, recovery
from pavane.services.runner import TYPES, default_runner_id
from pavane.settings import Settings

log = logging.getLogger("pavane.up")

# In this order they are drained: nothing new, then what runs, then what follows from it, then its history.
API, RUNNERS, COORDINATORS, RECORDERS, ENGINES = range(5)

DRAIN_S = 15
"""How long a running task may go on after Ctrl-C; then it is handed back, and another start goes on with it."""
FORCED_STOP_S = 2.0
SAME_SIGNAL_S = 0.5
"""`timeout` and some shells send a signal to a process and to its group: that is one wish, not two."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is started beside the servers. `urls`: engines that run already; `cards`: of those that are simulated."""

    engine: str = "ollama"
    urls: Sequence[str] = ()
    cards: Sequence[str] = ()
    speed: float = 50.0
    slots: int = 8
    handlers: Sequence[str] = ()
    redis_port: int = 0
    postgres_port: int = 0
    recovers: Callable[[int], bool] = lambda runs: False
    """Whether to rebuild so many unfinished runs that Redis has lost."""


class Up:
    """One `pavane up` in its data folder.

    `run` returns when it has been stopped. Raises FolderInUse, EmbeddedServerError, PreflightError, SettingsError,
    StartFailed, and OSError where the folder can not be made.
    """

    def __init__(self, settings: Settings, layout: Layout, on_ready: Callable[[Instance], None]) -> None:
        self.settings = settings
        self.layout = layout
        self._on_ready = on_ready
        self._folder = DataFolder(settings.data)
        self._group = ProcessGroup()
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._stopped_at = 0.0

    async def run(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled, number)
        layout = self.layout
        check_host(self.settings)
        with self._folder.held(), self._listen() as listening:
            servers = Servers(self.settings, redis_port=layout.redis_port, postgres_port=layout.postgres_port)
            try:
                await self._until_stopped(self._serve(servers, listening))
            finally:
                listening.close()  # so that a client is refused, rather than kept waiting for a drained API
                if not await self._unless_forced(self._group.drain()):
                    await self._group.kill()
                await servers.stop(FORCED_STOP_S if self._force.is_set() else 30)

    def _listen(self) -> socket.socket:
        """The API's socket. It is opened here, so that clients wait while the API is started again."""
        host, port = self.settings.host, self.settings.port
        try:
            return listen(host, port)
        except OSError as error:
            raise StartFailed(f"{host}:{port}: {error.strerror}; --port 0 takes a free port") from None

    def _signalled(self, number: int) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._stopped_at = now
            self._stop.set()
            log.info("%s: draining; once more stops at once", signal.Signals(number).name)
        elif now - self._stopped_at > SAME_SIGNAL_S:
            self._force.set()
            log.warning("stopping now; what is unfinished goes on at the next start")

    async def _serve(self, servers: Servers, listening: socket.socket) -> None:
        """Start everything, say so, and go on for ever."""
        _, engines = await asyncio.gather(servers.start(), self._start_engines())
        inner = {"REDIS_URL": servers.redis.inner, "DATABASE_URL": servers.postgres.inner}
        inner["PAVANE_RECOVER"] = str(self.settings.recover).lower()  # also when Redis comes back empty later on
        on_these = self.settings.with_options(redis_url=inner["REDIS_URL"], database_url=inner["DATABASE_URL"])
        await prepare_database(on_these)
        await self._recover(on_these)
        said = await self._group.start(self._services(inner, engines, listening))
        await self._check(said["api"])
        instance = Instance(os.getpid(), said["api"], servers.redis.outer, servers.postgres.outer, tuple(engines))
        with self._folder.announced(instance):
            self._on_ready(instance)
            await asyncio.Event().wait()

    async def _recover(self, settings: Settings) -> None:
        """Rebuild what Redis has lost, before anything works on it."""
        async with recovery(settings, "pavane up") as work:
            survey = await work.survey()
            if not survey.lost:
                return
            if await asyncio.to_thread(self.layout.recovers, survey.lost):
                report = await work.recover(LOST)
                log.info("%d unfinished runs go on from their last recorded event", len(report.recovered))
            else:
                log.warning(
                    "Redis has lost %d of %d unfinished runs: they stand still until `pavane recover` lets them go on",
                    survey.lost,
                    survey.unfinished,
                )

    async def _check(self, api: str) -> None:
        """That clients are served. Raises StartFailed."""
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            try:
                answer = await client.get(f"{api}/readyz")
            except httpx.HTTPError as error:
                raise StartFailed(f"the API does not answer: {error}") from None
        if answer.status_code != 200:
            raise StartFailed(f"the API is not ready: {answer.text[:500]}")

    async def _start_engines(self) -> list[str]:
        """URLs of the engines, one a runner."""
        layout = self.layout
        if not layout.cards:
            return list(layout.urls)
        command = ["engine", "--speed", str(layout.speed), "--slots", str(layout.slots)]
        names = [f"gpu-{number}" for number in range(1, len(layout.cards) + 1)]
        said = await self._group.start(
            [
                Service(name, [*command, "--gpu", card], ENGINES, drain_s=3)
                for name, card in zip(names, layout.cards, strict=True)
            ]
        )
        for name, url in said.items():  # where its runner looks for it, also after a restart
            self._group.amend(name, "--port", url.rpartition(":")[2])
        return [said[name] for name in names]

    def _services(self, environment: dict[str, str], engines: Sequence[str], listening: socket.socket) -> list[Service]:
        def service(name: str, command: Sequence[str], stage: int, **more: Any) -> Service:
            return Service(name, command, stage, environment=environment, **more)

        descriptor = str(listening.fileno())
        handlers = [word for module in self.layout.handlers for word in ("--handlers", module)]
        runner = ["runner", "--slots", str(self.layout.slots), "--drain", str(DRAIN_S), *handlers]
        agents = [
            service(
                f"runner-{number}",
                [*runner, "--engine", self.layout.engine, "--url", url, "--id", self._runner_id(f"runner-{number}"),
                 "--gpu", f"gpu-{number}", *self._card(number)],
                RUNNERS,
                drain_s=DRAIN_S + 5,
            )
            for number, url in enumerate(engines, 1)
        ]  # fmt: skip
        tasks = [*runner, "--types", ",".join(TYPES), "--id", self._runner_id("tasks")]
        return [
            service("api", ["api", "--descriptor", descriptor], API, descriptors=[int(descriptor)]),
            *agents,
            service("tasks", tasks, RUNNERS, drain_s=DRAIN_S + 5),
            service("coordinator", ["coordinator"], COORDINATORS),
            service("recorder", ["recorder"], RECORDERS),
        ]

    def _card(self, number: int) -> list[str]:
        """What a runner is told of its GPU; of a real one it finds out itself."""
        if not self.layout.cards:
            return []
        card = CARDS[self.layout.cards[number - 1]]
        return ["--kind", card.name, "--memory", f"{card.usable_gb:g}GB"]

    def _runner_id(self, name: str) -> str:
        """Short on a Redis of our own; on a shared one, unique among all that use it."""
        if self.settings.redis_url is None:
            return name
        return default_runner_id(name)

    async def _until_stopped(self, serving: Coroutine[Any, Any, None]) -> None:
        """Run `serving` until a signal comes; its failure is ours."""
        task = asyncio.create_task(serving)
        await _first(task, self._stop)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return

    async def _unless_forced(self, draining: Coroutine[Any, Any, None]) -> bool:
        """Whether `draining` came to its end before a second signal."""
        task = asyncio.create_task(draining)
        await _first(task, self._force)
        ended = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return ended


async def _first(task: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait until the task is done or the event is set."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def ready_line(instance: Instance) -> str:
    """What `pavane up --json` prints once it is ready."""
    return json.dumps({"api": instance.api, "redis": instance.redis, "postgres": instance.postgres})
