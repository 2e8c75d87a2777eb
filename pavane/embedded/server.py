"""A server as a child process that never outlives us."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import AF_INET, SOCK_STREAM, socket
from types import TracebackType
from typing import ClassVar, Self

from pavane.embedded.account import Account
from pavane.embedded.folder import EmbeddedServerError, ServerFolder

LAUNCH = Path(__file__).with_name("launch.py")
LARGEST_LOG = 8 * 1024 * 1024  # bytes, before the log is put aside at the next start

# Linux sends the death signal when the *thread* that forked ends. This one ends with the interpreter.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedded-servers")


class EmbeddedServer(ABC):
    """Starts a server in a folder of its own, says when it is ready, and stops it.

    All methods block (use `asyncio.to_thread`); none is safe to call from two threads at once. A folder is
    used by one server at a time: `start` waits for a former one that is going down.
    """

    name: ClassVar[str]
    stop_signals: ClassVar[tuple[signal.Signals, ...]]  # gentle first; SIGKILL is always the last resort

    def __init__(self, data_dir: Path, *, port: int | None, start_timeout_s: float) -> None:
        self.data_dir = data_dir.absolute()
        self.process: subprocess.Popen[bytes] | None = None
        self._wanted_port = port
        self._tcp_port = port or None
        self._start_timeout_s = start_timeout_s

    @property
    def alive(self) -> bool:
        """Whether the server process runs. After a crash, `start` brings it back on the same data."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the server and returns when it answers. Does nothing where it runs.

        Raises EmbeddedServerError with the end of the server's log.
        """
        if self.alive:
            return
        if self._wanted_port == 0 and (self._tcp_port is None or not _is_free(self._tcp_port)):
            self._tcp_port = _free_port()  # kept over restarts, so that URLs stay true
        folder = self._prepare()
        try:
            lock = folder.lock(end_orphan=self.stop_signals[0])
            try:
                self.process = self._launch(folder, lock)
                folder.note_holder(lock, self.process.pid)
            finally:
                os.close(lock)  # from here on the server alone holds it
            self._wait_until_ready(folder)
        except BaseException:
            self.stop(timeout_s=5)
            raise

    def stop(self, timeout_s: float = 30) -> None:
        """Ends the server in order, harder if it takes longer than `timeout_s`. Its data stays."""
        if self.process is None:
            return
        for number in (*self.stop_signals, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()
        self.process = None

    def kill(self) -> None:
        """SIGKILL, as a power cut would do. `start` brings it back on the same data."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @abstractmethod
    def _prepare(self) -> ServerFolder: ...

    @abstractmethod
    def _launch(self, folder: ServerFolder, lock: int) -> "subprocess.Popen[bytes]": ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _spawn(
        self, command: Sequence[str | Path], folder: ServerFolder, lock: int, account: Account | None = None
    ) -> "subprocess.Popen[bytes]":
        uid, gid = (account.uid, account.gid) if account else (-1, -1)
        launch = [sys.executable, "-I", "-S", LAUNCH, os.getpid(), int(self.stop_signals[0]), uid, gid]
        log = self._log(folder)
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            log.rename(log.with_suffix(".log.old"))
        with log.open("ab") as output:
            return _spawner.submit(
                subprocess.Popen,
                [str(word) for word in (*launch, *command)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd="/",
                env=environment(),
                pass_fds=[lock],
            ).result()

    def _wait_until_ready(self, folder: ServerFolder) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._answers():
            if not self.alive:
                raise self._failed("ended at its start", folder)
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {self._start_timeout_s:g} s", folder)
            time.sleep(0.01)  # asked again: neither server tells when it listens, and it may end instead

    def _log(self, folder: ServerFolder) -> Path:
        return folder.path / f"{self.name}.log"

    def _failed(self, what: str, folder: ServerFolder) -> EmbeddedServerError:
        said = "\n".join(self._log(folder).read_text(errors="replace").splitlines()[-15:])
        return EmbeddedServerError(f"{self.name} {what}; its log says:\n{said}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def environment() -> dict[str, str]:
    """What a server sees of ours: no credential, no PG* variable; a Python may need its library path."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | kept


def _free_port() -> int:
    with socket(AF_INET, SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket(AF_INET, SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
