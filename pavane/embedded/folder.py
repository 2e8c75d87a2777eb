"""A server's folder: one server at a time in it, whatever was killed in between."""

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path

from pavane.embedded.account import Account

LONGEST_SOCKET_PATH = 100  # sun_path holds 104 (macOS) or 108 (Linux) bytes
GRACE_FOR_LIVE_OWNER_S = 3.0
GRACE_FOR_ORPHAN_S = 30.0


class EmbeddedServerError(RuntimeError):
    """An embedded server can not run; the text says why, and what its log said last."""


class ServerFolder:
    """Lock, password and socket folder of one server.

    The lock (flock) is inherited by the server and by everything it forks, and is not kept by us. So it is
    free exactly when the last process of the former server has gone, even after kill -9 of anybody.
    """

    def __init__(self, path: Path, *, account: Account | None = None) -> None:
        self.path = path
        self._account = account
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Another account must pass through to what it owns inside, but may not look around.
        path.chmod(0o711 if account else 0o700)

    @property
    def sockets(self) -> Path:
        """Private folder for the Unix socket: inside, or a short one elsewhere if that path is too long."""
        inside = self.path / "run"
        if len(os.fsencode(inside / ".s.PGSQL.65535.lock")) <= LONGEST_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:16]
        temporary = tempfile.gettempdir()  # another account might not reach ours
        base = "/var/tmp" if self._account or len(temporary) > LONGEST_SOCKET_PATH // 2 else temporary
        return Path(base) / f"pavane-{os.geteuid()}-{digest}"

    def private(self, path: Path) -> Path:
        """Makes `path` a folder that the server's account alone can enter; refuses somebody else's."""
        owner = self._account.uid if self._account else os.geteuid()
        try:
            path.mkdir(mode=0o700)
            if self._account:
                os.chown(path, self._account.uid, self._account.gid)
        except FileExistsError:
            found = path.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
                raise EmbeddedServerError(f"{path} is not a private folder of account {owner}") from None
        return path

    def remove(self) -> None:
        """Deletes everything in it. The server must be stopped."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def password(self) -> str:
        """The server's password: made once, readable by us alone."""
        file = self.path / "password"
        if not file.exists():
            draft = self.path / "password.new"
            draft.unlink(missing_ok=True)
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_hex(16))
            draft.rename(file)
        return file.read_text().strip()

    def lock(self, *, end_orphan: signal.Signals) -> int:
        """Takes the lock and returns its file descriptor, to be handed to the server and then closed.

        Waits for a former server that is still going down. Raises EmbeddedServerError where another live
        process has its server in this folder.
        """
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                owner, server = self._holder(lock)
            foreign = owner != os.getpid() and _is_alive(owner)
            if time.monotonic() - began > (GRACE_FOR_LIVE_OWNER_S if foreign else GRACE_FOR_ORPHAN_S):
                os.close(lock)
                raise EmbeddedServerError(f"{self.path} is in use by process {owner or 'unknown'}")
            if server and not _is_alive(owner):
                _signal(server, end_orphan)
            time.sleep(0.02)  # looked at again: flock has no limit of time, and the owner may die in between

    def note_holder(self, lock: int, server: int) -> None:
        """Leaves word who runs this server, for whoever finds the lock taken."""
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {server}".encode(), 0)

    @staticmethod
    def _holder(lock: int) -> tuple[int, int]:
        words = os.pread(lock, 64, 0).split()
        return (int(words[0]), int(words[1])) if len(words) == 2 else (0, 0)


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it went by itself
