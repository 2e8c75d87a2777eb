"""Simulated GPUs, each in a process of its own, which take the work that a prompt says and remember what they did."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from agent_runner.engines.simulated.gpu import CARDS, Card, Gpu
from agent_runner.engines.simulated.script import Outcome, Script
from agent_runner.engines.simulated.server import SimulatedServer
from benchmarks.gpus.workload import work_of
from pavane.planning.timeline import Segment, Timeline

CARD = CARDS["8GB"]
SLOTS = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """What a GPU did until `now`, in simulated seconds since its start."""

    now: float
    segments: Sequence[Segment]
    loads: int
    work_s: float
    spilled: bool  # a model was in part on the CPU, for want of memory
    running_s: Mapping[int, float]  # requests running at once -> seconds

    def since(self, before: Seen) -> Seen:
        """What it did after `before`."""
        later = [
            Segment(max(one.begin - before.now, 0.0), one.end - before.now, one.active, one.loading)
            for one in self.segments
            if one.end > before.now
        ]
        loads, work_s = self.loads - before.loads, self.work_s - before.work_s
        running_s = {count: seconds - before.running_s.get(count, 0.0) for count, seconds in self.running_s.items()}
        return Seen(self.now - before.now, later, loads, work_s, self.spilled, running_s)


class PromptWork(Script):
    """Each prompt says how much work it is."""

    def outcome(self, model: str, text: str, prompt: str | None = None) -> Outcome:
        return Outcome(answer="done", work_s=work_of(text))


class WatchedGpu(Gpu):
    """Its state never changes within an `elapse`."""

    def __init__(self, card: Card, slots: int) -> None:
        super().__init__(card, slots)
        self.course = Timeline()
        self.spilled = False
        self.running_s: dict[int, float] = {}

    def elapse(self, until: float) -> None:
        if until > self.now:
            active = tuple(name for name, tenant in self.tenants.items() if tenant.running)
            self.course.note(self.now, active, self.loading.spec.name if self.loading is not None else None)
            self.spilled |= any(tenant.vram_gb < tenant.size_gb for tenant in self.tenants.values())
            running = sum(tenant.running for tenant in self.tenants.values())
            self.running_s[running] = self.running_s.get(running, 0.0) + until - self.now
        super().elapse(until)


class WatchedServer(SimulatedServer):
    """One 8 GB card."""

    def __init__(self, speed: float, **options: Any) -> None:
        super().__init__(CARD, speed, SLOTS, PromptWork(), **options)

    def _power_on(self) -> None:
        super()._power_on()
        self.gpu = self.residency.gpu = WatchedGpu(CARD, SLOTS)

    def seen(self) -> Seen:
        stats, gpu = self.stats(), self.gpu
        assert isinstance(gpu, WatchedGpu)
        course = gpu.course.segments(gpu.now)
        return Seen(gpu.now, course, stats["loads"], stats["work_s"], gpu.spilled, dict(gpu.running_s))


class Engine:
    """A server in a process."""

    def __init__(self, speed: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, speed), daemon=True)
        self._process.start()
        theirs.close()
        self.url: str = self._pipe.recv()

    def look(self) -> Seen:
        self._pipe.send("look")
        seen: Seen = self._pipe.recv()
        return seen

    def end(self) -> None:
        self._pipe.close()
        self._process.join(10)


@contextmanager
def engines(count: int, speed: float) -> Iterator[list[Engine]]:
    started: list[Engine] = []
    try:
        for _ in range(count):
            started.append(Engine(speed))
        yield started
    finally:
        for engine in started:
            engine.end()


def _serve(pipe: Connection, speed: float) -> None:
    asyncio.run(_answer(pipe, speed))


async def _answer(pipe: Connection, speed: float) -> None:
    """Until the other end of the pipe is closed."""
    server = WatchedServer(speed)
    async with server:
        pipe.send(server.url)
        while True:
            try:
                await asyncio.to_thread(pipe.recv)
            except EOFError:
                return
            pipe.send(server.seen())
