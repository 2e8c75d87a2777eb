"""ask: questions about what ran, answered from what is recorded."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import typer

from pavane import answers
from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import console, print_json, print_shown, table

Since = Annotated[
    str | None, typer.Option(metavar="WHEN", help="7d, 12h, 30m or a date. Default: 7d, or all of --batch.")
]
SearchSince = Annotated[
    str | None, typer.Option(metavar="WHEN", help="Started since: 7d, 12h or a date. Default: ever.")
]
Until = Annotated[str | None, typer.Option(metavar="WHEN", help="Likewise.")]
Batch = Annotated[str | None, typer.Option("--batch", metavar="ID", help="Of the runs of this batch.")]
Workflow = Annotated[str | None, typer.Option("--workflow", metavar="ID", help="Of the runs of this workflow.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Rows at most.")]
Cursor = Annotated[str | None, typer.Option(metavar="TEXT", help="`next_cursor` of the page before, from --json.")]
WIDE = 100
"""Columns of a terminal that has room for more."""

ask_app = typer.Typer(
    epilog=example(
        "pavane ask missing improve --batch batch_0193f2a4",
        "pavane ask cost --model qwen2.5:7b --since 7d",
        "pavane ask failures --by node --batch batch_0193f2a4",
        "pavane ask search --output 'grade.score<40' --error timeout",
    )
)


def register(app: typer.Typer) -> None:
    app.add_typer(ask_app, name="ask")


@ask_app.callback(invoke_without_command=True)
def ask(context: typer.Context, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Questions about what ran: what is missing, what it cost, what errs, is slow or fails; and a search."""
    if context.invoked_subcommand:
        return
    with client_of(api, data) as client:
        answer = client.get("ask")
    if as_json:
        print_json(answer)
        return
    shown = table("QUESTION|10", "ANSWERS")
    for question in answer["questions"]:
        shown.add_row(question["question"], question["answers"])
    print_shown("Ask with pavane ask QUESTION; --help shows how.", shown)


def _ask(
    question: str, asked: dict[str, Any], shown: Callable[[Any], list[Any]], as_json: bool, api: str | None,
    data: Any,
) -> None:  # fmt: skip
    """Asks, and prints the answer."""
    with client_of(api, data) as client:
        answer = client.get("ask", question, **{name: value for name, value in asked.items() if value is not None})
    if as_json:
        print_json(answer)
        return
    print_shown(*shown(answer))
    _say_dropped(answer)
    if answer["next_cursor"]:
        typer.echo(f"and perhaps more: --limit, or --cursor {answer['next_cursor']}", err=True)


@ask_app.command(epilog=example("pavane ask missing improve --batch batch_0193f2a4"))
def missing(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node whose output they should have.")],
    batch: Annotated[str, typer.Option("--batch", metavar="ID", help="The batch.")],
    listed: Annotated[bool, typer.Option("--list", help="Each item, not only how many and why.")] = False,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Which items of a batch have no output of a node, and where they are now."""
    few = limit if listed or as_json else 1
    asked: dict[str, Any] = {"node": node, "batch_id": batch, "limit": few, "cursor": cursor}
    with client_of(api, data) as client:
        answer = client.get("ask", "missing", **asked)
    if as_json:
        print_json(answer)
        return
    print_shown(*answers.missing_parts(answer, listed=listed))
    _say_dropped(answer)
    if answer["missing"] and not listed:
        typer.echo("--list names each item")
    elif listed and answer["next_cursor"]:
        typer.echo(f"and more: --limit, or --cursor {answer['next_cursor']}", err=True)


@ask_app.command(
    epilog=example("pavane ask cost --model qwen2.5:7b --since 7d", "pavane ask cost --by day --since 30d")
)
def cost(
    by: Annotated[str, typer.Option(metavar="WHAT", help="model, node, workflow, batch, day or label=NAME.")] = "model",
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Of this model alone.")] = None,
    batch: Batch = None,
    workflow: Workflow = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """What tasks took: tokens, time, GPU time, loads, and money where PAVANE_PRICES is set. Failed attempts count."""
    asked = _scope(batch, workflow, since, until, limit, cursor) | {"by": by, "model": model}
    wide = console().width >= WIDE
    _ask("cost", asked, partial(answers.cost_parts, wide=wide), as_json, api, data)


@ask_app.command(epilog=example("pavane ask conditions --workflow screening"))
def conditions(
    batch: Batch = None,
    workflow: Workflow = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Which conditions are in error: those count as false, and the run goes on another way."""
    asked = _scope(batch, workflow, since, until, limit, cursor)
    _ask("conditions", asked, answers.conditions_parts, as_json, api, data)


@ask_app.command(epilog=example("pavane ask slowest --by model --since 1d"))
def slowest(
    by: Annotated[Literal["node", "model"], typer.Option(help="What is compared.")] = "node",
    batch: Batch = None,
    workflow: Workflow = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """How long tasks ran, and waited before; the slowest first."""
    asked = _scope(batch, workflow, since, until, limit, cursor) | {"by": by}
    _ask("slowest", asked, answers.slowest_parts, as_json, api, data)


@ask_app.command(epilog=example("pavane ask failures --by node --batch batch_0193f2a4"))
def failures(
    by: Annotated[Literal["class", "node", "model", "runner"], typer.Option(help="What is compared.")] = "class",
    batch: Batch = None,
    workflow: Workflow = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """What failed, what came of it, and what to do next."""
    asked = _scope(batch, workflow, since, until, limit, cursor) | {"by": by}
    _ask("failures", asked, answers.failures_parts, as_json, api, data)


@ask_app.command(
    epilog=example(
        "pavane ask search --input 'name~json' --status FAILED",
        "pavane ask search --output 'grade.score<40' --label team=red --error timeout",
    )
)
def search(
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="With this label.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="PATH=VALUE", help="Of the input. `~` contains, `<` and `>` compare numbers."),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE.PATH=VALUE", help="Likewise of a node's output, of runs that have ended."),
    ] = None,
    error: Annotated[str | None, typer.Option(metavar="TEXT", help="In the class or message of the error.")] = None,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="RUNNING, COMPLETED, FAILED ...")] = None,
    batch: Batch = None,
    workflow: Workflow = None,
    since: SearchSince = None,
    until: Until = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Runs that have all that is asked, the newest first. Values over 16 KB are not looked into."""
    asked = _scope(batch, workflow, since, until, limit, cursor)
    asked |= {"label": label or None, "input": given or None, "output": output or None}
    asked |= {"error": error, "status": status.upper() if status else None}
    _ask("search", asked, answers.search_parts, as_json, api, data)


def _say_dropped(answer: Any) -> None:
    if said := answers.dropped_text(answer):
        typer.echo(said, err=True)


def _scope(
    batch: str | None, workflow: str | None, since: str | None, until: str | None, limit: int, cursor: str | None
) -> dict[str, Any]:
    return {
        "batch_id": batch, "workflow_id": workflow, "since": since, "until": until, "limit": limit, "cursor": cursor,
    }  # fmt: skip
