"""The main job, whole: demo."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from pavane.cli.options import Json, example, settings_of
from pavane.cli.output import print_json


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane demo --items 2062"))(demo)


def demo(
    items: Annotated[int, typer.Option(min=1, max=100_000, help="How many docstrings go through the workflow.")] = 200,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: ./screening-results.jsonl")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run examples/screening on docstrings of Python's standard library, with servers of its own."""
    from pavane.demo.demonstration import Demonstration

    # Ended like by Ctrl-C, so that its servers and its folder go with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Demonstration(settings_of(), items, output).run(quiet=as_json)
    if as_json:
        print_json(report)
    if report["failed"] or report["status"] != "COMPLETED":
        raise typer.Exit(1)
