"""llama.cpp's own HTTP server with one model, as a process that this module both is and starts.

The wheel `xllamacpp` has the server as a library and no command, so the process is this file. Like a child of
llama.cpp's router it ends when its stdin is closed, and so never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

_STOP_S = 10.0  # llama.cpp's own patience with a child
_SAID = 4_000  # bytes of a failed server's log that are kept


class LoadFailed(Exception):
    """The server ended before it could answer. `code` is the process's exit code."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(f"the server ended with {code}: {said}")
        self.code = code


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """A server that is up, at `url`, with one model."""

    url: str
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, model: Path, *, slots: int, context: int, log: Path) -> LlamaServer:
        """Load the model, `slots` requests at once with `context` tokens each. Raises LoadFailed."""
        command = [sys.executable, str(Path(__file__)), str(model), str(slots), str(context)]
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=said)
        assert process.stdout is not None
        try:
            url = (await process.stdout.readline()).decode().strip()
        except BaseException:  # whoever waited for it is gone
            process.kill()
            await process.wait()
            raise
        if not url:
            raise LoadFailed(await process.wait(), log.read_bytes()[-_SAID:].decode(errors="replace"))
        return cls(url, process)

    async def stop(self) -> int:
        """End it, by force where it does not end by itself; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_S):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()


def _serve(model: str, slots: int, context: int) -> None:
    """Say the URL once the model can answer, then serve until stdin ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {Path(model).stem}
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.n_predict = context  # random weights need not ever say the end
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = slots + 2
    params.fit_params = False  # it would try other sizes until one fits this machine
    params.cache_ram_mib = 0
    params.ui = False
    params.verbosity = 2
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
