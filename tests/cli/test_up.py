"""`pavane up` as a user has it: a process that serves, mends itself, drains, and goes on after a restart."""

import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis
from click.testing import Result

from tests.cli.conftest import UpProcess

Wait = Callable[..., Awaitable[Any]]
WORDS = Path(__file__).parent.parent.parent / "examples" / "wordcount.yaml"
HANDLERS = '''"""Handlers of a test."""

from pathlib import Path


def count_words(text: str) -> dict:
    return {"words": len(text.split())}


def second_time(mark: str) -> dict:
    """Fails the first time."""
    path = Path(mark)
    if not path.exists():
        path.touch()
        raise RuntimeError("not yet")
    return {"said": "now"}
'''


def submit(up: UpProcess, run_id: str, node: dict[str, Any], **given: Any) -> None:
    workflow = {"id": "w", "nodes": [{"id": "a", "type": "function", **node}], "edges": []}
    body = {"run_id": run_id, "workflow": workflow, "input": given}
    assert httpx.post(f"{up.urls['api']}/runs", json=body).status_code == 201


def status(up: UpProcess, run_id: str) -> str:
    try:
        return str(httpx.get(f"{up.urls['api']}/runs/{run_id}").json()["status"])
    except httpx.TransportError:
        return "unreachable"


def gpus(up: UpProcess) -> list[tuple[str, str, int]]:
    runners = httpx.get(f"{up.urls['api']}/runners").json()["runners"]
    return [(runner["gpu"], runner["kind"], runner["memory"]) for runner in runners if runner["engine"]]


async def test_a_session(
    up: Callable[..., UpProcess], up_folder: Path, pavane: Callable[..., Result], tmp_path: Path,
    monkeypatch: Any, wait_until: Wait,
) -> None:  # fmt: skip
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    running = up("--engine", "simulated", "--gpus", "8GB,24GB", "--handlers", "hands")
    assert set(running.urls) == {"api", "redis", "postgres"}
    assert redis.Redis.from_url(running.urls["redis"]).ping()
    psycopg.connect(running.urls["postgres"]).close()
    here = ("--data", up_folder)
    await wait_until(lambda: gpus(running) == [("gpu-1", "8GB", 7_400_000_000), ("gpu-2", "24GB", 22_500_000_000)])

    # A run, seen by every command.
    done = pavane("run", WORDS, "--input", '{"text": "a b c"}', "--run-id", "run_1", "--watch", "--json", *here)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output"] == {"size": "short", "words": 3}
    lines = pavane("logs", "run_1", "-f", *here).stdout.splitlines()
    assert "started: wordcount" in lines[0]
    assert any("size: default" in line and "-> short" in line for line in lines), lines
    assert "COMPLETED after" in lines[-1]
    assert "COMPLETED" in pavane("show", "run_1", *here).stdout
    assert "status = COMPLETED" in pavane("redis", *here, "--eval", "inspect_run", "run_1").stdout
    await wait_until(lambda: "run_1" in pavane("ps", "--status", "completed", *here).stdout)
    rows = pavane("psql", *here, "--json", "select status from run_projection where run_id = 'run_1'")
    assert json.loads(rows.stdout) == [{"status": "COMPLETED"}]
    assert pavane("show", "run_2", *here).exit_code == 2
    assert pavane("stop", "run_1", *here).exit_code == 1

    # A batch, and its results as a file.
    items = tmp_path / "items.csv"
    items.write_text("text\none\none two\n")
    batch = pavane("run", WORDS, "--items", items, "--key", "item.text", *here).stdout.strip()
    watched = pavane("monitor", batch, *here)
    assert watched.exit_code == 0, watched.output
    assert "2 done, 0 failed of 2" in watched.stdout
    assert "count" in pavane("monitor", batch, "--snapshot", *here).stdout
    kept = tmp_path / "results.csv"
    assert pavane("results", batch, "--csv", "--fields", "words", "-o", kept, *here).exit_code == 0
    assert [line.split(",")[3] for line in kept.read_text().splitlines()] == ["words", "1", "2"]

    # kill -9 of a service: it comes back on the same port, and that is said.
    for service in ("api", "coordinator"):
        pid = running.child(service)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda service=service, pid=pid: running.child(service) not in (None, pid))
        assert any(line["message"].startswith(f"{service} ended (signal 9)") for line in running.lines())
    server = int((up_folder / "valkey" / "lock").read_text().split()[1])
    os.kill(server, signal.SIGKILL)
    await wait_until(lambda: any(line["message"] == "valkey is back" for line in running.lines()))
    submit(running, "run_3", {"config": {"handler": "count_words", "args": {"text": "x"}}})
    await wait_until(lambda: status(running, "run_3") == "COMPLETED")


async def test_what_is_unfinished_goes_on_after_ctrl_c(
    up: Callable[..., UpProcess], tmp_path: Path, monkeypatch: Any, wait_until: Wait
) -> None:
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "mark"
    first = up("--engine", "simulated", "--handlers", "hands")
    submit(
        first,
        "run_1",
        {
            "config": {"handler": "second_time", "args": {"mark": str(mark)}},
            "retry": {"max_attempts": 2, "backoff_ms": 6_000},
        },
    )
    await wait_until(lambda: "task_retried" in httpx.get(f"{first.urls['api']}/runs/run_1/events").text)
    assert first.interrupt() == 0
    order = [line["service"] for line in first.lines() if line["message"] == "stopped"]
    assert order.index("api") < order.index("tasks") < order.index("coordinator") < order.index("recorder")
    assert order[-1] == "engine"

    again = up("--engine", "simulated", "--handlers", "hands")
    await wait_until(lambda: status(again, "run_1") == "COMPLETED", 20)
    events = [event["type"] for event in httpx.get(f"{again.urls['api']}/runs/run_1/events").json()["events"]]
    assert events.count("task_started") == 2


def test_one_instance_a_folder(up: Callable[..., UpProcess], up_folder: Path, pavane: Callable[..., Result]) -> None:
    up("--engine", "simulated")
    second = pavane("up", "--engine", "simulated", "--port", "0", "--data", up_folder)
    assert second.exit_code == 1
    assert "in use by process" in second.stderr
