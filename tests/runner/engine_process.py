"""A simulated engine in a process of its own: to be killed, stopped and gone on with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

_SERVE = """
import json, os, sys, threading
from agent_runner.engines.simulated.gpu import CATALOGUE
from agent_runner.engines.simulated.server import serve

threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # dies with its parent
about = json.loads(sys.argv[1])
models = {name: CATALOGUE[name] for name in about.pop("models") or CATALOGUE}
serve(ready=lambda url: print(url, flush=True), models=models, **about)
"""


class EngineProcess:
    """At `url` once it is started, and again after a new start. `models`: those that it has; none named: all."""

    def __init__(self, script: Any = None, models: Sequence[str] = ()) -> None:
        self.script = script
        self.models = models
        self.url = ""

    async def start(self) -> None:
        port = int(self.url.rpartition(":")[2] or 0)
        about = {"speed": 200.0, "port": port, "script": self.script, "models": list(self.models)}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _SERVE, json.dumps(about),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = (await self._process.stdout.readline()).decode().strip()
        assert self.url, "the engine did not start"

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
