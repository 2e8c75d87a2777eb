"""Answers from outside: approvals, complete, event."""

from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import clock, compact, print_each, print_json
from pavane.cli.workflows import json_argument


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane approvals --assignee ada"))(approvals)
    app.command(
        epilog=example(
            "pavane complete run_0193f2a4 review --choice approve",
            """pavane complete run_0193f2a4 review --output '{"choice": "reject", "why": "too long"}'""",
        )
    )(complete)
    app.command(epilog=example("""pavane event paid --key order-17 --output '{"amount": 12}'"""))(event)


def approvals(
    assignee: Annotated[str | None, typer.Option(metavar="NAME", help="What waits for this person.")] = None,
    run: Annotated[str | None, typer.Option(metavar="ID", help="Of this run.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Of this batch.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 100,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """List what waits for people, the oldest first."""
    with client_of(api, data) as client:
        answer = client.get("approvals", assignee=assignee, run_id=run, batch_id=batch, limit=limit)
    if as_json:
        print_json(answer)
        return
    print_each(answer["approvals"], _lines, "nothing waits for anybody")
    if answer["total"] > len(answer["approvals"]):
        typer.echo(f"and more: {answer['total']} in all", err=True)


def _lines(one: dict[str, Any]) -> list[str]:
    """`RUN NODE` as `pavane complete` takes them; whom it waits for, and what is asked."""
    due = f", until {clock(one['due'])}" if one["due"] else ""
    asked = compact(one["prompt"] or "", 200)
    choices = f"  choices: {', '.join(one['choices'])}" if one["choices"] else ""
    token = f"  --token {one['token_id']}" if _is_of_item(one) else ""
    return [
        f"{one['run_id']} {one['node_id']}{token}",
        f"  for {one['assignee'] or 'anybody'}, since {clock(one['since'])}{due}",
        *([f"  {asked}"] if one["prompt"] else []),
        *([choices] if choices else []),
    ]


def _is_of_item(one: dict[str, Any]) -> bool:
    """Several tokens of one node may wait: those of a map's items."""
    return "." in one["token_id"].removeprefix(one["run_id"] + ".")


def complete(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")],
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node that waits.")],
    output: Annotated[str | None, typer.Option(metavar="JSON", help="The answer, or `@FILE`.")] = None,
    choice: Annotated[
        str | None, typer.Option(metavar="TEXT", help="""Short for --output '{"choice": TEXT}'.""")
    ] = None,
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="Why there is no answer: the node fails.")] = None,
    token: Annotated[
        str | None, typer.Option(metavar="ID", help="Which token, where several of the node wait.")
    ] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Answer for a node: what a person decided, or an outside worker did."""
    if [output, choice, error].count(None) != 2:
        raise typer.BadParameter("give one of --output, --choice and --error")
    body: dict[str, Any] = {"token_id": run_id + token if token.startswith(".") else token} if token else {}
    if error is not None:
        body["error"] = {"message": error}
    else:
        body["output"] = {"choice": choice} if output is None else json_argument("--output", output)
    with client_of(api, data) as client:
        answer = client.post("runs", run_id, "nodes", node, "complete", body=body)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{run_id}: {node} is answered, the run is {answer['status']}")


def event(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the event.")],
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Which of those that wait for it.")] = None,
    output: Annotated[str | None, typer.Option(metavar="JSON", help="Their output, or `@FILE`.")] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Say that something happened outside: `wait` nodes that wait for it go on."""
    body: dict[str, Any] = {} if key is None else {"key": key}
    if output is not None:
        body["output"] = json_argument("--output", output)
    with client_of(api, data) as client:
        answer = client.post("events", name, body=body)
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{name}: {answer['completed']} that waited for it go on")
