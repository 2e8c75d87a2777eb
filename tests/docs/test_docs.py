"""The documents against the sources: what there is is documented, and what is documented is there."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from typer.main import get_command

from pavane.cli.main import app
from pavane.settings import described
from schemas.compiler.compiler import compile_workflow
from schemas.events import TYPES
from schemas.ids import NODE_ID
from schemas.keys import Keys
from schemas.limits import LIMITS
from schemas.messages import PERMANENT, RETRIABLE
from schemas.workflow import read_workflow
from tests.docs import sources
from tests.docs.pages import DOCS, ENTRANCES, PAGES, ROOT, anchors, commands, fences, links, named, page, rows

SCRIPTS = sorted((ROOT / "lua").glob("*.lua"))
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
CODES = sources.problem_codes(ROOT / "schemas" / "compiler", ROOT / "schemas" / "workflow.py")
EXAMPLES = [
    pytest.param(text, language, id=f"{named(file)}-{number}")
    for file in (*PAGES, *ENTRANCES)
    for number, (language, text) in enumerate(fences(file.read_text()))
    if language in ("yaml", "json") and re.search(r'^\{?\s*"?id"?:', text, re.MULTILINE) and "nodes" in text
]
every_page = pytest.mark.parametrize("file", [*PAGES, *ENTRANCES], ids=named)


# -- Redis -------------------------------------------------------------------------------------------


def test_every_key() -> None:
    """Every method and property of Keys gives a name that the table of keys has."""
    keys, documented = Keys(), rows(page("redis"))
    for name, member in vars(Keys).items():
        if name.startswith("_") or name == "prefix":
            continue
        if isinstance(member, property):
            assert getattr(keys, name) in documented, name
        elif name == "stream":  # a task stream by its own name
            assert {"wf.tasks.agent.<model>", "wf.tasks.function"} <= documented.keys()
        else:
            more = {"loop": "<node>", "scope": "<scope>"} | dict.fromkeys(("map", "results", "items", "held"), "<path>")
            made = getattr(keys, name)("<id>", *filter(None, [more.get(name)]))
            shown = {re.sub(r"^(\w+):<\w+>", r"\1:<id>", known) for known in documented}
            assert made in shown, name


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script(script: Path) -> None:
    assert script.stem in rows(page("redis"))
    read_only = re.search(r"^--.*Read only", script.read_text(), re.MULTILINE)
    assert read_only or re.search(rf"\b{script.stem}\b", page("state_machine"))


def test_no_page_has_a_script_that_is_not_there() -> None:
    mentioned = {(file, name) for file in PAGES for name in re.findall(r"\b(?:lua/)?(\w+)\.lua\b", file.read_text())}
    there = {path.stem for path in (ROOT / "lua").rglob("*.lua")}
    assert {(named(file), name) for file, name in mentioned if name not in there} == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_events_of_a_script(script: Path) -> None:
    """Its header, its own text and its row in the table name the same ones."""
    stated = set(re.findall(r"\b(?:run|task|node|map|items?|tokens|tool)_[a-z_]+", sources.header(script, "EVENT")))
    assert stated <= set(TYPES)
    body = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("--"))
    assert set(re.findall(r"'(\w+)'", body)) & set(TYPES) <= stated
    row = rows(page("redis"))[script.stem][-1]
    assert set(re.findall(r"\w+", row)) == stated


def test_every_event_is_written_by_a_script_and_documented() -> None:
    stated = " ".join(sources.header(script, "EVENT") for script in SCRIPTS)
    pages = page("redis") + (page("history") if (DOCS / "history.md").exists() else "")
    for kind in TYPES:
        assert re.search(rf"\b{kind}\b", stated)
        assert re.search(rf"\b{kind}\b", pages)


def test_what_runners_report() -> None:
    fields = sources.runner_fields()
    assert {"state", "focus_model", "held_since", "heartbeat_at"} <= fields
    assert fields - rows(page("redis")).keys() == set()


def test_what_a_model_has() -> None:
    fields = sources.model_fields()
    assert {"queued", "running", "loads", "breaker"} <= fields
    assert fields - rows(page("redis")).keys() == set()


def test_reasons_of_dead_letters() -> None:
    reasons = sources.dead_letter_reasons()
    assert {"task", "malformed", "event"} <= reasons
    section = page("redis").split("### Dead letters")[1].split("\n## ")[0]
    assert rows(section).keys() == reasons


# -- settings, HTTP, commands ------------------------------------------------------------------------


def test_every_setting() -> None:
    table = {name: cells for name, cells in rows(page("settings")).items() if name.isupper()}
    assert table == {name: [f"`{default}`" if default else "", text] for name, default, text in described()}


def test_every_route() -> None:
    found = sources.routes(ROOT / "orchestrator_api")
    assert len(found) >= 15
    lines = sources.without_names(page("http")).splitlines()
    missing = []
    for method, path in (route.split() for route in sorted(found)):
        whole = re.compile(rf"{re.escape(path)}(?![\w/])")
        if not any(method in line and whole.search(line) for line in lines):
            missing.append(f"{method} {path}")
    assert missing == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command(name: str) -> None:
    assert re.search(rf"`pavane {name}\b", page("cli"))


@every_page
def test_commands_that_are_shown_exist(file: Path) -> None:
    for line in commands(file.read_text()):
        words = line.split()
        name = next((word for word in words if not word.startswith("-")), None)
        assert name is None or name == "COMMAND" or name in COMMANDS, line


# -- the workflow language ---------------------------------------------------------------------------


def test_every_code_of_the_compiler() -> None:
    assert {"side-exit", "not-utf-8", "expression", "edge-from-"} <= CODES
    documented = rows(page("workflow_language")).keys()
    wanted = {code for code in CODES if not code.endswith("-")}
    wanted |= {begin + kind for begin in CODES if begin.endswith("-") for kind in ("branch", "loop")}
    assert wanted - documented == set()


def test_every_limit() -> None:
    table = rows(page("workflow_language").split("## Limits")[1])
    assert {name: cells[0] for name, cells in table.items()} == {
        name: f"{getattr(LIMITS, name):,}" for name in LIMITS.__dataclass_fields__
    }


def test_every_failure_class() -> None:
    table = rows(page("workflow_language").split("## Failure")[1].split("## ")[0])
    classes = {name: cells[0] for name, cells in table.items() if cells[0] in ("yes", "no")}
    assert {name for name, retried in classes.items() if retried == "yes"} == RETRIABLE
    assert {name for name, retried in classes.items() if retried == "no"} == PERMANENT


@pytest.mark.parametrize(("text", "language"), EXAMPLES)
def test_workflows_that_are_shown_compile(text: str, language: str) -> None:
    compiled = compile_workflow(read_workflow(text, "yaml" if language == "yaml" else "json"))
    assert compiled.warnings == ()
    assert all(NODE_ID.match(node) for node in compiled.ir.nodes)


def test_there_are_workflows_to_see() -> None:
    assert len(EXAMPLES) >= 3


# -- all pages ---------------------------------------------------------------------------------------


@every_page
def test_links_lead_somewhere(file: Path) -> None:
    for link in links(file.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@every_page
def test_files_that_are_named_exist(file: Path) -> None:
    tops = "docs|schemas|lua|history|coordinator|agent_runner|orchestrator_api|pavane|tests|examples|benchmarks"
    for path in re.findall(rf"(?<![\w./-])((?:{tops})/[\w./-]+\.[a-z]+)\b", file.read_text()):
        assert (ROOT / path).exists(), path


@every_page
def test_no_page_names_a_place_on_somebodys_machine(file: Path) -> None:
    assert re.findall(r"(?<![\w.~}>-])/(?:work|root|tmp|home|Users)\b", file.read_text()) == []


def test_every_decision_is_in_the_index() -> None:
    listed = set(links((DOCS / "decisions" / "README.md").read_text()))
    assert listed == {path.name for path in (DOCS / "decisions").glob("*.md")} - {"README.md"}
    for path in (DOCS / "decisions").glob("*.md"):
        if path.name != "README.md":
            assert all(f"**{part}.**" in path.read_text() for part in ("Context", "Two designs", "Choice")), path.name


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    text = (DOCS / "decisions" / "libraries.md").read_text()
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in wanted]  # type: ignore[index]
    assert [name for name in names if not re.search(rf"`{name}(\[[\w,]+\])?`", text)] == []


def test_json_that_is_shown_is_json() -> None:
    for file in (*PAGES, *ENTRANCES):
        for language, text in fences(file.read_text()):
            if language == "json":
                json.loads(text)
