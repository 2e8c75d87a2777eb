"""Patches of a batch, as a person at a terminal has them: on a real `pavane up`; what tables show at 80 columns."""

import getpass
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer import BadParameter

from pavane.cli.batch_patches import batch_options, why
from tests.cli.conftest import UpProcess

Wait = Callable[..., Awaitable[Any]]
WORKFLOW = """
id: talk
nodes:
  - {id: hear, type: wait, config: {event: heard}}
  - {id: say, type: transform, config: {set: {text: "'hello ' + input.name"}}}
edges:
  - {from: hear, to: say}
"""
PATCH = """
- {op: replace, path: /nodes/say/config/set/text, value: "'welcome ' + input.name"}
"""
NO_HEAR = """
- {op: remove, path: /nodes/hear}
- {op: remove, path: /edges/0}
"""


@pytest.fixture
def here(up: Callable[..., UpProcess], up_folder: Path, tmp_path: Path, monkeypatch: Any) -> tuple[str, Path]:
    (tmp_path / "talk.yaml").write_text(WORKFLOW)
    (tmp_path / "patch.yaml").write_text(PATCH)
    (tmp_path / "no_hear.yaml").write_text(NO_HEAR)
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"name": f"n{n}"}) + "\n" for n in range(6)))
    monkeypatch.chdir(tmp_path)
    up("--engine", "simulated")
    return ("--data", up_folder)


async def test_a_canary_its_promotion_and_the_way_back(
    here: tuple[str, Path], pavane: Callable[..., Result], wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def listening() -> bool:
        runs = json.loads(pavane("ps", "--batch", batch, "--json", *here).stdout)["runs"]
        return len(runs) == 6 and all("heard" in pavane("show", run["run_id"], *here).stdout for run in runs)

    def patched(*words: Any) -> tuple[int, list[list[str]], Any]:
        """Exit code, and the lines of the table: its head, the counts, the runs."""
        result = pavane(*words, *here)
        lines = result.stdout.splitlines()
        assert all(len(line) <= 80 for line in lines), result.stdout
        return result.exit_code, [line.split() for line in lines], result

    batch = pavane("run", "talk.yaml", "--items", "items.jsonl", "--key", "item.name", *here).stdout.strip()
    await wait_until(listening)
    assert pavane("patches", batch, *here).stdout == "no patches\n"

    code, lines, _ = patched("patch", batch, "patch.yaml", "--canary", "2", "--dry-run")
    assert code == 0 and " ".join(lines[0]) == f"{batch}: patch 1, a dry run; nothing was changed"
    code, lines, _ = patched("patch", batch, "patch.yaml", "--canary", "30%", "--description", "warmer")
    assert code == 0 and " ".join(lines[0]) == (f"{batch}: patch 1, a canary: promote or revert it")
    assert lines[1:] == [["outcome", "runs"], ["patched", "2"]]
    assert "patch 1 is a canary" in pavane("monitor", batch, "--snapshot", *here).stdout
    code, _, result = patched("patch", batch, "patch.yaml")
    assert code == 1 and "promote or revert it first" in result.stderr

    code, lines, _ = patched("promote", batch, "--reason", "well")
    assert code == 0 and lines[0][1:] == ["patch", "1,", "applied"] and lines[2] == ["patched", "6"]
    code, lines, _ = patched("patch", batch, "--set", "nodes.say.config.set.text='ahoy ' + input.name")
    assert code == 0 and lines[2] == ["patched", "6"]
    code, lines, _ = patched("revert", batch)
    assert code == 0 and lines[0][1:] == ["patch", "2,", "reverted"] and lines[2] == ["reverted", "6"]

    # What stands in the way is told, by run.
    code, lines, result = patched("patch", batch, "no_hear.yaml", "--key", "n0", "--key", "n3")
    assert code == 1 and lines[2] == ["refused", "2"]
    refused = [line for line in result.stdout.splitlines() if "run_" in line]
    assert [line.split()[1:] for line in refused] == [[f"n{n}", "live", "tokens", "on", "hear"] for n in (0, 3)]
    found = pavane("patch", batch, "no_hear.yaml", "--node", "hear", "--dry-run", "--json", *here)
    assert found.exit_code == 1 and json.loads(found.stdout)["counts"]["refused"] == 6

    shown = pavane("patches", batch, *here).stdout.splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [["3", "applied"], ["2", "reverted"], ["1", "applied"]]
    assert "warmer" in shown[3] and getpass.getuser() in shown[3]
    runs = pavane("patches", batch, "1", *here).stdout.splitlines()
    assert len(runs) == 8 and all(line.split()[2:] == ["patched", "2"] for line in runs[2:])

    pavane("event", "heard", *here)
    await wait_until(lambda: pavane("monitor", batch, *here).exit_code == 0)
    results = [json.loads(line) for line in pavane("results", batch, *here).stdout.splitlines()]
    assert [row["output"]["text"] for row in results] == [f"welcome n{n}" for n in range(6)]
    ended = pavane("promote", batch, *here)
    assert ended.exit_code == 1 and "COMPLETED" in ended.stderr
    assert pavane("revert", "batch_none", *here).exit_code == 2


def test_how_many() -> None:
    assert batch_options("50", None, None) == {"canary": {"first": 50}}
    assert batch_options(" 2.5%", (), ()) == {"canary": {"percent": 2.5}}
    assert batch_options(None, ["a"], ["b", "c"]) == {"filter": {"keys": ["a"], "nodes": ["b", "c"]}}
    assert batch_options(None, None, None) == {}
    for text in ("", "-1", "2.5", "all", "%", "1e3%"):
        with pytest.raises(BadParameter):
            batch_options(text, None, None)


def test_why_a_run_did_not_take_it() -> None:
    tokens = [{"token_id": f"run_1.{n}", "node_id": node, "state": "queued"} for n, node in enumerate("aab")]
    assert why({"reason": "live_tokens", "message": "...", "tokens": tokens}) == "live tokens on a, b"
    assert why({"reason": "patched_since", "message": "The run was patched."}) == "The run was patched."
