"""The data folder of `pavane up`: one instance at a time in it, and where that one answers."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


class FolderInUse(RuntimeError):
    """Another instance works in this folder; the text names its process."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A running `pavane up`: its process, and the URLs of what it runs. Redis and Postgres carry passwords."""

    pid: int
    api: str
    redis: str
    postgres: str
    engines: tuple[str, ...] = ()


class DataFolder:
    """Holds `lock` (flock: free as soon as its holder is dead) and `instance.json` (readable by us alone)."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Work in this folder alone. Raises FolderInUse, and OSError where it can not be made."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode().strip() or "unknown"
                raise FolderInUse(
                    f"{self.path} is in use by process {holder}; stop that one, or take another --data"
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            self._state.unlink(missing_ok=True)
            yield
        finally:
            os.close(lock)

    @contextmanager
    def announced(self, instance: Instance) -> Iterator[None]:
        """Leave word where this instance answers, for the commands that look for it."""
        draft = self._state.with_suffix(".new")
        draft.unlink(missing_ok=True)
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(asdict(instance)))
        draft.rename(self._state)
        try:
            yield
        finally:
            self._state.unlink(missing_ok=True)

    def running(self) -> Instance | None:
        """The instance that works in this folder now; None where none does, or it is not ready yet."""
        try:
            text = self._state.read_text()
            lock = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # killed: what it left is stale
        except BlockingIOError:
            known = json.loads(text)
            return Instance(**{**known, "engines": tuple(known["engines"])})
        finally:
            os.close(lock)

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @property
    def _state(self) -> Path:
        return self.path / "instance.json"
