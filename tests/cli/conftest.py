"""The command in this process, and a `pavane up` in one of its own."""

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pavane.cli.main import app
from tests.servers import private_folder

START_S = 60


@pytest.fixture
def pavane(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """`pavane("validate", file)`: the command's result. It finds no instance but the one that `data` names."""
    monkeypatch.setenv("PAVANE_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("PAVANE_PORT", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object, given: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], input=given)

    return call


class UpProcess:
    """`pavane up --json --port 0` on a folder; its log lines are kept."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self.urls: dict[str, str] = {}
        self._options = options
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "pavane", "up", "--json", "--port", "0", "--data", str(self.folder)]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*command, *self._options], stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(START_S), "pavane up said nothing"
        self.urls = json.loads(self.process.stdout.readline() or "{}")
        assert self.urls, self.log.read_text()

    def interrupt(self) -> int:
        """Ctrl-C, as a terminal sends it: to the whole process group."""
        assert self.process is not None and self.process.stdout is not None
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(40)
        assert self.process.stdout.read() == "", "only the one JSON line goes to stdout"
        self.process.stdout.close()
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def child(self, *words: str) -> int | None:
        """The pid of the child whose command line has all these words."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if all(word.encode() in command for word in words):
                return int(pid)
        return None


@pytest.fixture
def up_folder() -> Iterator[Path]:
    import shutil

    folder = private_folder()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def up(up_folder: Path) -> Iterator[Callable[..., UpProcess]]:
    """`up("--engine", "simulated")`: a started process; killed at the end if it still runs."""
    made: list[UpProcess] = []

    def make(*options: str) -> UpProcess:
        process = UpProcess(up_folder, *options)
        made.append(process)
        process.start()
        return process

    yield make
    for process in made:
        process.kill()
