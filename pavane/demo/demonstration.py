"""The demo from its first line to its last: servers, batch, bars, table, results."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import typer

from pavane.cli.service import engine_url
from pavane.client import Client
from pavane.data_folder import DataFolder, Instance
from pavane.demo.docstrings import docstrings
from pavane.demo.figures import Meter, count, runner_meter, simulated_meter
from pavane.demo.private_up import PrivateUp
from pavane.demo.report import closer_look, print_report
from pavane.documents import UnusableFile, read_document, save_stream
from pavane.engine_choice import EngineChoice, choose_engine, models_of
from pavane.monitor import follow_batch, summary
from pavane.settings import Settings, examples_folder

GPUS, CARD, SPEED = 2, "8GB", 50
RESULTS = "screening-results.jsonl"


class Demonstration:
    """One `pavane demo`. `run` answers the batch as it ended."""

    def __init__(self, settings: Settings, items: int, output: Path | None) -> None:
        self._items = items
        self._output = output or Path(RESULTS)
        self._document = read_document(examples_folder() / "screening" / "workflow.yaml")
        self._ollama = engine_url(settings.ollama_host)
        self._choice: EngineChoice = choose_engine(self._ollama, models_of(self._document))
        self._began = time.monotonic()

    def run(self, *, quiet: bool) -> dict[str, Any]:
        """Raises StartFailed, Unreachable, Refused; then nothing of it is left behind."""
        self._say(quiet, self._first_line())
        private = PrivateUp(self._options())
        try:
            with private, ThreadPoolExecutor(1) as reader:
                items = reader.submit(docstrings, self._items)
                instance = private.wait()
                report = self._work(instance, private.folder, items.result(), quiet=quiet)
        except BaseException:
            private.remove()
            raise
        if not quiet:
            port = str(urlsplit(instance.api).port)
            commands = closer_look(
                private.folders, port, report["batch_id"], report["longest_run"], simulated=self._choice.simulated
            )
            typer.echo(f"\n{commands}")
        return report

    def _first_line(self) -> str:
        if self._choice.simulated:
            return (
                f"Engine: simulated, because {self._choice.reason}.\n"
                f"{GPUS} simulated GPUs of {CARD} run at {SPEED} times their speed; "
                "their answers are made up, all else is real."
            )
        return f"Engine: Ollama, because {self._choice.reason}."

    def _options(self) -> list[str]:
        if self._choice.simulated:
            return ["--engine", "simulated", "--gpus", f"{GPUS}x{CARD}", "--speed", str(SPEED)]
        return ["--engine", "ollama", "--url", self._ollama]

    def _work(self, instance: Instance, folder: Path, items: list[dict[str, str]], *, quiet: bool) -> dict[str, Any]:
        self._say(quiet, f"Servers are up in {folder} after {time.monotonic() - self._began:.1f} s.")
        running = DataFolder(folder).running() or instance
        with Client(instance.api) as client:
            before = self._meter(client, running)
            batch_id = self._submit(client, items)
            few = f", of the {self._items:,} asked for" if len(items) < self._items else ""
            self._say(quiet, f"{batch_id}: {len(items):,} docstrings of Python's standard library{few}.")
            batch = follow_batch(client, batch_id, quiet=quiet)
            meter = self._meter(client, running).since(before)
            figures = count(instance.postgres, batch_id)
            place = self._save(client, batch_id, folder)
        if not quiet:
            print_report(batch, figures, meter, simulated=self._choice.simulated)
            typer.echo(f"\n{summary(batch)}. Results: {place}")
        return {
            **batch,
            "simulated": self._choice.simulated,
            "executions": dict(figures.executions),
            "branches": {branch: dict(ways) for branch, ways in figures.branches.items()},
            "passes": {loop: {str(n): items for n, items in counts.items()} for loop, counts in figures.passes.items()},
            "model_loads": meter.loads,
            "gpu_active_share": round(meter.active_share, 4),
            "wall_ms": round(figures.wall_ms),
            "median_item_ms": round(figures.median_item_ms),
            "longest_run": figures.longest_run,
            "results": str(place),
            "data": str(folder),
        }

    def _submit(self, client: Client, items: list[dict[str, str]]) -> str:
        workflow = client.post("workflows", body=self._document)
        batch = client.post(
            "batches",
            body={
                "workflow_id": workflow["workflow_id"],
                "items": items,
                "key": "item.name",
                "requested_by": "pavane demo",
            },
        )
        return str(batch["batch_id"])

    def _meter(self, client: Client, instance: Instance) -> Meter:
        if self._choice.simulated:
            return simulated_meter(
                [httpx.get(f"{url}/simulated/stats", trust_env=False).json() for url in instance.engines]
            )
        return runner_meter(client.get("runners")["runners"], time.monotonic() - self._began)

    def _save(self, client: Client, batch_id: str, folder: Path) -> Path:
        """The results where they were asked for; in the data folder where nothing can be written there."""
        place = self._output
        try:
            save_stream(place, client.chunks("batches", batch_id, "results"))
        except UnusableFile as error:
            typer.echo(str(error), err=True)
            place = folder / RESULTS
            save_stream(place, client.chunks("batches", batch_id, "results"))
        return place

    def _say(self, quiet: bool, text: str) -> None:
        if not quiet:
            typer.echo(text)
