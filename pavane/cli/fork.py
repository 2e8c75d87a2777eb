"""A new run from any point of another one: fork."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Description, Json, LiveTokens, client_of, example, read_labels
from pavane.cli.output import print_json
from pavane.cli.patches import Asked, RunArgument


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane fork run_0193f2a4 --at 12",
            "pavane fork run_0193f2a4 --at 12 --set nodes.grade.config.model=qwen2.5:14b",
            "pavane fork run_0193f2a4 --at 12 patch.yaml --label try=warmer",
        )
    )(fork)


def fork(
    run_id: RunArgument,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Operations (RFC 6902) that the fork begins with; `-` is stdin."),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(min=1, metavar="SEQ", help="The event after which it is forked: `pavane replay` shows them."),
    ] = None,
    members: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="As of `pavane patch`. Repeatable."),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="Instead of the run's labels. Repeatable."),
    ] = None,
    live_tokens: LiveTokens = None,
    description: Description = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Start a new run from any point of this one: what had finished then is not executed again.

    Without --at: from the last point at which it had something to do; a failed run is forked as a retry would go on.
    """
    body: dict[str, Any] = {"at": at, "description": description, "live_tokens": live_tokens}
    body["labels"] = read_labels(labels) if labels else None
    with client_of(api, data) as client:
        if file is not None or members:
            operations, _ = Asked({}, file, members or (), None).of_run(client, run_id)
            body = operations | body
        asked = {name: value for name, value in body.items() if value is not None}
        answer = client.post("runs", run_id, "fork", body=asked)
    if as_json:
        print_json(answer)
        return
    origin = answer["forked_from"]
    typer.echo(answer["run_id"])
    typer.echo(
        f"{answer['status']} at revision {answer['revision']}, forked from {origin['run_id']} after event "
        f"{origin['seq']}; `pavane compare {answer['run_id']}` shows what differs"
    )
