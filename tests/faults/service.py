"""A service of the product as a process to kill, built from the product's own parts with short times."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from agent_runner import guarded_engine
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.gpu import CATALOGUE
from agent_runner.engines.simulated.server import SimulatedServer
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from coordinator.admission import Admission
from coordinator.coordinator import Coordinator
from coordinator.recorder import Recorder
from coordinator.recovery import Recovery
from coordinator.supervisor import Supervisor
from coordinator.timers import Timers
from lua.connection import connect_redis
from lua.run_store import RunStore
from pavane.services.recovery import put_right
from schemas.keys import Keys
from tests.faults.editor import Editor
from tests.faults.points import die_at
from tests.faults.watched_runner import WatchedRunner

AHEAD_MS = 9_700
"""A deciding token is signalled again after 10 s; in these processes that is 0.3 s."""

Parts = list[Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the test tells the process."""

    kind: str
    name: str
    redis: str = ""
    database: str = ""
    at: str = ""  # the named point to die at
    hits: int = 1  # when it comes there for the so many-th time
    idle_ms: int = 400  # a task not refreshed for so long has lost its runner; an outcome, its coordinator
    slots: int = 8
    per_gpu: int = 8  # runs of a batch that a coordinator admits
    pace_s: float = 0.0  # how long a task takes
    engine: str = ""  # URL of an agent runner's engine
    memory: int = 0  # of its GPU, in bytes
    port: int = 0
    script: Any = None  # of an engine: what it does to requests
    models: tuple[str, ...] = ()  # of an engine; none named: all that there are
    speed: float = 200.0  # of an engine: simulated seconds per second
    lease_ms: int = 15_000  # of an agent runner; shorter, a runner that stands still loses its GPU sooner
    clock_s: float = 0.0  # so far this machine's clock is ahead


class HastyTimers(Timers):
    async def handle_due(self, now: int | None = None) -> float:
        at = await self.store.now() + AHEAD_MS
        await self._look_at_children_as_often(at)
        return await super().handle_due(at)

    async def _look_at_children_as_often(self, at: int) -> None:
        """A token whose child goes on is looked at each minute; here as often as all others."""
        key = self.store.keys.timers
        for member in await self.store.redis.zrangebyscore(key, at + 1_000, "+inf"):
            if member.startswith(b"signal "):
                await self.store.redis.zadd(key, {member: at + 300}, xx=True)


class PatientTimers(Timers):
    """Where nobody dies, no signal is repeated: on a busy machine one waits for its turn longer than that takes."""

    async def handle_due(self, now: int | None = None) -> float:
        at, key = await self.store.now(), self.store.keys.timers
        for member in await self.store.redis.zrangebyscore(key, "-inf", at):
            if member.startswith(b"signal "):
                await self.store.redis.zadd(key, {member: at + 60_000}, xx=True)
        return await super().handle_due(at)


def coordinator(options: Options, store: RunStore, stop: asyncio.Event) -> Parts:
    routing = Coordinator(store)
    batch = routing.batch
    die_at(options.at, options.hits, coordinator=routing, store=store, children=batch.children, maps=batch.maps)
    supervisor = Supervisor(store, idle_ms=options.idle_ms, interval_s=0.1)
    timers = PatientTimers(store) if options.idle_ms > AHEAD_MS else HastyTimers(store)
    parts = [routing.run(stop), timers.run(stop), supervisor.run(stop)]
    return [*parts, _admit(options, store, stop)] if options.database else parts


async def _admit(options: Options, store: RunStore, stop: asyncio.Event) -> None:
    async with AsyncConnectionPool(options.database, min_size=1, max_size=2, timeout=2, open=False) as pool:
        await Admission(store, pool, per_gpu=options.per_gpu, interval_s=0.02, retention_ms=600_000).run(stop)


def runner(options: Options, store: RunStore, stop: asyncio.Event) -> Parts:
    settings = RunnerSettings(
        slots=options.slots, block_ms=50, reclaim_ms=50, reclaim_idle_ms=options.idle_ms, drain_ms=5_000,
        heartbeat_ms=min(options.idle_ms // 4, options.lease_ms // 4, 250), heartbeat_ttl_ms=options.idle_ms * 2,
        memory=options.memory, lease_ttl_ms=options.lease_ms,
    )  # fmt: skip
    serving: Runner
    if options.engine:
        guarded_engine.ANSWER_S = 0.5
        serving = Runner(store, options.name, settings, engine=OllamaEngine(options.engine))
    else:
        serving = WatchedRunner(store, options.name, settings, options.pace_s)
    die_at(options.at, options.hits, runner=serving, store=store)
    return [serving.run(stop)]


def recorder(options: Options, store: RunStore, stop: asyncio.Event) -> Parts:
    recording = Recorder(
        store.redis, store.keys, lambda: psycopg.AsyncConnection.connect(options.database, connect_timeout=2)
    )
    die_at(options.at, options.hits, journal=recording.journal)
    return [_record(options, store, recording, stop)]


async def _record(options: Options, store: RunStore, recording: Recorder, stop: asyncio.Event) -> None:
    """It mends what it sees, as that of the product does (pavane/services/recovery.py)."""
    async with AsyncConnectionPool(options.database, min_size=1, max_size=2, timeout=2, open=False) as pool:
        put_right(recording, Recovery(store, pool, "recorder"))
        await recording.run(stop)


def patcher(options: Options, store: RunStore, stop: asyncio.Event) -> Parts:
    """Patches live runs one after the other, as somebody does by the API."""
    die_at(options.at, options.hits, store=store)
    editor = Editor(store, random.Random(options.name))

    async def patch() -> None:
        while not stop.is_set():
            await editor.attend()
            await asyncio.sleep(options.pace_s)

    return [patch()]


PARTS = {"coordinator": coordinator, "runner": runner, "recorder": recorder, "patcher": patcher}


def _set_clock(ahead_s: float) -> None:
    if ahead_s:
        here = time.time
        time.time = lambda: here() + ahead_s


async def _serve(options: Options, say: Callable[[str], None]) -> None:
    _set_clock(options.clock_s)
    stop = asyncio.Event()
    loop, parent = asyncio.get_running_loop(), parent_process()
    assert parent is not None
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(parent.sentinel, os._exit, 1)  # dies with its parent
    if options.kind == "engine":
        models = {name: CATALOGUE[name] for name in options.models or CATALOGUE}
        async with SimulatedServer(
            speed=options.speed, port=options.port, script=options.script, models=models
        ) as server:
            say(server.url)
            await stop.wait()
        return
    store = RunStore(connect_redis(options.redis, socket_timeout=15), Keys())
    parts = PARTS[options.kind](options, store, stop)
    say("ready")
    await asyncio.gather(*parts)
    await store.redis.aclose()


def run(options: Options, log: str, says: Connection) -> None:
    """Be this service until SIGTERM; say once that it is ready (of an engine, its URL)."""
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 2)
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {options.name} %(levelname)s %(message)s")
    asyncio.run(_serve(options, says.send))
