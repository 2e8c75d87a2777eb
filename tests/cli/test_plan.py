"""`pavane plan`: what it prints, draws and refuses, and what it asks of the API."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest
from click.testing import Result

from pavane.settings import examples_folder
from tests.planning.plans import agent, workflow

Pavane = Callable[..., Result]
SCREENING = examples_folder() / "screening" / "workflow.yaml"
FEW = ("--items", 60, "--gpus", "8GB,24GB")


@pytest.mark.parametrize(
    "file", sorted(file for file in examples_folder().rglob("*.yaml") if not file.name.endswith("cases.yaml")), ids=str
)
def test_every_example_can_be_planned(pavane: Pavane, file: Path) -> None:
    result = pavane("plan", file, "--items", 20, "--gpus", "2x8GB", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["items"] == 20


def test_it_says_what_it_takes_what_would_change_it_and_what_it_rests_on(pavane: Pavane) -> None:
    result = pavane("plan", SCREENING, *FEW)
    assert result.exit_code == 0, result.output
    for part in (
        "takes", "no schedule can beat", "one more 8GB", "one more 24GB", "24GB in place of 8GB", "qwen2.5:7b",
        "times of extract, grade, improve, regrade, format are assumed", "quality is equally likely", "again makes 1.5",
    ):  # fmt: skip
        assert part in result.stdout, part


def test_json_has_the_same_and_a_seed_repeats_it(pavane: Pavane) -> None:
    one, again, other = (
        json.loads(pavane("plan", SCREENING, *FEW, "--seed", seed, "--json").stdout) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert one["duration_s"] >= one["bound_s"] > 0
    assert [gpu["kind"] for gpu in one["gpus"]] == ["8GB", "24GB"]
    for gpu in one["gpus"]:
        assert gpu["active"] + gpu["loading"] + gpu["idle"] == pytest.approx(1, abs=0.001)
    assert one["loads"] == sum(sum(gpu["loads"].values()) for gpu in one["gpus"])
    assert all(change["duration_s"] < one["duration_s"] for change in one["changes"])


def test_what_is_given_counts(pavane: Pavane) -> None:
    def seconds(*options: object) -> float:
        found = json.loads(pavane("plan", SCREENING, "--items", 60, "--gpus", "8GB", *options, "--json").stdout)
        return float(found["duration_s"])

    usual = seconds()
    assert seconds("--branch", "quality=1,0") < usual < seconds("--branch", "quality=0,1", "--loop", "again=3")
    assert seconds("--time", "grade=20") > 1.5 * usual
    assert seconds("--slots", 1) > 1.5 * usual


def test_the_picture_is_written(pavane: Pavane, tmp_path: Path) -> None:
    assert pavane("plan", SCREENING, *FEW, "--svg", tmp_path / "plan.svg").exit_code == 0
    root = ElementTree.parse(tmp_path / "plan.svg").getroot()
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1 · 8GB", "2 · 24GB", "gemma3:4b"} <= set(texts)
    assert pavane("plan", SCREENING, *FEW, "--svg", tmp_path / "none" / "plan.svg").exit_code == 2


def test_models_and_cards_that_nobody_knows(pavane: Pavane, tmp_path: Path) -> None:
    (tmp_path / "w.json").write_text(json.dumps(workflow(agent("a", model="mine:3b"))))
    words = ("plan", tmp_path / "w.json", "--items", 10, "--gpus", "12GB,16GB@1.3")
    refused = pavane(*words)
    assert (refused.exit_code, "mine:3b" in refused.stderr) == (2, True)
    result = pavane(*words, "--model", "mine:3b=2.0,0.1,2.5")
    assert result.exit_code == 0
    assert "12GB: 11.2 GB usable, pace 1.2" in result.stdout
    assert "16GB@1.3" in result.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--gpus", "8"], "is no GPU"),
        (["--gpus", "0x8GB"], "has a 0"),
        (["--gpus", "8GB@0"], "has a 0"),
        (["--gpus", "300x8GB"], "at most 256"),
        (["--gpus", "4GB"], "the largest GPU, 4GB, has 3.7"),
        (["--branch", "quality"], "is not NAME=NUMBER"),
        (["--branch", "quality=1"], "give 2 numbers"),
        (["--branch", "quality=0,0"], "all 0"),
        (["--branch", "grade=1"], "is no branch"),
        (["--branch", "nowhere=1"], "no node nowhere"),
        (["--loop", "again=9"], "1 to 3 passes"),
        (["--loop", "quality=1"], "is no loop"),
        (["--map", "grade=1"], "is no map"),
        (["--time", "quality=1"], "takes no time"),
        (["--time", "grade=-1"], "can not be"),
        (["--time", "grade=nan"], "can not be"),
        (["--model", "phi3=1"], "weights in GB"),
        (["--from-batch", "batch_1", "--measured-on", "8GB,24GB"], "one kind of GPU"),
        (["--items", "0"], "--items"),
        (["--items", "1000000"], "fewer items"),
    ],
)
def test_bad_use(pavane: Pavane, options: list[str], said: str) -> None:
    result = pavane("plan", SCREENING, *FEW, *options)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_workflow_that_is_refused_and_an_api_that_is_not_there(pavane: Pavane, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("id: w\nnodes: []")
    refused = pavane("plan", tmp_path / "w.yaml", *FEW)
    assert refused.exit_code == 1
    assert "/nodes" in refused.stderr
    assert pavane("plan", SCREENING, *FEW, "--from-batch", "batch_1").exit_code == 3


# -- from a batch ----------------------------------------------------------------------------------


def events_of(run: str) -> list[dict[str, Any]]:
    """A run whose tasks took 10 s each, and whose summary was good at once."""
    found: list[dict[str, Any]] = []
    number = int(run.removeprefix("run_"))
    for place, (node, model) in enumerate([("extract", "gemma3:4b"), ("grade", "qwen2.5:7b"), ("format", "gemma2:2b")]):
        at = (number * 3 + place) * 10_000
        usage = {"llm_model": model, "execution_time_ms": 10_000}
        head = {"run_id": run, "node_id": node, "token_id": f"{run}.{place}"}
        found.append({**head, "type": "task_started", "at": at, "runner": "gpu-1"})
        done = {**head, "type": "node_completed", "at": at + 10_000, "usage": usage}
        if node == "grade":
            done["decisions"] = [{"node": "quality", "rule": 0, "next": ["format"]}]
        found.append(done)
    return found


@pytest.fixture
def api() -> Iterator[str]:
    """An API that has the batch `batch_1` of two pages of runs, and an empty one."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            path = url.path.strip("/").split("/")
            status, answer = 200, dict[str, Any]()
            if path[0] == "batches":
                status = 200 if path[1] in ("batch_1", "batch_2") else 404
                answer = {"batch_id": path[1]} if status == 200 else {"detail": "no such batch", "status": 404}
            elif path[-1] == "events":
                answer = {"events": events_of(path[1]), "next_after": None}
            elif query["batch_id"] == ["batch_1"]:
                assert query["status"] == ["COMPLETED"]
                page = int(query.get("cursor", ["0"])[0])
                answer = {"runs": [{"run_id": f"run_{page}"}], "next_cursor": "1" if page == 0 else None}
            else:
                answer = {"runs": [], "next_cursor": None}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_batch_says_how_long_and_which_way(pavane: Pavane, api: str) -> None:
    words = ("plan", SCREENING, "--items", 40, "--gpus", "8GB", "--api", api, "--json")
    found = json.loads(pavane(*words, "--from-batch", "batch_1").stdout)
    assert found["tasks"] == 120  # nothing was improved
    assert found["bound_s"] == pytest.approx(120 * 10 / (8 / 2.4) + 3.0 + 4.5 + 1.8, abs=0.01)
    assert any("one of 2 runs of batch_1, with 6 measured tasks" in said for said in found["assumptions"])
    assert any("times of improve, regrade are assumed" in said for said in found["assumptions"])
    faster = json.loads(pavane(*words, "--from-batch", "batch_1", "--measured-on", "24GB").stdout)
    assert faster["bound_s"] == pytest.approx(1.8 * 120 * 10 / (8 / 2.4) + 3.0 + 4.5 + 1.8, abs=0.01)


def test_a_batch_that_is_not_there_or_has_nothing_yet(pavane: Pavane, api: str) -> None:
    words = ("plan", SCREENING, *FEW, "--api", api, "--from-batch")
    missing, empty = pavane(*words, "batch_9"), pavane(*words, "batch_2")
    assert (missing.exit_code, empty.exit_code) == (2, 2)
    assert "no run of batch_2 has completed" in " ".join(empty.stderr.replace("│", " ").split())
