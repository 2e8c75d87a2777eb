"""Both embedded servers: data outlives crashes, a folder serves one at a time, no server its parent."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from pavane.embedded import account, postgres_binaries
from pavane.embedded.folder import EmbeddedServerError
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.server import EmbeddedServer
from pavane.embedded.valkey import EmbeddedValkey
from tests.servers import PrivateServers, poll_until


def write(server: EmbeddedServer, url: str) -> None:
    if isinstance(server, EmbeddedValkey):
        with redis.Redis.from_url(url) as client:
            client.set("kept", "yes")
    else:
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'yes' AS value")


def read(server: EmbeddedServer, url: str) -> str:
    if isinstance(server, EmbeddedValkey):
        with redis.Redis.from_url(url, decode_responses=True) as client:
            return str(client.get("kept"))
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT value FROM kept").fetchone()
        return str(row and row[0])


@pytest.fixture(params=["valkey", "postgres"])
def server(request: pytest.FixtureRequest, private_servers: PrivateServers) -> EmbeddedServer:
    started: EmbeddedServer = getattr(private_servers, request.param)(port=0)
    return started


def test_data_outlives_a_stop_and_a_kill(server: EmbeddedServer) -> None:
    url = server.url
    write(server, url)
    server.stop()
    assert not server.alive
    server.start()
    assert read(server, url) == "yes"
    server.kill()
    assert not server.alive
    server.start()
    assert read(server, url) == "yes" and server.url == url
    assert read(server, server.tcp_url) == "yes"


def test_starting_what_runs_changes_nothing(server: EmbeddedServer) -> None:
    before = server.process
    server.start()
    assert server.process is before


def test_nobody_gets_in_without_the_password(server: EmbeddedServer) -> None:
    for url in (server.url, server.tcp_url):
        wrong = url.replace(url.split(":")[2].split("@")[0], "wrong")
        with pytest.raises((redis.AuthenticationError, psycopg.OperationalError)):
            read(server, wrong)


def test_the_password_is_on_no_command_line(server: EmbeddedServer) -> None:
    password = server.url.split(":")[2].split("@")[0]
    words = Path(f"/proc/{server.process.pid}/cmdline").read_bytes().split(b"\0")
    assert not any(password.encode() in word for word in words)


def test_a_second_server_in_the_same_folder_is_refused(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavane.embedded.folder.GRACE_FOR_ORPHAN_S", 0.1)
    with pytest.raises(EmbeddedServerError, match=f"in use by process {os.getpid()}"):
        type(server)(server.data_dir).start()
    assert server.alive


def test_what_a_server_said_is_in_the_error(private_servers: PrivateServers) -> None:
    server = private_servers.valkey()
    server.stop()
    aof = next((server.data_dir / "appendonlydir").glob("*.manifest"))
    aof.write_text("nonsense")
    with pytest.raises(EmbeddedServerError, match=r"(?is)valkey ended at its start.*manifest"):
        server.start()


def test_a_long_path_still_gets_a_socket(private_servers: PrivateServers) -> None:
    server = private_servers.valkey("long" * 40)
    write(server, server.url)
    assert read(server, server.url) == "yes"
    sockets = Path(server.url.split("@")[1]).parent
    server.remove()
    assert not sockets.exists()


def test_a_folder_that_somebody_else_made_is_refused(private_servers: PrivateServers) -> None:
    open_to_all = private_servers.folder / "valkey" / "run"
    open_to_all.mkdir(parents=True)
    open_to_all.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="not a private folder"):
        private_servers.valkey()


def test_two_copies_start_at_the_same_time(private_servers: PrivateServers) -> None:
    with ThreadPoolExecutor(4) as pool:
        makers: list[Callable[..., EmbeddedServer]] = [private_servers.valkey, private_servers.postgres]
        made = [pool.submit(maker, f"{name}{n}", port=0) for name in "ab" for n, maker in enumerate(makers)]
        started = [future.result() for future in made]
    assert all(server.alive for server in started)
    assert len({server.tcp_url for server in started}) == 4


CHILD = """
import sys
from pathlib import Path
from pavane.embedded.postgres import EmbeddedPostgres
from pavane.embedded.valkey import EmbeddedValkey
servers = [EmbeddedValkey(Path(sys.argv[1]) / "v"), EmbeddedPostgres(Path(sys.argv[1]) / "p", fsync=False)]
for server in servers:
    server.start()
