"""What a runner may be called, and told to do."""

import pytest
from typer.testing import CliRunner

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from lua.run_store import RunStore
from pavane.cli.main import app
from pavane.services.runner import default_runner_id
from schemas.ids import NAME
from tests.runner.workflows import noop

NO_NAMES = ["", "a b", 'a"b', "~returned", "r1\n", "x" * 129]


@pytest.mark.parametrize("runner_id", NO_NAMES)
async def test_ids_that_are_no_names(runner_id: str, store: RunStore) -> None:
    with pytest.raises(ValueError, match="runner id"):
        Runner(store, runner_id, nodes={"function": FunctionNodes(Handlers([noop]))})


@pytest.mark.parametrize("runner_id", NO_NAMES)
def test_the_command_names_the_option(runner_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = CliRunner().invoke(app, ["runner", "--types", "function", "--id", runner_id])
    assert (said.exit_code, "--id" in said.stderr) == (2, True)


@pytest.mark.parametrize("host", ["-a_b.lan", "größe", "_", "x" * 200])
def test_the_id_that_a_runner_has_by_default(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert NAME.fullmatch(default_runner_id("gpu"))


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"slots": 0}, {"heartbeat_ms": 20_000}, {"reclaim_idle_ms": 1_000}):
        try:
            RunnerSettings(**wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
