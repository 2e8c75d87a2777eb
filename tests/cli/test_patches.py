"""Patches and revisions, as a person at a terminal has them: on a real `pavane up`."""

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import typer
import yaml
from click.testing import Result

from pavane.cli.patches import operations_for, patch_lines
from pavane.event_lines import EventLines
from tests.cli.conftest import UpProcess
from tests.cli.test_control import HANDLERS, Wait, function, held

USER = getpass.getuser()
PROMPT = "Greet {{ input.name }}.\nBe kind.\n"


@pytest.fixture
def here(up: Callable[..., UpProcess], up_folder: Path, tmp_path: Path, monkeypatch: Any) -> tuple[str, Path]:
    """Options of every command; the process runs the handlers of tests/cli/test_control.py."""
    (tmp_path / "hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    up("--engine", "simulated", "--handlers", "hands")
    return ("--data", up_folder)


def prepared(folder: Path) -> tuple[Path, IO[str]]:
    """A workflow in a folder of its own, and what its first node waits for, until it is closed."""
    folder.mkdir()
    go = held(folder / "go")
    path = folder / "w.yaml"
    document = {
        "id": "w",
        "nodes": [
            function("first", "slow", path=go.name),
            {"id": "greet", "type": "agent", "config": {"model": "gemma3:4b", "prompt": PROMPT}},
        ],
        "edges": [{"from": "first", "to": "greet"}],
    }
    path.write_text(yaml.safe_dump(document))
    return path, go


async def test_patches_at_a_terminal(
    here: tuple[str, Path], pavane: Callable[..., Result], tmp_path: Path, monkeypatch: Any, wait_until: Wait
) -> None:
    """One `pavane up` for all parts: starting it costs more than each of them."""
    for part in (a_run_is_patched_compared_and_rolled_back, what_is_refused, a_batch_is_patched_by_the_same_command):
        folder = tmp_path / part.__name__
        workflow, go = prepared(folder)
        monkeypatch.chdir(folder)
        with go:
            await part(here, pavane, workflow, go, folder, wait_until)


async def a_run_is_patched_compared_and_rolled_back(
    here: tuple[str, Path], pavane: Callable[..., Result], workflow: Path, go: IO[str], tmp_path: Path, wait_until: Wait
) -> None:
    def said(*words: object, given: str | None = None) -> str:
        result = pavane(*words, *here, given=given)
        assert result.exit_code == 0, result.output
        return result.stdout

    said("run", workflow, "--input", '{"name": "Eve"}', "--run-id", "mine")
    await wait_until(lambda: "running" in said("show", "mine"))
    (tmp_path / "new.txt").write_text("Greet {{ input.name }}.\nBe brief.\n")
    setting = ("--set", "nodes.greet.config.prompt=@new.txt", "--description", "shorter")
    assert said("patch", "mine", *setting, "--dry-run") == (
        "mine: would be revision 2; nothing was changed\n  changed        greet\n  still to come  greet\n"
    )
    assert (
        said("patch", "mine", *setting) == "mine: revision 2, RUNNING\n  changed        greet\n  still to come  greet\n"
    )
    second = {"operations": [{"op": "add", "path": "/nodes/first/timeout_ms", "value": 60_000}], "running": "restart"}
    answer = json.loads(said("patch", "mine", "-", "--if-match", "2", "--json", given=yaml.safe_dump(second)))
    assert (answer["revision"], answer["restarted"]) == (3, ["first"])

    assert [line.split(maxsplit=3)[0] for line in said("revisions", "mine").splitlines()] == ["REVISION", "1", "2", "3"]
    assert f"{USER}  shorter; changed greet" in said("revisions", "mine")
    assert said("revisions", "mine", "1").count("Be kind.") == 1
    assert yaml.safe_load(said("revisions", "mine", "1")) == yaml.safe_load(workflow.read_text())
    assert json.loads(said("revisions", "mine", "2", "--json"))["description"] == "shorter"
    assert len(json.loads(said("revisions", "mine", "--json"))["revisions"]) == 3
    lines = said("diff", "mine", 1, 2).splitlines()
    assert [line for line in lines[2:] if line[0] in "+-"] == ["-      Be kind.", "+      Be brief."]
    assert json.loads(said("diff", "mine", "2", "--patch"))[0]["value"] == 60_000
    assert "do not differ" in pavane("diff", "mine", "2", "2", *here).stderr
    assert said("rollback", "mine", "1", "--dry-run").startswith("mine: would be revision 4")
    assert said("rollback", "mine", "1", "--restart", "--description", "as it was").splitlines()[1:] == [
        "  changed        first, greet", "  begun anew     first", "  still to come  first, greet",
    ]  # fmt: skip
    assert f"by {USER}: as it was" in said("show", "mine")
    go.close()
    await wait_until(lambda: "COMPLETED" in said("show", "mine"))
    logs = said("logs", "mine")
    assert f"patched, revision 2, by {USER}: shorter; changed greet" in logs
    assert "patched, back to what revision 1 was, revision 4" in logs
    assert pavane("patch", "mine", *setting, *here).exit_code == 1
    assert "4  " in said("revisions", "mine")


async def what_is_refused(
    here: tuple[str, Path], pavane: Callable[..., Result], workflow: Path, go: IO[str], tmp_path: Path, wait_until: Wait
) -> None:
    pavane("run", workflow, "--input", '{"name": "Eve"}', "--run-id", "other", *here)
    await wait_until(lambda: "running" in pavane("show", "other", *here).stdout)
    less = tmp_path / "less.json"
    less.write_text('[{"op": "remove", "path": "/nodes/first"}, {"op": "remove", "path": "/edges/0"}]')
    refused = pavane("patch", "other", less, *here)
    assert refused.exit_code == 1 and "\n  first  running  other.1\n" in refused.stderr
    problem = json.loads(pavane("patch", "other", less, "--json", *here).stderr)
    assert (problem["status"], problem["revision"], problem["tokens"][0]["node_id"]) == (409, 1, "first")
    late = pavane("patch", "other", less, "--if-match", "7", *here)
    assert late.exit_code == 1 and "revision 1" in late.stderr
    wrong = pavane("patch", "other", "-", *here, given="- {op: add, path: x}\n- {op: push}\n")
    assert wrong.exit_code == 1 and "/operations/1/op  unknown-op" in wrong.stderr
    assert pavane("rollback", "other", "9", *here).exit_code == 1
    for words in (
        ("patch", "other"), ("patch", "other", less, "--set", "a=1"), ("patch", "other", "--set", "a"),
        ("patch", "other", "--set", "nodes.nobody.type=map"), ("patch", "other", tmp_path / "none.yaml"),
        ("patch", "nobody", less), ("patch", "run_nobody", less), ("patch", "batch_nobody", less),
        ("patch", "nobody", "--set", "a=1"), ("patch", "other", less, "--if-match", "0"),
        ("patch", "other", less, "--live-tokens", "keep"), ("patch", "b", less, "--canary", "1", "--if-match", "1"),
        ("revisions", "nobody"), ("revisions", "other", "2"), ("diff", "other", "2"), ("diff", "nobody"),
        ("rollback", "nobody", "1"), ("rollback", "other"),
    ):  # fmt: skip
        assert pavane(*words, *here).exit_code == 2, words
    (tmp_path / "text.yaml").write_text("{op: add")
    assert pavane("patch", "other", tmp_path / "text.yaml", *here).exit_code == 2
    assert "no run or batch nobody" in pavane("patch", "nobody", less, *here).stderr
    nowhere = ("--api", "http://127.0.0.1:1")
    for words in (("patch", "other", less), ("rollback", "other", "1"), ("revisions", "other"), ("diff", "other")):
        assert pavane(*words, *nowhere).exit_code == 3, words
    done = pavane("patch", "other", less, "--live-tokens", "cancel", *here)
    assert done.exit_code == 0 and "other: revision 2, COMPLETED" in done.stdout


async def a_batch_is_patched_by_the_same_command(
    here: tuple[str, Path], pavane: Callable[..., Result], workflow: Path, go: IO[str], tmp_path: Path, wait_until: Wait
) -> None:
    (tmp_path / "items.jsonl").write_text('{"name": "Ada"}\n{"name": "Alan"}\n')
    batch = pavane("run", workflow, "--items", tmp_path / "items.jsonl", *here).stdout.strip()
    await wait_until(lambda: "running" in pavane("ps", "--batch", batch, *here).stdout.lower())
    done = pavane("patch", batch, "--set", "nodes.greet.config.prompt=Hi", *here)
    assert done.exit_code == 0 and batch in done.stdout, done.output
    go.close()
    assert pavane("monitor", batch, *here).exit_code == 0


# -- without a server --------------------------------------------------------------------------------
DOCUMENT = {
    "id": "w",
    "nodes": [
        {"id": "a", "type": "agent", "config": {"prompt": "x", "tools": [{"x": 1}]}},
        {"id": "b", "type": "join"},
    ],
    "edges": [{"from": "a", "to": "b"}],
}


@pytest.mark.parametrize(
    ("member", "operation"),
    [
        ("nodes.a.config.prompt=y", {"op": "replace", "path": "/nodes/a/config/prompt", "value": "y"}),
        ("nodes.a.timeout_ms=5000", {"op": "add", "path": "/nodes/a/timeout_ms", "value": 5000}),
        ("edges.0.to=a", {"op": "replace", "path": "/edges/0/to", "value": "a"}),
        ('edges.-={"from": "b"}', {"op": "add", "path": "/edges/-", "value": {"from": "b"}}),
        ("/nodes/a/config/a.b=null", {"op": "add", "path": "/nodes/a/config/a.b", "value": None}),
        ("nodes.a.config.a/b=1=2", {"op": "add", "path": "/nodes/a/config/a~1b", "value": "1=2"}),
        ("description=", {"op": "add", "path": "/description", "value": ""}),
        ("description=\"5\"", {"op": "add", "path": "/description", "value": "5"}),
        ("nodes.a.config.tools.0.x=true", {"op": "replace", "path": "/nodes/a/config/tools/0/x", "value": True}),
    ],
)  # fmt: skip
def test_members_as_operations(member: str, operation: dict[str, Any]) -> None:
    assert operations_for(DOCUMENT, [member]) == [operation]


def test_members_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("two\nlines\n")
    made = operations_for(
        DOCUMENT, ["nodes.a.retry={}", f"nodes.a.retry.why=@{tmp_path}/new.txt", "nodes.a.retry.why=x"]
    )
    assert [(one["op"], one["value"]) for one in made] == [("add", {}), ("add", "two\nlines\n"), ("replace", "x")]
    for wrong in ("nodes.a.config.prompt", "=1", "nodes.c.type=x", "edges.7.to=a", "a=@/nowhere"):
        with pytest.raises(typer.BadParameter):
            operations_for(DOCUMENT, [wrong])


def test_an_answer_fits_the_terminal() -> None:
    names = [f"a_node_with_a_long_name_{number}" for number in range(12)]
    answer = {"added": names, "removed": [], "changed": [], "restarted": [], "reachable": names[:1], "unreachable": []}
    lines = patch_lines(answer | {"warnings": [{"path": "/edges/0", "code": "c", "message": "Some words. " * 20}]})
    assert max(map(len, lines)) <= 80 and lines[0].startswith("  added          a_node")
    assert " ".join(lines).count("a_node") == 13 and any(line.startswith("  warning") for line in lines)
    assert patch_lines({name: [] for name in answer}) == ["  no node differs"]


def test_a_patch_as_a_line() -> None:
    patched = {
        "seq": 3, "type": "run_patched", "at": 5, "revision": 2, "by": "ada", "added": ["x"], "removed": ["y", "z"],
        "changed": [], "gone": ["r.1", "r.2"],
    }  # fmt: skip
    assert (
        EventLines()
        .line(patched)
        .endswith("run            patched, revision 2, by ada; added x; removed y, z; 2 tokens cancelled")
    )
    follow = {"seq": 4, "type": "items_patched", "at": 5, "node_id": "all", "indexes": [1, 2]}
    assert EventLines().line(follow).endswith("all            2 items follow the patch")
