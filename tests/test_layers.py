"""The house rules: imports run one way, files stay small, the environment enters in one place."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "schemas": set(),
    "lua": {"schemas"},
    "history": {"schemas"},
    "coordinator": {"schemas", "lua", "history"},
    "agent_runner": {"schemas", "lua", "history"},
    "orchestrator_api": {"schemas", "lua", "history"},
    "pavane": {"schemas", "lua", "history", "coordinator", "agent_runner", "orchestrator_api"},
}
# What opens a connection or a file has no place in `schemas`.
IO_MODULES = {"asyncio", "fastapi", "httpx", "ollama", "psycopg", "redis", "socket", "sqlite3", "subprocess"}
FORBIDDEN_NAMES = {"common", "core", "utils", "util", "helpers", "helper"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60

FILES = [(package, file) for package in ALLOWED for file in sorted((ROOT / package).rglob("*.py"))]
every_file = pytest.mark.parametrize(("package", "file"), FILES, ids=[str(file.relative_to(ROOT)) for _, file in FILES])


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), filename=str(file))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which package is meant"
            yield (node.module or "").split(".")[0]


@every_file
def test_imports_run_one_way(package: str, file: Path) -> None:
    foreign = set(imported(tree_of(file)))
    assert foreign & set(ALLOWED) <= ALLOWED[package] | {package}
    assert not foreign & {"tests", "benchmarks", "examples"}
    if package == "schemas":
        assert not foreign & IO_MODULES


@every_file
def test_the_environment_is_read_in_pavane_alone(package: str, file: Path) -> None:
    if package == "pavane":
        return
    reads = {
        f"os.{node.attr}"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    named = {
        alias.name
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ImportFrom) and node.module == "os"
        for alias in node.names
    }
    assert not reads and not named & {"environ", "environb", "getenv"}


@every_file
def test_a_file_stays_small_and_a_function_fits_on_a_screen(package: str, file: Path) -> None:
    assert len(file.read_text().splitlines()) <= LONGEST_FILE
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
        if node.end_lineno - node.lineno >= LONGEST_FUNCTION
    }
    assert not long


@every_file
def test_every_module_says_what_it_is_for(package: str, file: Path) -> None:
    assert not FORBIDDEN_NAMES & {part.removesuffix(".py") for part in file.relative_to(ROOT).parts}
    assert ast.get_docstring(tree_of(file))


@pytest.mark.parametrize("script", sorted((ROOT / "lua").rglob("*.lua")), ids=lambda path: path.name)
def test_a_script_stays_small(script: Path) -> None:
    assert len(script.read_text().splitlines()) <= LONGEST_FILE


def test_every_folder_of_a_package_states_its_purpose_and_nothing_else() -> None:
    for package in ALLOWED:
        folders = {file.parent for file in (ROOT / package).rglob("*.py")}
        for folder in folders:
            statements = tree_of(folder / "__init__.py").body
            assert len(statements) == 1 and isinstance(statements[0], ast.Expr), folder


def test_the_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(ALLOWED)
    assert set(project["tool"]["mypy"]["packages"]) == set(ALLOWED)
