"""The stand: real servers and real service processes, as `pavane` runs them, for the time of a measurement."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey

ROOT = Path(__file__).resolve().parent.parent
SLOTS = "128"


@dataclass(frozen=True, slots=True)
class Stand:
    redis_url: str
    database_url: str
    api_url: str = ""


@contextmanager
def stand(*, runners: int = 2, api: bool = False, services: Sequence[Sequence[str]] = ()) -> Iterator[Stand]:
    """One coordinator, one recorder, function runners, and the API if asked for, each a process of its own.

    `services`: more of them, each what follows `pavane`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="pavane-bench-", ignore_cleanup_errors=True) as folder,
        EmbeddedValkey(Path(folder) / "valkey") as valkey,
        EmbeddedPostgres(Path(folder) / "postgres") as postgres,
    ):
        env = os.environ | {
            "REDIS_URL": valkey.url, "DATABASE_URL": postgres.url, "PAVANE_LOG_LEVEL": "WARNING",
            "PAVANE_DATA": folder,
        }  # fmt: skip
        started: list[Sequence[str]] = [("recorder",), ("coordinator",)]
        started += [("runner", "--types", "function", "--handlers", "benchmarks.handlers", "--slots", SLOTS)] * runners
        processes = []
        url = ""
        try:
            for service in [*started, *services]:
                processes.append(_start(service, env)[0])
            if api:
                process, url = _start(("api", "--port", "0"), env)
                processes.append(process)
            yield Stand(valkey.url, postgres.url, url)
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(30)


def _start(service: Sequence[str], env: dict[str, str]) -> tuple[subprocess.Popen[bytes], str]:
    """A service, when it has said that it is ready, and what it said: its URL, where it has one."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pavane", *service, "--ready-fd", str(writing)]
    process = subprocess.Popen(command, env=env, cwd=ROOT, pass_fds=(writing,))
    os.close(writing)
    with os.fdopen(reading) as ready:
        said = ready.readline().strip()
    if not said:
        raise RuntimeError(f"`pavane {' '.join(service)}` did not start")
    return process, said
