"""Control, dead letters, approvals and events, as a person at a terminal has them: on a real `pavane up`."""

import fcntl
import getpass
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from click.testing import Result

from tests.cli.conftest import UpProcess

Wait = Callable[..., Awaitable[Any]]
HANDLERS = '''"""Handlers of a test."""

import fcntl
from pathlib import Path

from agent_runner.handlers import PermanentError


def mended(path: str, name: str) -> dict:
    """Fails until there is a file."""
    if not Path(path).exists():
        raise PermanentError(f"{name} is broken")
    return {"name": name}


def slow(path: str) -> dict:
    """Lasts until nobody holds the file."""
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    return {"done": True}
'''
ORDER = """
id: order
nodes:
  - {id: draft, type: transform, config: {set: {text: "'for ' + input.name"}}}
  - id: review
    type: human
    config: {prompt: "Send {{ output.text }}?", assignee: ada, choices: [approve, reject]}
  - {id: paid, type: wait, config: {event: paid, key: "{{ input.name }}"}}
edges:
  - {from: draft, to: review}
  - {from: review, to: paid}
"""


@pytest.fixture
def here(up: Callable[..., UpProcess], up_folder: Path, tmp_path: Path, monkeypatch: Any) -> tuple[str, Path]:
    """Options of every command; the process runs the handlers of this file."""
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    up("--engine", "simulated", "--handlers", "hands")
    return ("--data", up_folder)


def workflow(tmp_path: Path, *nodes: Any, **more: Any) -> Path:
    path = tmp_path / f"{more.get('id', 'w')}.yaml"
    edges = [{"from": one["id"], "to": other["id"]} for one, other in pairwise(nodes)]
    path.write_text(yaml.safe_dump({"id": "w", "nodes": list(nodes), "edges": edges, **more}))
    return path


def function(node: str, handler: str, **args: Any) -> dict[str, Any]:
    return {"id": node, "type": "function", "config": {"handler": handler, "args": args}}


def held(path: Path) -> IO[str]:
    """A file that `slow` waits for, until it is closed."""
    file = path.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


async def test_control_at_a_terminal(
    here: tuple[str, Path], pavane: Callable[..., Result], tmp_path: Path, wait_until: Wait
) -> None:
    """One `pavane up` for all parts: starting it costs more than each of them."""
    for part in (pause_resume_and_retry, a_batch_that_is_paused, what_waits_for_people_and_events):
        folder = tmp_path / part.__name__
        folder.mkdir()
        await part(here, pavane, folder, wait_until)


async def pause_resume_and_retry(
    here: tuple[str, Path], pavane: Callable[..., Result], tmp_path: Path, wait_until: Wait
) -> None:
    def status(run_id: str) -> Any:
        return json.loads(pavane("show", run_id, "--json", *here).stdout)["status"]

    go, fix = held(tmp_path / "go"), tmp_path / "fix"
    broken = function("b", "mended", path=str(fix), name="{{ input.name }}")
    made = workflow(tmp_path, function("a", "slow", path=go.name), broken)
    pavane("run", made, "--input", '{"name": "Ada"}', "--run-id", "mine", *here)
    paused = pavane("pause", "mine", "--reason", "lunch", *here)
    assert (paused.exit_code, paused.stdout) == (0, "mine: PAUSED\n"), paused.output
    go.close()
    await wait_until(lambda: "parked" in pavane("show", "mine", *here).stdout)
    assert pavane("resume", "mine", *here).stdout == "mine: RUNNING\n"
    await wait_until(lambda: status("mine") == "FAILED")
    assert pavane("retry", "mine", "--paused", *here).stdout == "mine: PAUSED\n"
    assert pavane("resume", "mine", *here).stdout == "mine: RUNNING\n"
    await wait_until(lambda: status("mine") == "FAILED")

    # The dead letter: found, looked at, retried.
    (letter,) = json.loads(pavane("letters", "--class", "handler", "--json", *here).stdout)["dead_letters"]
    assert "Ada is broken" in pavane("letters", *here).stdout
    shown = pavane("letters", "show", letter["id"], *here).stdout
    assert "given to b" in shown and '{"done": true}' in shown and "mine, FAILED" in shown
    assert pavane("letters", "--node", "a", *here).stdout == "no dead letters\n"
    fix.touch()
    assert pavane("letters", "retry", letter["id"], *here).stdout == "mine: RUNNING\n"
    await wait_until(lambda: status("mine") == "COMPLETED")
    refused = pavane("retry", "mine", *here)
    assert refused.exit_code == 1 and "COMPLETED" in refused.stderr
    assert pavane("pause", "nobody", *here).exit_code == 2
    logs = pavane("logs", "mine", "-f", *here).stdout
    assert logs.splitlines()[-1].split(None, 3)[3].startswith("COMPLETED")

    # A batch of which all fail: retried as a whole; what is left of it dropped.
    fix.unlink()
    items = tmp_path / "items.jsonl"
    items.write_text('{"name": "Ada"}\n{"name": "Alan"}\n')
    only = workflow(tmp_path, broken, id="only")
    batch = pavane("run", only, "--items", items, *here).stdout.strip()
    assert pavane("monitor", batch, *here).exit_code == 1
    tried = json.loads(pavane("letters", "retry", "--batch", batch, "--limit", "1", "--json", *here).stdout)
    assert (tried["found"], tried["retried"]) == (1, 1)
    await wait_until(lambda: len(json.loads(pavane("letters", "--json", *here).stdout)["dead_letters"]) == 2)
    fix.touch()
    dropped, _ = json.loads(pavane("letters", "--json", *here).stdout)["dead_letters"]
    assert pavane("letters", "drop", dropped["id"], "--reason", "a test", *here).exit_code == 0
    assert f"dropped by {getpass.getuser()}: a test" in pavane("letters", "--dropped", *here).stdout
    assert pavane("retry", batch, *here).stdout == f"{batch}: RUNNING, 2 runs retried\n"
    await wait_until(lambda: json.loads(pavane("monitor", batch, "--snapshot", "--json", *here).stdout)["done"] == 2)
    assert pavane("pause", batch, *here).exit_code == 1
    assert pavane("letters", "retry", *here).exit_code == 2
    assert pavane("letters", "drop", dropped["id"], *here).exit_code == 2


