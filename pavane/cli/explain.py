"""explain: why a node of a run was executed as it was, or was not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import console, print_json, print_shown

NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="The id of a node of its workflow.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]
INDENT = 2


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane explain run_0193f2a4 improve",
            "pavane explain run_0193f2a4 check --item 17",
        )
    )(explain)


def explain(
    run_id: RunArgument,
    node_id: NodeArgument,
    item: Annotated[int | None, typer.Option(min=0, help="Of a map's items only the one at this index.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000, help="Executions: those that failed first, then the newest.")
    ] = 20,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Say why a node was executed as it was: what led to it, what it waited for, its attempts, where it went; or why it
    was not."""
    with client_of(api, data) as client:
        asked = {"limit": limit} | ({} if item is None else {"item": item})
        told = client.get("runs", run_id, "nodes", node_id, "explain", **asked)
    if as_json:
        print_json({name: part for name, part in told.items() if name != "sentences"})
        return
    print_paragraphs(told["sentences"])


def print_paragraphs(paragraphs: Sequence[Sequence[str]]) -> None:
    """Each with its first sentence as heading, and a line a sentence."""
    out = console()
    for number, (heading, *others) in enumerate(paragraphs):
        if number:
            typer.echo("")
        if out.is_terminal:
            out.print(Text(heading, style="bold"))
            for sentence in others:
                out.print(Padding(Text(sentence), (0, 0, 0, INDENT)))
        else:
            print_shown(heading, *(f"{' ' * INDENT}{sentence}" for sentence in others))
