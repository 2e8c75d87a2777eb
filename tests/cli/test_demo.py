"""The demo, small; and its parts."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from pavane.demo.docstrings import SHORTEST, docstrings
from pavane.demo.figures import Meter, simulated_meter
from pavane.documents import read_document
from pavane.engine_choice import choose_engine, models_of
from pavane.settings import examples_folder


def test_the_items_are_many_and_always_the_same() -> None:
    items = docstrings(2_062)
    assert len(items) == 2_062
    assert items[:50] == docstrings(50)
    assert len({item["name"] for item in items}) == len(items)
    assert all(len(item["text"]) >= SHORTEST for item in items)


def test_without_ollama_the_engine_is_simulated_and_that_is_said() -> None:
    choice = choose_engine("http://127.0.0.1:1", ["phi3"])
    assert choice.simulated
    assert "no Ollama answers" in choice.reason


async def test_an_ollama_without_the_models_is_not_used() -> None:
    from asyncio import to_thread

    from agent_runner.engines.simulated.server import SimulatedServer

    async with SimulatedServer() as server:
        models = models_of(read_document(examples_folder() / "screening" / "workflow.yaml"))
        assert len(models) == 4
        assert not (await to_thread(choose_engine, server.url, models)).simulated
        lacking = await to_thread(choose_engine, server.url, [*models, "nobody:1b"])
    assert lacking.simulated
    assert "lacks nobody:1b" in lacking.reason


def test_meters_add_up_and_subtract() -> None:
    stats = {"loads": 3, "active_s": 40.0, "loading_s": 10.0, "simulated_s": 100.0}
    later = simulated_meter([stats, stats]).since(Meter(1, 20.0, 10.0, 100.0))
    assert (later.loads, later.active_share, later.loading_share) == (5, 0.6, 0.1)


def test_the_demo_counts_what_happened(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pavane", "demo", "--items", "12"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(line) for line in (tmp_path / "screening-results.jsonl").read_text().splitlines()]
    assert len(results) == 12
    assert all(result["status"] == "COMPLETED" and result["output"]["text"] for result in results)
    assert done.stdout.startswith("Engine: simulated, because")
    for part in ("items done", "model loads", "GPU active", "(simulated)", "median item"):
        assert part in done.stdout

    def counted(what: str) -> int:
        return sum(int(count) for count in re.findall(rf"^\s*{what}\s+(\d+)\s", done.stdout, re.MULTILINE))

    assert [counted(f"step {node}") for node in ("extract", "grade", "format")] == [12, 12, 12]
    assert counted("branch quality") == 12
    assert counted("step improve") == counted("loop again") == counted("step regrade")
    assert counted("model loads") >= 3
    folders = [Path(word) for word in done.stdout.rpartition("rm -r ")[2].split()]
    assert (folders[0] / "postgres").is_dir()
    for folder in folders:
        shutil.rmtree(folder)


def test_a_demo_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    import os

    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o711)
    command = [sys.executable, "-m", "pavane", "demo", "--items", "2000"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("Servers are up" in line for line in demo.stdout)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(40) == 130
    assert not list(tmp_path.glob("pavane-demo-*"))
