"""Commands that need no server: validate, and how bad use is told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pavane.settings import examples_folder

Pavane = Callable[..., Result]


WORKFLOWS = sorted(file for file in examples_folder().rglob("*.yaml") if not file.name.endswith("cases.yaml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_example_is_valid(pavane: Pavane, file: Path) -> None:
    result = pavane("validate", file)
    assert result.exit_code == 0, result.output


def test_validate_prints_every_problem_with_place_and_code(pavane: Pavane, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    nodes = [{"id": "a", "type": "agnt", "config": {}}, {"id": "b", "type": "agent", "config": {"prompt": "x"}}]
    file.write_text(json.dumps({"id": "w", "nodes": nodes, "edges": [{"from": "a", "to": "nowhere"}]}))
    said = pavane("validate", file)
    assert said.exit_code == 1
    for place in ("/nodes/0/type", "/nodes/1/config", "/edges/0/to"):
        assert any(line.startswith(place) for line in said.stdout.splitlines()), said.stdout
    machine = json.loads(pavane("validate", file, "--json").stdout)
    assert machine["valid"] is False
    assert len(machine["errors"]) == len(said.stdout.splitlines())
    assert all(set(problem) == {"path", "code", "message"} for problem in machine["errors"])


def test_validate_reads_stdin(pavane: Pavane) -> None:
    text = "id: w\nnodes:\n  - {id: a, type: function, config: {handler: f}}\nedges: []\n"
    assert pavane("validate", "-", given=text).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "1", "--with", "{"],
        ["eval", "1", "--with", "[1]"],
        ["eval", "1", "--with", "@no-such-file"],
        ["validate"],
        ["validate", "no-such-file.yaml"],
        ["no-such-command"],
        ["ps", "--limit", "0"],
        ["run", "w.yaml"],
        ["run", "w", "--input", "{}", "--items", "x.jsonl"],
        ["run", "w", "--input", "{}", "--key", "item.id"],
        ["run", "w", "--sql", "SELECT 1"],
        ["run", "w", "--input", "{}", "--connection", "warehouse"],
        ["run", "w", "--sql", "SELECT 1", "--connection", "w", "--items", "x.jsonl"],
        ["run", "w", "--sql", "@no-such-file", "--connection", "w"],
        ["complete", "run_1", "review", "--choice", "approve", "--error", "no"],
        ["complete", "run_1", "review", "--output", "{"],
        ["letters", "retry"],
        ["letters", "retry", "1-0", "--class", "timeout"],
        ["letters", "drop", "1-0"],
        ["runner"],
        ["runner", "--engine", "abacus"],
        ["runner", "--types", "agent"],
        ["runner", "--types", "function", "--handlers", "no_such_module"],
        ["up", "--engine", "abacus"],
        ["up", "--engine", "simulated", "--gpus", "3GB"],
        ["up", "--engine", "simulated", "--gpus", "8GB,"],
        ["up", "--engine", "simulated", "--gpus", "0x8GB"],
        ["up", "--engine", "simulated", "--gpus", "65x8GB"],
        ["up", "--engine", "simulated", "--gpus", "8GB,24GB", "--runners", "3"],
        ["up", "--gpus", "8GB"],
        ["runner", "--engine", "ollama", "--memory", "much"],
        ["runner", "--engine", "ollama", "--kind", "a b"],
        ["up", "--runners", "2", "--url", "http://127.0.0.1:1"],
    ],
    ids=" ".join,
)
def test_bad_use_is_told_and_exits_2(pavane: Pavane, words: list[str]) -> None:
    result = pavane(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("words", [["up", "--engine", "simulated"], ["engine"]], ids=" ".join)
def test_simulation_has_a_highest_speed_and_says_why(pavane: Pavane, words: list[str]) -> None:
    result = pavane(*words, "--speed", "51")
    assert result.exit_code == 2
    assert "at most 50" in result.stderr and "2 ms" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["ps"],
        ["show", "run_1"],
        ["logs", "run_1"],
        ["logs", "run_1", "-f"],
        ["stop", "run_1"],
        ["pause", "batch_1"],
        ["retry", "mine"],
        ["letters"],
        ["letters", "drop", "1-0", "--reason", "a test"],
        ["approvals"],
        ["complete", "run_1", "review", "--choice", "approve"],
        ["event", "paid"],
        ["results", "batch_1"],
        ["monitor", "batch_1", "--snapshot"],
        ["redis", "PING"],
        ["psql", "-c", "select 1"],
        ["ps", "--api", "http://127.0.0.1:1"],
    ],
    ids=" ".join,
)
def test_not_reachable_says_what_to_do_and_exits_3(pavane: Pavane, words: list[str]) -> None:
    result = pavane(*words)
    assert result.exit_code == 3, result.output
    assert "pavane up" in result.stderr or "`pavane up`" in result.stderr


def test_a_service_without_its_servers_exits_3() -> None:
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:1", "DATABASE_URL": "postgresql://127.0.0.1:1/x"}
    command = [sys.executable, "-m", "pavane", "coordinator", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Redis is not reachable" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_failure_is_json_where_json_was_asked_for(pavane: Pavane) -> None:
    result = pavane("ps", "--json")
    assert result.stdout == ""
    assert "does not answer" in json.loads(result.stderr)["error"]


def test_a_bad_setting_names_its_variable(pavane: Pavane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAVANE_RETENTION_S", "soon")
    result = pavane("ps")
    assert result.exit_code == 2
    assert "PAVANE_RETENTION_S" in result.stderr
