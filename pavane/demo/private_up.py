"""A `pavane up` of the demo's own: its data folder, its ports, its log; whatever else runs on this machine."""

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pavane.data_folder import Instance
from pavane.process_group import ADOPT, StartFailed
from pavane.settings import default_variables

START_S = 120.0
STOP_S = 60.0


class PrivateUp:
    """`with PrivateUp(options) as instance`: ready inside, stopped after it. Its folder stays unless it failed."""

    def __init__(self, options: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pavane-demo-"))
        self.folder.chmod(0o711)  # Postgres, which is another account where we are root, passes through
        self.log = self.folder / "up.log"
        self.instance: Instance | None = None
        self._options = list(options)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Raises StartFailed with the end of its log."""
        up = ["up", "--json", "--port", "0", "--data", str(self.folder), *self._options]
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(ADOPT), str(os.getpid()), sys.executable, "-P", "-m", "pavane", *up],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=default_variables(),
                process_group=0,  # Ctrl-C is ours to answer
            )

    def wait(self) -> Instance:
        """The instance, once it is ready. Raises StartFailed."""
        assert self._process is not None and self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(START_S) else ""
        if not line:
            raise StartFailed(f"`pavane up` did not start; its log says:\n{self._last_words()}")
        said = json.loads(line)
        self.instance = Instance(self._process.pid, said["api"], said["redis"], said["postgres"])
        return self.instance

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    @property
    def folders(self) -> list[Path]:
        """All that it left: its folder, and the one where Postgres lies if another account could not reach that."""
        elsewhere = self.folder / "postgres" / "location"
        return [self.folder, *([Path(elsewhere.read_text().strip())] if elsewhere.exists() else [])]

    def remove(self) -> None:
        """Stop it, and leave nothing."""
        self.stop()
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
