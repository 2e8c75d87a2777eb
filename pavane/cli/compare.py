"""compare: what differs between two runs, two batches, a fork and its origin, a canary and the rest."""

import csv
import sys
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import console, print_json
from pavane.comparison_lines import CSV_COLUMNS, batch_lines, csv_rows, run_lines

PIPE_WIDTH = 160
TIMEOUT_S = 600.0
"""Two batches of a hundred thousand items are read whole."""


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane compare run_0193f2a4 run_0193f2b7",
            "pavane compare batch_0193f2a4 batch_0193f2b7 --limit 50",
            "pavane compare batch_0193f2a4 --canary",
        )
    )(compare)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's id, or a batch's.")],
    b: Annotated[
        str | None,
        typer.Argument(metavar="B", help="Another one. Without it A is a fork, and is compared with its origin."),
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="Of one batch: the items without its newest patch, and those with it.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Items that are shown.")] = 20,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV: a row for each field that differs.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Show what differs: outputs side by side, changed fields, where the ways part, status, time and tokens."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json are two formats")
    with client_of(api, data) as client:
        asked: dict[str, Any] = {"a": a, "b": b, "limit": limit} | ({"canary": "true"} if canary else {})
        found = client.get("compare", timeout_s=TIMEOUT_S, **asked)
    if as_json:
        print_json(found)
    elif as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(CSV_COLUMNS)
        writer.writerows([_cell(value) for value in row] for row in csv_rows(found))
    else:
        out = console()
        lines = run_lines if found["kind"] == "runs" else batch_lines
        typer.echo("\n".join(lines(found, out.width if out.is_terminal else PIPE_WIDTH)))
        if found["kind"] == "runs" and found["fork"]:
            typer.echo(f"B was forked from A, {found['a']['run_id']}", err=True)


def _cell(value: Any) -> str:
    from orchestrator_api.results import cell  # as in the results of a batch

    return cell(value)
