"""`pavane test`: what it prints, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pavane.cli.main import app
from pavane.settings import examples_folder
from tests.docs.pages import fences
from tests.rehearsal.stories import agent, function, play, workflow

WORKFLOWS = sorted(file for file in examples_folder().rglob("*.yaml") if not file.name.endswith("cases.yaml"))

Command = Callable[..., Result]


@pytest.fixture
def tested(tmp_path: Path) -> Command:
    """`tested(cases, *options)`: the command on a workflow of two nodes and these cases, as text."""
    document = workflow(function("a"), agent("b", "Grade\n{{ ctx.a.output.name }}"), edges=["a -> b"])
    (tmp_path / "workflow.json").write_text(json.dumps(document))

    def call(cases: str, *options: str) -> Result:
        (tmp_path / "cases.yaml").write_text(cases)
        words = ["test", str(tmp_path / "workflow.json"), str(tmp_path / "cases.yaml"), *options]
        return CliRunner().invoke(app, words)

    return call


def cases_of(workflow_file: Path) -> Path:
    """`cases.yaml` beside a `workflow.yaml`, `<name>.cases.yaml` beside any other."""
    name = "cases.yaml" if workflow_file.stem == "workflow" else f"{workflow_file.stem}.cases.yaml"
    return workflow_file.with_name(name)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: str(file.relative_to(examples_folder())))
def test_the_cases_of_every_example_pass(file: Path) -> None:
    handlers = file.with_suffix(".py")
    options = ["--handlers", f"examples.{file.stem}"] if handlers.exists() else []
    result = CliRunner().invoke(app, ["test", str(file), str(cases_of(file)), *options])
    assert result.exit_code == 0, result.output


def test_one_line_a_case(tested: Command) -> None:
    result = tested("outputs: {a: {name: Ada}, b: Hello}\ncases: [{name: first}, {name: second}]")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["PASS first", "PASS second"]
    assert "2 cases passed" in result.stdout


def test_a_failed_case_shows_its_path_and_what_was_not_as_expected(tested: Command) -> None:
    result = tested(
        "outputs: {a: {name: Ada}, b: Hello}\n"
        "cases: [{name: first, expect: {output: {text: Bye}, path: [b]}}, {name: second}]"
    )
    assert result.exit_code == 1
    said = result.stdout.splitlines()
    assert said[0] == "FAIL first"
    assert said[1].split() == ["a", '{"name":', '"Ada"}']
    assert '  output.text: expected "Bye", came "Hello"' in said
    assert said[said.index("  path: - expected, + came") :][1:3] == ["    + a", "      b"]
    assert said[-2:][0] == "PASS second"
    assert "2 cases, 1 failed" in said[-1]


def test_a_missing_output_shows_what_the_node_was_given(tested: Command) -> None:
    result = tested("outputs: {a: {name: Ada}}\ncases: [{name: first}]")
    assert result.exit_code == 1
    assert "outputs.b: the node was executed" in result.stdout
    assert "  it was given:\n    prompt:\n      Grade\n      Ada\n" in result.stdout


def test_json(tested: Command) -> None:
    cases = "outputs: {a: {name: Ada}, b: Hello}\ncases: [{name: first, expect: {times: {a: 2}}}, {name: second}]"
    result = tested(cases, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert (said["passed"], said["failed"]) == (1, 1)
    first, second = said["cases"]
    assert first["differences"] == [{"place": "times.a", "expected": 2, "actual": 1}]
    assert second["passed"] and second["path"] == ["a", "b"] and second["output"] == {"text": "Hello"}
    broken = json.loads(tested("cases: [{name: first}]", "--json").stdout)
    assert broken["cases"][0]["fault"]["place"] == "outputs.a"


def test_only_cases_that_are_named(tested: Command) -> None:
    cases = "outputs: {a: {name: Ada}, b: Hello}\ncases: [{name: One bird}, {name: two birds}, {name: stone}]"
    assert tested(cases, "-k", "BIRD").stdout.count("PASS") == 2
    assert tested(cases, "-k", "fish").exit_code == 2


@pytest.mark.parametrize(
    ("cases", "said"),
    [("cases: []", "/cases"), ("cases: [{name: a, outptus: {}}]", "/cases/0/outptus"), ("[", "not-yaml")],
)
def test_cases_that_can_not_be_read_are_bad_use(tested: Command, cases: str, said: str) -> None:
    result = tested(cases)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_workflow_that_is_not_valid_is_a_failed_check(tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text('{"id": "w", "nodes": []}')
    result = CliRunner().invoke(app, ["test", str(tmp_path / "w.json"), str(tmp_path / "none.yaml")])
    assert result.exit_code == 1
    assert "/nodes" in result.stderr


def test_a_file_that_is_not_there_is_bad_use(tested: Command, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["test", str(tmp_path / "none.yaml"), str(tmp_path / "none.yaml")])
    assert result.exit_code == 2


def test_the_cases_that_the_page_shows_pass(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "testing_workflows.md"
    cases = next(text for language, text in fences(page.read_text()) if language == "yaml")
    (tmp_path / "cases.yaml").write_text(cases)
    file = examples_folder() / "screening" / "workflow.yaml"
    result = CliRunner().invoke(app, ["test", str(file), str(tmp_path / "cases.yaml")])
    assert result.exit_code == 0, result.output


# -- recorded runs -----------------------------------------------------------------------------------


@pytest.fixture
def api() -> Iterator[str]:
    """An API that knows one run, `run_1` of the workflow that `tested` tests."""
    document = workflow(function("a"), agent("b", "Grade\n{{ ctx.a.output.name }}"), edges=["a -> b"])
    played = asyncio.run(play(document, outputs={"a": {"name": "Ada"}, "b": "Hello"}))
    events = [event.as_dict() | {"run_id": "run_1"} for event in played.record.events]

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/runs/run_1/events?after=0"
            body = {"events": events, "next_after": None} if known else {"detail": "There is no such run."}
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_recorded_run_is_printed_as_a_case(tested: Command, tmp_path: Path, api: str) -> None:
    file = str(tmp_path / "workflow.json")
    tested("cases: []")  # writes the workflow
    printed = CliRunner().invoke(app, ["test", file, "--record", "run_1", "--api", api])
    assert printed.exit_code == 0, printed.output
    result = tested(printed.stdout)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "PASS run_1")
    assert CliRunner().invoke(app, ["test", file, "--record", "run_2", "--api", api]).exit_code == 2
    assert CliRunner().invoke(app, ["test", file]).exit_code == 2