print(*(server.process.pid for server in servers), flush=True)
sys.stdin.read()
"""


def test_no_server_outlives_a_killed_parent_and_the_next_start_waits_for_it(
    private_servers: PrivateServers,
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", CHILD, private_servers.folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        private_servers.valkey("v")
        private_servers.postgres("p")
    for pid in pids:
        poll_until(lambda pid=pid: not runs(pid), 10)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_half_made_cluster_is_made_again(private_servers: PrivateServers) -> None:
    draft = private_servers.folder / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("18")
    assert private_servers.postgres().alive


def test_a_dead_postmasters_pid_that_somebody_else_got_does_not_matter(
    private_servers: PrivateServers,
) -> None:
    server = private_servers.postgres()
    server.kill()
    folder = Path(server.url.split("host=")[1].split("&")[0].replace("%2F", "/")).parent
    pidfile = folder / "data" / "postmaster.pid"
    lines = pidfile.read_text().splitlines()
    with EmbeddedPostgres(private_servers.folder / "other", fsync=False) as other:
        # A live process of the same account: Postgres by itself would now refuse to start.
        pidfile.write_text("\n".join([str(other.process.pid), *lines[1:]]))
        server.start()
        assert server.alive
    other.remove()


def test_psql_works(private_servers: PrivateServers) -> None:
    server = private_servers.postgres()
    done = subprocess.run(
        [server.psql, server.url, "-Atc", "SELECT current_database()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "pavane"


@pytest.fixture
def closed_home(tmp_path: Path, private_servers: PrivateServers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no other account can pass through, as /root is, with the Postgres wheel inside.

    What has to lie elsewhere lies in the test's own folder instead of the system's.
    """
    wheel = postgres_binaries.installed()
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    for name in (wheel.parent.name, f"{wheel.parent.name}.libs"):
        shutil.copytree(wheel.parent.parent / name, home / name, symlinks=True)
    monkeypatch.setattr(postgres_binaries, "installed", lambda: home / wheel.parent.name / wheel.name)
    monkeypatch.setattr(account, "SHARED_BASES", (str(private_servers.folder),))
    return home


def test_a_closed_home_is_no_obstacle_to_root(closed_home: Path) -> None:
    """Neither data nor binaries there can be reached by Postgres's account: both lie elsewhere."""
    server = EmbeddedPostgres(closed_home / "data" / "postgres", fsync=False)
    with server:
        write(server, server.url)
        server.kill()
        server.start()
        assert read(server, server.url) == "yes"
    location = server.data_dir / "location"
    home = Path(location.read_text().strip()) if location.exists() else server.data_dir
    assert home.is_relative_to(closed_home) == (os.geteuid() != 0)
    with EmbeddedPostgres(server.data_dir, fsync=False) as again:
        assert read(again, again.url) == "yes"
    again.remove()
    assert not home.exists() and not server.data_dir.exists()


def test_two_processes_copy_the_binaries_at_the_same_time(closed_home: Path, private_servers: PrivateServers) -> None:
    someone = account.server_account(closed_home / "none")
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(postgres_binaries.reachable, someone) for _ in range(2)]
        homes = {future.result() for future in made}
    assert len(homes) == 1 and (homes.pop() / "bin/postgres").exists()
    assert not list(private_servers.folder.rglob("postgres-new-*"))


def test_data_that_is_gone_is_not_silently_made_anew(tmp_path: Path) -> None:
    (tmp_path / "location").write_text(f"{tmp_path}/gone\n")
    with pytest.raises(EmbeddedServerError, match="gone; delete the file"):
        EmbeddedPostgres(tmp_path).start()


def test_a_shared_folder_that_others_may_write_to_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pavane").mkdir()
    (tmp_path / "pavane").chmod(0o777)
    monkeypatch.setattr(account, "SHARED_BASES", (str(tmp_path),))
    with pytest.raises(PermissionError, match="nobody"):
        account.shared_folder(account.Account("nobody", 65534, 65534))


def test_redis_cli_is_let_in_by_the_url(private_servers: PrivateServers) -> None:
    """redis-cli sends the user of the URL as it stands there, and "" is no user."""
    valkey = private_servers.valkey(port=0)
    url = urlsplit(valkey.tcp_url or "")
    user = url.username or ""
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=10) as line:
        line.sendall(f'AUTH "{user}" {url.password}\r\n'.encode())
        assert line.recv(100) == b"+OK\r\n"