async def a_batch_that_is_paused(
    here: tuple[str, Path], pavane: Callable[..., Result], tmp_path: Path, wait_until: Wait
) -> None:
    go, items = held(tmp_path / "go"), tmp_path / "items.jsonl"
    items.write_text("{}\n{}\n")
    made = workflow(tmp_path, function("a", "slow", path=go.name), function("b", "slow", path=go.name))
    batch = pavane("run", made, "--items", items, *here).stdout.strip()
    await wait_until(lambda: "running" in pavane("ps", "--batch", batch, *here).stdout.lower())
    assert "PAUSED" in pavane("pause", batch, *here).stdout
    go.close()
    snapshot = pavane("monitor", batch, "--snapshot", *here).stdout
    assert f"PAUSED  by {getpass.getuser()}" in snapshot and f"pavane resume {batch}" in snapshot
    assert "RUNNING" in pavane("resume", batch, *here).stdout
    watched = pavane("monitor", batch, *here)
    assert watched.exit_code == 0 and "2 done, 0 failed of 2" in watched.stdout


async def what_waits_for_people_and_events(
    here: tuple[str, Path], pavane: Callable[..., Result], tmp_path: Path, wait_until: Wait
) -> None:
    path = tmp_path / "order.yaml"
    path.write_text(ORDER)
    pavane("run", path, "--input", '{"name": "Eve"}', "--run-id", "run_1", *here)
    await wait_until(lambda: "Send for Eve?" in pavane("approvals", "--assignee", "ada", *here).stdout)
    assert 'ada: "Send for Eve?"' in pavane("show", "run_1", *here).stdout
    assert pavane("approvals", "--assignee", "alan", *here).stdout.count("\n") == 1
    wrong = pavane("complete", "run_1", "review", "--choice", "perhaps", *here)
    assert wrong.exit_code == 1 and "approve" in wrong.stderr
    assert pavane("complete", "run_1", "review", *here).exit_code == 2
    done = pavane("complete", "run_1", "review", "--choice", "approve", *here)
    assert (done.exit_code, done.stdout) == (0, "run_1: review is answered, the run is RUNNING\n"), done.output
    await wait_until(lambda: "event paid for Eve" in pavane("show", "run_1", *here).stdout)
    assert pavane("complete", "run_1", "review", "--choice", "reject", *here).exit_code == 1
    assert pavane("event", "paid", "--key", "Ada", *here).stdout == "paid: 0 that waited for it go on\n"
    assert json.loads(pavane("event", "paid", "--key", "Eve", "--output", '{"sum": 3}', "--json", *here).stdout) == {
        "completed": 1, "runs": ["run_1"],
    }  # fmt: skip
    await wait_until(lambda: json.loads(pavane("show", "run_1", "--json", *here).stdout)["output"] == {"sum": 3})
    declined = pavane("run", path, "--input", '{"name": "Eve"}', "--run-id", "run_2", *here)
    assert declined.exit_code == 0
    await wait_until(lambda: "run_2" in pavane("approvals", *here).stdout)
    assert pavane("complete", "run_2", "review", "--error", "not mine", *here).exit_code == 0
    await wait_until(lambda: "rejected: not mine" in pavane("show", "run_2", *here).stdout)
