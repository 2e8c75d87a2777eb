"""The processes of one test: started, killed, stopped and gone on with by signals.

They are forked from a server that has imported what they need, or most of the tests' time would go into imports.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.faults.service import Options, run

START_S = 30
END_S = 20

_context = get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.service"])


class Process:
    """One service. Its log lies in `log`."""

    def __init__(self, options: Options, log: Path) -> None:
        self.options = options
        self.log = log
        self.said = ""

    async def start(self) -> None:
        said, says = _context.Pipe(duplex=False)
        self._process = _context.Process(target=run, args=(self.options, str(self.log), says), name=self.name)
        self._process.start()
        says.close()
        assert await asyncio.to_thread(said.poll, START_S), f"{self.name} did not start"
        try:
            self.said = said.recv()
        except EOFError:
            raise AssertionError(f"{self.name} ended at its start:\n{self.log.read_text()}") from None

    @property
    def name(self) -> str:
        return self.options.name

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    async def died(self) -> int | None:
        """Its exit status, once it has ended by itself; None if it does not."""
        await asyncio.to_thread(self._process.join, END_S)
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        if self.alive:
            self._process.kill()
        await self.died()


class Processes:
    """`common`: options that all of them are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.common: dict[str, Any] = {}
        self.all: list[Process] = []
        self._numbers = itertools.count(1)

    async def start(self, kind: str, **options: Any) -> Process:
        """A process of this kind, once it is ready."""
        name = f"{kind}-{next(self._numbers)}"
        process = Process(Options(kind, name, **{**self.common, **options}), self.folder / f"{name}.log")
        await process.start()
        self.all.append(process)
        return process

    async def stop(self) -> list[int | None]:
        """SIGTERM to all that live; their exit statuses."""
        living = [process for process in self.all if process.alive]
        for process in living:
            process.send(signal.SIGTERM)
        return await asyncio.gather(*(process.died() for process in living))

    async def kill(self) -> None:
        await asyncio.gather(*(process.kill() for process in self.all))

    def logs(self) -> str:
        return "\n".join(process.log.read_text() for process in self.all)
