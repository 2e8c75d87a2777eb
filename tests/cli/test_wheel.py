"""The wheel: built, installed elsewhere, and started from there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.servers import private_folder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    place = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


def run(installed: Path, *words: str) -> "subprocess.Popen[str]":
    """`pavane` of the wheel, in a folder that is neither the repository nor the installation."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pavane", *words], cwd="/", env=environment, text=True, stdout=subprocess.PIPE
    )


def test_it_holds_what_the_code_reads(installed: Path) -> None:
    for file in ("lua/advance.lua", "lua/parts/emit.lua", "history/migrations/0001_history.sql", "pavane/py.typed"):
        assert (installed / file).is_file()
    assert (installed / "pavane/examples/screening/workflow.yaml").is_file()
    assert not (installed / "tests").exists()


def test_it_starts(installed: Path) -> None:
    folder = private_folder()
    up = run(installed, "up", "--engine", "simulated", "--port", "0", "--json", "--data", str(folder))
    assert up.stdout is not None
    api = json.loads(up.stdout.readline())["api"]
    workflow = str(installed / "pavane/examples/hello.yaml")
    words = ["run", workflow, "--input", '{"name": "Ada"}', "--watch", "--json", "--api", api]
    with run(installed, *words) as watched:
        assert watched.stdout is not None
        assert json.loads(watched.stdout.read())["status"] == "COMPLETED"
    up.send_signal(signal.SIGINT)
    assert up.wait(40) == 0
    up.stdout.close()
    shutil.rmtree(folder)
