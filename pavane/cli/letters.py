"""letters: what was given up; looked at, retried, dropped."""

from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import clock, compact, one_line, pairs, print_each, print_json, print_shown

Letter = Annotated[str, typer.Argument(metavar="ID", help="The id of a dead letter.")]
OfReason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Given up for this: task, malformed ...")
]
Workflow = Annotated[str | None, typer.Option("--workflow", metavar="ID", help="Of runs of this workflow.")]
Batch = Annotated[str | None, typer.Option("--batch", metavar="ID", help="Of runs of this batch.")]
Node = Annotated[str | None, typer.Option("--node", metavar="ID", help="Of this node.")]
Klass = Annotated[
    str | None, typer.Option("--class", metavar="TEXT", help="With an error of this class: timeout, handler ...")
]

letters_app = typer.Typer(
    epilog=example(
        "pavane letters --class timeout --node grade",
        "pavane letters show 1760000000000-0",
        "pavane letters retry --batch batch_0193f2a4",
        "pavane letters drop 1760000000000-0 --reason 'a test item'",
    )
)


def register(app: typer.Typer) -> None:
    app.add_typer(letters_app, name="letters")


@letters_app.callback(invoke_without_command=True)
def letters(
    context: typer.Context,
    reason: OfReason = None,
    workflow: Workflow = None,
    batch: Batch = None,
    node: Node = None,
    klass: Klass = None,
    dropped: Annotated[bool, typer.Option(help="Those that were dropped, instead.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000)] = 50,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Dead letters: list what was given up, the newest first; show, retry or drop it."""
    if context.invoked_subcommand:
        return
    wanted = _filter(reason, workflow, batch, node, klass)
    with client_of(api, data) as client:
        answer = client.get("dead-letters", dropped="true" if dropped else None, limit=limit, **wanted)
    if as_json:
        print_json(answer)
        return
    print_each(answer["dead_letters"], _lines, "no dead letters")
    if answer["next_cursor"]:
        typer.echo(f"and perhaps more; --limit shows up to 1000, not {limit}", err=True)


def _lines(one: dict[str, Any]) -> list[str]:
    """The letter's id, when and why; where; and what went wrong: readable at any width."""
    key = f"key {one['key']}" if one.get("key") else ""
    place = "  ".join(filter(None, [one.get("run_id"), one.get("node_id"), key]))
    return [f"{one['id']}  {clock(one['at'])}  {one['reason']}", *([f"  {place}"] if place else []), f"  {_what(one)}"]


def _filter(
    reason: str | None, workflow: str | None, batch: str | None, node: str | None, klass: str | None
) -> dict[str, Any]:
    wanted = {"reason": reason, "workflow_id": workflow, "batch_id": batch, "node": node, "class": klass}
    return {name: value for name, value in wanted.items() if value is not None}


def _what(letter: dict[str, Any]) -> str:
    error = letter.get("error")
    if isinstance(error, dict):
        said = f"{error.get('class')}: {error.get('message')}"
    else:
        said = str(letter.get("detail") or "")
    dropped = letter.get("dropped")
    return f"{said} (dropped by {dropped['by']}: {dropped['reason']})" if dropped else said


@letters_app.command(epilog=example("pavane letters show 1760000000000-0"))
def show(letter: Letter, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Show a dead letter, with what the task that failed was given."""
    with client_of(api, data) as client:
        found = client.get("dead-letters", letter)
    if as_json:
        print_json(found)
        return
    run = found.get("run") or {}
    facts = [
        ("letter", found["id"]), ("reason", found["reason"]), ("at", clock(found["at"])), ("what", _what(found)),
        ("run", f"{found['run_id']}, {run.get('status', 'unknown')}" if found.get("run_id") else None),
        ("node", found.get("node_id")), ("workflow", run.get("workflow_id")), ("batch", run.get("batch_id")),
        ("key", run.get("key")), ("labels", ", ".join(f"{n}={v}" for n, v in (run.get("labels") or {}).items())),
        ("answer", found.get("raw")),
    ]  # fmt: skip
    parts: list[Any] = [pairs((name, value) for name, value in facts if value)]
    if given := found.get("input"):
        head = ("token_id", "node_id", "node_type")
        parts += [
            f"\ngiven to {given['node_id']}",
            pairs((f"  {name}", compact(value, 2_000)) for name, value in given.items() if name not in head),
        ]
    print_shown(*parts)


@letters_app.command(
    epilog=example(
        "pavane letters retry 1760000000000-0", "pavane letters retry --class timeout --batch batch_0193f2a4"
    )
)
def retry(
    letter: Annotated[str | None, typer.Argument(metavar="[ID]", help="The id of a dead letter.")] = None,
    reason: OfReason = None,
    workflow: Workflow = None,
    batch: Batch = None,
    node: Node = None,
    klass: Klass = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Letters at most.")] = 1_000,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Let the run of a dead letter go on where it failed, or those of all that a filter takes."""
    wanted = _filter(reason, workflow, batch, node, klass)
    if (letter is None) == (not wanted):
        raise typer.BadParameter("give either the id of a letter or a filter (--reason, --class ...)")
    with client_of(api, data) as client:
        if letter is not None:
            answer = client.post("dead-letters", letter, "retry")
        else:
            answer = client.post("dead-letters", "retry", body={**wanted, "limit": limit})
    if as_json:
        print_json(answer)
    elif letter is not None:
        typer.echo(f"{answer['run_id']}: {answer['status']}")
    else:
        refused = f", not: {one_line(answer['refused'])}" if answer["refused"] else ""
        more = "; there may be more" if answer["next_cursor"] else ""
        typer.echo(f"{answer['retried']} of {answer['found']} retried{refused}{more}")


@letters_app.command(epilog=example("pavane letters drop 1760000000000-0 --reason 'a test item'"))
def drop(
    letter: Letter,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the letter.")],
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Take a dead letter off the list; it is kept with your reason."""
    with client_of(api, data) as client:
        answer = client.post("dead-letters", letter, "drop", body={"reason": reason})
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{letter}: dropped")
