"""`pavane eval`: expressions, templates and conditions on given data, and on what a run recorded."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result

from tests.cli.conftest import UpProcess

Pavane = Callable[..., Result]
Wait = Callable[..., Awaitable[Any]]
SCORE = '{"output": {"score": 81, "rows": [{"ok": true}]}}'
HANDLERS = '''"""Handlers of a test."""


def grade(text: str, round: int) -> dict:
    return {"score": 40 + 20 * round, "text": text, "round": round}


def blow_up(text: str) -> dict:
    return {"large": text * 20_000}
'''
WORKFLOW: dict[str, Any] = {
    "id": "grading",
    "nodes": [
        {"id": "prepare", "type": "transform", "config": {"set": {"round": "iteration"}}},
        {"id": "grade", "type": "function", "config": {
            "handler": "grade", "args": {"text": "{{ input.text }}", "round": "{{ output.round }}"},
        }},
        {"id": "shape", "type": "transform", "config": {"set": {"points": "output.score", "again": "iteration"}}},
        {"id": "enough", "type": "branch", "config": {"rules": [
            {"condition": {"type": "cel", "expression": "input.limit > 0"}, "next": []},
            {"condition": {"type": "jsonpath", "path": "$[?@ > 70]"}, "next": ["big"]},
        ], "default": ["again"]}},
        {"id": "again", "type": "loop", "config": {
            "condition": {"type": "json_schema", "schema": {"properties": {"points": {"maximum": 70}}}},
            "loop_back_to": "prepare", "max_iterations": 5, "break_path": [],
        }},
        {"id": "big", "type": "function", "config": {"handler": "blow_up", "args": {"text": "{{ input.text }}"}}},
        {"id": "end", "type": "transform", "config": {"set": {"size": "size(output.large)"}}},
    ],
    "edges": [
        {"from": "prepare", "to": "grade"},
        {"from": "grade", "to": "shape"},
        {"from": "shape", "to": "enough"},
        {"from": "big", "to": "end", "condition": {"type": "cel", "expression": "size(output.large) > 3"}},
    ],
}  # fmt: skip


MAPPED: dict[str, Any] = {
    "id": "rows",
    "nodes": [
        {"id": "start", "type": "transform", "config": {"set": {"rows": "input.rows", "plus": "10"}}},
        {"id": "each", "type": "map", "config": {
            "items": "output.rows",
            "nodes": [
                {"id": "graded", "type": "function", "config": {
                    "handler": "grade", "args": {"text": "{{ item.name }}", "round": "{{ index }}"},
                }},
                {"id": "sum", "type": "transform", "config": {"set": {"sum": "output.score + ctx.start.output.plus"}}},
            ],
            "edges": [{"from": "graded", "to": "sum"}],
        }},
    ],
    "edges": [{"from": "start", "to": "each"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["output.score >= 80", "--with", SCORE], "true  bool"),
        (["output.score < 80", "--with", SCORE], "false  bool"),
        (["duration('90s')"], '"90s"  google.protobuf.Duration'),
        (["[1, 2].map(x, x * 2)"], "[2,4]  list"),
        (["--template", "Score {{ output.score }}", "--with", SCORE], '"Score 81"  string'),
        (["--template", "{{ output.rows }}", "--with", SCORE], '[{"ok":true}]  list'),
        (["--condition", '{"type": "cel", "expression": "output.score > 80"}', "--with", SCORE], "true  bool"),
        (["--condition", '{"type": "jsonpath", "path": "$.rows", "invert": true}', "--with", SCORE], "false  bool"),
        (["--condition", '{"type": "json_schema", "schema": {"required": ["score"]}}', "--with", SCORE], "true  bool"),
    ],
)  # fmt: skip
def test_values_and_their_types(pavane: Pavane, words: list[str], shown: str) -> None:
    result = pavane("eval", *words)
    assert (result.exit_code, result.stdout.strip()) == (0, shown), result.output


def test_a_condition_from_a_file(pavane: Pavane, tmp_path: Path) -> None:
    file = tmp_path / "condition.yaml"
    file.write_text("type: jsonpath\npath: $[?@ > 1]\nof: input.numbers\n")
    result = pavane("eval", "--condition", file, "--with", '{"input": {"numbers": [1, 2]}}', "--json")
    assert json.loads(result.stdout) == {"value": True, "type": "bool"}


@pytest.mark.parametrize(
    ("words", "code", "under"),
    [
        (["1 + output.scor", "--with", SCORE], "no-such-field", "scor"),
        (["output.rows.map(r, r.ok + 1)", "--with", SCORE], "no-such-overload", "r.ok"),
        (["--template", "{{ output.score }} {{ output.none.x }}", "--with", SCORE], "no-such-field", "none"),
        (["--condition", '{"type": "cel", "expression": "output.score"}', "--with", SCORE], "not-a-bool", None),
        (["--condition", '{"type": "jsonpath", "path": "$", "of": "output.x"}', "--with", SCORE], "no-such-field", "x"),
        (["1 +* 2"], "syntax", "*"),
        (["nope + 1"], "unknown-variable", "nope"),
        (["--condition", '{"type": "jsonpath", "path": "$["}'], "syntax", None),
        (["--condition", '{"type": "json_schema", "schema": {"pattern": "(?=a)"}}'], "bad-schema", None),
    ],
)
def test_an_error_has_a_caret_under_its_place(pavane: Pavane, words: list[str], code: str, under: str | None) -> None:
    result = pavane("eval", *words)
    assert result.exit_code == 1
    *place, said = result.stderr.splitlines()
    assert said.startswith(f"{code}: ")
    if under is None:
        assert not place
    else:
        assert place[0][place[1].index("^") :].startswith(under)
    error = json.loads(pavane("eval", *words, "--json").stdout)["error"]
    assert error["code"] == code
    assert (error["position"] is None) is (under is None)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["1", "--condition", "{}"],
        ["--template"],
        ["1", "--run", "run_1"],
        ["1", "--at", "a"],
        ["1", "--item", "3"],
        ["--condition", "no-such-file.yaml"],
    ],
)
def test_bad_use_exits_2(pavane: Pavane, words: list[str]) -> None:
    assert pavane("eval", *words).exit_code == 2


async def test_on_what_a_run_recorded(
    up: Callable[..., UpProcess], pavane: Pavane, tmp_path: Path, monkeypatch: Any, wait_until: Wait
) -> None:
    (tmp_path / "grading_hands.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    api = up("--engine", "simulated", "--handlers", "grading_hands").urls["api"]
    for run_id, workflow, given in (
        ("run_g", WORKFLOW, {"text": "abc"}),
        ("run_m", MAPPED, {"rows": [{"name": "x"}, {"name": "y"}, {"name": "z"}]}),
    ):
        body = {"run_id": run_id, "workflow": workflow, "input": given}
        assert httpx.post(f"{api}/runs", json=body).status_code == 201
        await wait_until(lambda run_id=run_id: httpx.get(f"{api}/runs/{run_id}").json()["status"] != "RUNNING")
    found = httpx.get(f"{api}/runs/run_g").json()
    assert (found["status"], found["output"]) == ("COMPLETED", {"size": 60_000}), found["error"]

    def value(*words: str, run: str = "run_g") -> Any:
        result = pavane("eval", *words, "--run", run, "--api", api, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["value"]

    assert value("output", "--at", "enough") == {"points": 80, "again": 2}
    assert value("[output, iteration]", "--at", "enough", "--iteration", "1") == [{"points": 60, "again": 1}, 1]
    assert value("[output.score, iteration]", "--at", "shape") == [80, 2]
    assert value("[output.points, iteration]", "--at", "again") == [60, 2]  # passes completed
    assert value("[output, iteration]", "--at", "grade", "--iteration", "0") == [{"round": 0}, 0]
    assert value("[output.points, iteration]", "--at", "prepare") == [60, 2]  # decided right after the loop
    assert value("[output, iteration]", "--at", "prepare", "--iteration", "0") == [{"text": "abc"}, 0]
    assert value("has(ctx.shape)", "--at", "grade", "--iteration", "0") is False
    assert value("ctx.shape.output.points", "--at", "grade") == 60
    assert value("output.score", "--at", "grade", "--leaving") == 80
    assert value("size(output.large)", "--at", "end") == 60_000
    assert value("size(output.large) + size(input.text)", "--at", "big", "--leaving") == 60_003
    assert value("run.id + input.text", "--at", "big", "--with", '{"input": {"text": "!"}}') == "run_g!"
    assert value("--condition", '{"type": "jsonpath", "path": "$[?@ > 70]"}', "--at", "enough") is True
    for words in (["nowhere"], ["grade", "--iteration", "9"], ["again", "--item", "1"]):
        refused = pavane("eval", "output", "--run", "run_g", "--api", api, "--at", *words)
        assert (refused.exit_code, refused.stderr.startswith("no-such-moment")) == (1, True)
    assert pavane("eval", "1", "--run", "run_none", "--at", "a", "--api", api).exit_code == 2

    assert value("[item.name, index, output]", "--at", "graded", "--item", "1", run="run_m") == ["y", 1, {"name": "y"}]
    assert value("output.score + ctx.start.output.plus", "--at", "sum", "--item", "2", run="run_m") == 90
    assert value("ctx.graded.output.text", "--at", "sum", "--item", "0", "--leaving", run="run_m") == "x"
    assert value("output.rows.map(r, r.name)", "--at", "each", run="run_m") == ["x", "y", "z"]
    assert value("output.map(r, r.sum)", "--at", "each", "--leaving", run="run_m") == [50, 70, 90]

    shown = pavane("show", "run_g", "--api", api).stdout
    assert "input.limit > 0" in shown and "has no field 'limit'" in shown
    assert "`input.limit > 0` counts as false" in pavane("logs", "run_g", "--api", api).stdout
