"""Every command helps itself, and the documents name what exists."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.main import get_command

from pavane.cli.main import app

ROOT = Path(__file__).parent.parent.parent
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
SPINE = {
    *("up", "demo", "run", "ps", "show", "logs", "results", "validate", "eval", "monitor", "stop", "redis", "psql"),
    *("api", "coordinator", "recorder", "runner"),
}
DOCUMENTS = ["README.md", "docs/cli.md", "examples/README.md", *(f"examples/{n}.yaml" for n in ("hello", "wordcount"))]


def test_the_commands_of_the_spine_are_there() -> None:
    assert set(COMMANDS) >= SPINE


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_has_an_example_of_that_command(pavane: Callable[..., Result], name: str) -> None:
    result = pavane(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"pavane {name}" in result.stdout
    assert "--json" in result.stdout


def options_of(words: list[str]) -> set[str]:
    """Those of a command, or of the command of a group that is named: `ask missing`."""
    command = COMMANDS[words[0]]
    command = getattr(command, "commands", {}).get(words[1] if words[1:] else "", command)
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def check(words: list[str]) -> None:
    """That a command line names a command, and options that it has."""
    assert words[0] in COMMANDS, words
    passes_on = COMMANDS[words[0]].context_settings.get("ignore_unknown_options")
    for word in words[1:]:
        if passes_on and not word.startswith("--"):
            break
        if word.startswith("-") and not passes_on:
            assert word.partition("=")[0] in options_of(words) | {"--help"}, (words, word)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_show_commands_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    found = re.findall(r"^(?:# +|    )?(?:\.venv/bin/)?pavane ([a-z].*)$", text, re.MULTILINE)
    found += re.findall(r"`pavane ([a-z][^`]*)`", text)
    assert found or document == "examples/README.md"
    for line in found:
        line = re.sub(r"\s+#.*|\s{3,}\(.*|[\[\]]|\.\.\.", "", line)
        check(shlex.split(line))


class Loader(yaml.SafeLoader):
    """YAML as compose reads it."""


def _value(loader: Loader, tag: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!override", _value)


def services(file: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = yaml.load((ROOT / file).read_text(), Loader)["services"]
    return found


def ours(service: dict[str, object]) -> bool:
    extends = service.get("extends")
    return service.get("image") == "pavane" or (isinstance(extends, dict) and extends["service"] == "runner")


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu2.yaml"])
def test_compose_runs_commands_that_exist(file: str) -> None:
    for name, service in services(file).items():
        if ours(service):
            command = service["command"]
            assert isinstance(command, list), name
            check(command)


def test_compose_is_whole() -> None:
    found = services("compose.yaml")
    assert set(found) == {"redis", "postgres", "ollama", "api", "coordinator", "recorder", "runner", "tasks"}
    for name, service in found.items():
        assert "healthcheck" in service, name
        waits = service.get("depends_on", {})
        assert isinstance(waits, dict)
        assert all(found[other].get("healthcheck") for other in waits), name
        assert all(how == {"condition": "service_healthy"} for how in waits.values()), name
        if ours(service):
            test = service["healthcheck"]["test"]  # type: ignore[index]
            if test[1] == "pavane":
                check(test[2:])
    assert "noeviction" in found["redis"]["command"]  # type: ignore[operator]


def test_scaled_services_have_no_name_or_port_of_their_own() -> None:
    for name in ("coordinator", "tasks", "recorder"):
        assert not {"container_name", "ports"} & set(services("compose.yaml")[name])


def test_a_second_gpu_is_a_pair_of_ollama_and_runner() -> None:
    more = services("compose.gpu2.yaml")
    assert set(more) == {"ollama2", "runner2"}
    assert "http://ollama2:11434" in more["runner2"]["command"]  # type: ignore[operator]
    devices = more["ollama2"]["deploy"]["resources"]["reservations"]["devices"]  # type: ignore[index]
    first = services("compose.yaml")["ollama"]["deploy"]["resources"]["reservations"]["devices"]  # type: ignore[index]
    assert devices[0]["device_ids"] != first[0]["device_ids"]
