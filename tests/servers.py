"""The servers that the tests share: one Postgres for the whole run, one Valkey for each worker.

The process that the user started (xdist's controller, or pytest itself) owns Postgres, so that it outlives
every worker. It starts when the first test asks for it: workers ask by a FIFO, the owner answers with a file.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from history.migration import migrations
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey

Server = TypeVar("Server", EmbeddedValkey, EmbeddedPostgres)

FOLDER_VARIABLE = "PAVANE_TEST_FOLDER"  # tells workers where the owner listens
REDIS_VARIABLE = "PAVANE_TEST_REDIS_URL"
DATABASE_VARIABLE = "PAVANE_TEST_DATABASE_URL"
ASK, CLOSE = b"?", b"."
START_DEADLINE_S = 90


def private_folder() -> Path:
    """A short-named temporary folder that a server running as another account can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="pavane-test-"))
    folder.chmod(0o711)
    return folder


DISCONNECT_OTHERS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
SCHEMAS = r"SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"

MIGRATED = {"migrations", *re.findall(r"^CREATE TABLE (\w+)", "".join(m.sql for m in migrations()), re.MULTILINE)}
"""The tables of this release, but for partitions of months."""
MONTH = re.compile(r"execution_events_\d{4}_\d{2}")


def empty_database(admin: psycopg.Connection[Any]) -> None:
    """Take what a test has left: the rows, where nothing but our own tables is there, since making these costs more
    than most tests; else everything."""
    schemas = [name for (name,) in admin.execute(SCHEMAS).fetchall()]
    tables = {name for (name,) in admin.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') "
                                               "AND relnamespace = to_regnamespace('public')").fetchall()}  # fmt: skip
    months = {name for name in tables if MONTH.fullmatch(name)}
    if schemas != ["public"] or tables - months != MIGRATED or not _is_current(admin):
        for name in schemas:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))
        admin.execute("CREATE SCHEMA public")
        return
    for name in months:
        admin.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
    kept = MIGRATED - {"migrations", "execution_events"}
    question = sql.SQL(" UNION ALL ").join(
        sql.SQL("SELECT {} WHERE EXISTS (SELECT FROM {})").format(name, sql.Identifier(name)) for name in kept
    )
    if full := [sql.Identifier(name) for (name,) in admin.execute(question).fetchall()]:
        admin.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(sql.SQL(", ").join(full)))


def _is_current(admin: psycopg.Connection[Any]) -> bool:
    """Whether all migrations are applied, and no other."""
    known = [version for (version,) in admin.execute("SELECT version FROM migrations ORDER BY version").fetchall()]
    return known == [migration.version for migration in migrations()]


class SharedPostgres:
    """The owner's side: waits for the first question, then starts the server and writes down its URL."""

    def __init__(self) -> None:
        self.folder = private_folder()
        self._server = EmbeddedPostgres(self.folder / "postgres", fsync=False)
        self._thread = threading.Thread(target=self._answer, name="shared-postgres", daemon=True)

    def listen(self) -> None:
        os.mkfifo(self.folder / "ask")
        # Opened for both directions, so that neither side ever waits for the other to open.
        self._ask = os.open(self.folder / "ask", os.O_RDWR)
        self._thread.start()
        os.environ[FOLDER_VARIABLE] = str(self.folder)

    def close(self) -> None:
        os.write(self._ask, CLOSE)
        self._thread.join()
        os.close(self._ask)
        self._server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answer(self) -> None:
        if os.read(self._ask, 1) == CLOSE:
            return
        try:
            self._server.start()
            answer = self._server.url
        except Exception as error:
            answer = f"failed: {error}"
        draft = self.folder / "url.new"
        draft.write_text(answer)
        draft.rename(self.folder / "url")


def shared_postgres_url() -> str:
    """A worker's side. Raises RuntimeError with the reason where the server does not start."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    (folder / "ask").write_bytes(ASK)
    answer = folder / "url"
    poll_until(answer.exists, START_DEADLINE_S)
    url = answer.read_text()
    if url.startswith("failed: "):
        raise RuntimeError(url)
    return url


def poll_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """What another process brings about, and nobody tells: looked at again and again. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {timeout_s:g} s: {condition}")
        time.sleep(0.01)


class PrivateServers:
    """Servers of one test, to be killed and started again: `valkey()` and `postgres()` make started ones."""

    def __init__(self) -> None:
        self.folder = private_folder()
        self._made: list[EmbeddedValkey | EmbeddedPostgres] = []

    def valkey(self, name: str = "valkey", *, port: int | None = None) -> EmbeddedValkey:
        """What it has answered survives its kill, however slow the disk is."""
        return self._started(EmbeddedValkey(self.folder / name, port=port, appendfsync="no"))

    def postgres(self, name: str = "postgres", *, port: int | None = None) -> EmbeddedPostgres:
        return self._started(EmbeddedPostgres(self.folder / name, port=port, fsync=False))

    def _started(self, server: Server) -> Server:
        self._made.append(server)
        server.start()
        return server

    def close(self) -> None:
        for server in self._made:
            server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
