"""Child processes that are kept running: started in order, started again when they die, drained in order."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

log = logging.getLogger("pavane.up")

ADOPT = Path(__file__).with_name("adopt.py")
START_S = 60.0
"""A child that is not ready by then did not start."""
BACKOFF_S = (0.2, 15.0)
STEADY_S = 30.0
"""A child that lived so long is started again at once the next time it dies."""
STARTS = 3
"""A child that dies so often before it was ever ready ends the whole group's start."""


class StartFailed(RuntimeError):
    """A child died, or was silent, before it was ready for the first time."""


@dataclass(frozen=True, slots=True)
class Service:
    """One child: a `pavane` command. `stage`: children of a lower one are drained first."""

    name: str
    command: Sequence[str]
    stage: int
    drain_s: float = 10.0
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: Sequence[int] = ()  # open files that it inherits


class Child:
    """One service, kept running by `run`. It says that it is ready by a line on a pipe, its URL if it has one."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.process: asyncio.subprocess.Process | None = None
        self.restarts = 0
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Raises nothing; a failed start is told by `ready`."""
        wait, name = BACKOFF_S[0], self.service.name
        while True:
            began = time.monotonic()
            code = await self._live()
            if self.stopping.is_set():
                return
            how = f"exit status {code}" if code >= 0 else f"signal {-code}"
            self.restarts += 1
            if not self.ready.done() and self.restarts >= STARTS:
                self.ready.set_exception(StartFailed(f"{name} did not start ({how}); its log is above"))
                return
            if time.monotonic() - began > STEADY_S:
                wait = BACKOFF_S[0]
            log.warning("%s ended (%s); starting it again in %.1f s", name, how, wait)
            await asyncio.sleep(wait)
            if self.stopping.is_set():
                return
            wait = min(wait * 2, BACKOFF_S[1])

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if it takes longer than `drain_s`."""
        self.stopping.set()
        if self.process is None or self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), self.service.drain_s)
        except TimeoutError:
            log.warning("%s did not drain in %.0f s; killed", self.service.name, self.service.drain_s)
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        self.stopping.set()
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def _live(self) -> int:
        """One life of the process, from its start to its exit status."""
        reader, writer = os.pipe()
        try:
            # -P: the folder that we were started in may hold a `schemas` of its own.
            command = [sys.executable, "-P", "-m", "pavane", *self.service.command, "--ready-fd", str(writer)]
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", str(ADOPT), str(os.getpid()), *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # stdout is for what `up` itself says
                env={**os.environ, **self.service.environment},
                pass_fds=[writer, *self.service.descriptors],
            )  # fmt: skip
        finally:
            os.close(writer)
        if self.stopping.is_set():
            self.kill()
        listening = asyncio.create_task(self._listen(reader))
        try:
            return await self.process.wait()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, reader: int) -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_reader(reader, heard.set)
        try:
            await heard.wait()
            said = os.read(reader, 4096).decode().strip()
        finally:
            loop.remove_reader(reader)
            os.close(reader)
        if said and not self.ready.done():
            self.ready.set_result(said)
        elif said:
            log.info("%s is back", self.service.name)


class ProcessGroup:
    """All children of one `pavane up`."""

    def __init__(self) -> None:
        self.children: dict[str, Child] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self, services: Sequence[Service]) -> dict[str, str]:
        """Start them side by side; what each said when it was ready. Raises StartFailed."""
        children = [Child(service) for service in services]
        for child in children:
            self.children[child.service.name] = child
            self._keepers.append(asyncio.create_task(child.run(), name=child.service.name))
        said: dict[str, str] = {}
        try:
            async with asyncio.timeout(START_S):
                for child in children:
                    said[child.service.name] = await child.ready
        except TimeoutError:
            late = ", ".join(child.service.name for child in children if not child.ready.done())
            raise StartFailed(f"not ready after {START_S:.0f} s: {late}") from None
        return said

    def amend(self, name: str, *words: str) -> None:
        """Add to the command that starts a child the next time."""
        child = self.children[name]
        child.service = replace(child.service, command=[*child.service.command, *words])

    async def drain(self) -> None:
        """Stop all children, stage by stage."""
        for stage in sorted({child.service.stage for child in self.children.values()}):
            members = [child for child in self.children.values() if child.service.stage == stage]
            await asyncio.gather(*(child.stop() for child in members))
        await self._dismiss()

    async def kill(self) -> None:
        """SIGKILL to all children."""
        for child in self.children.values():
            child.kill()
        await self._dismiss()

    async def _dismiss(self) -> None:
        for child in self.children.values():
            if child.process is not None:
                await child.process.wait()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for child in self.children.values():
            if child.ready.done() and not child.ready.cancelled():
                child.ready.exception()  # looked at, so that asyncio does not complain
