"""Runs: run, ps, logs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.cli.batches import Audit, submit_batch, submit_source, watch_batch
from pavane.cli.options import Api, Data, Json, client_of, example, read_labels
from pavane.cli.output import (
    console,
    one_line,
    print_json,
    short_clock,
    span,
    styled,
    table,
)
from pavane.cli.workflows import json_argument, text_argument
from pavane.client import Client
from pavane.documents import read_document
from pavane.event_lines import EventLines
from schemas.errors import InvalidDocument

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id.")]


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            """pavane run examples/hello.yaml --input '{"name": "Ada"}' --watch""",
            "pavane run examples/screening/workflow.yaml --items items.jsonl --key item.name --watch",
            "pavane run screening --sql 'SELECT id, text FROM articles' --connection warehouse --key item.id",
            "pavane run screening --items items.jsonl --audit-connection warehouse "
            "--audit-sql 'SELECT count(*) AS articles, count(summary) AS with_summary FROM articles'",
        )
    )(run)
    app.command(epilog=example("pavane ps --status RUNNING"))(ps)
    app.command(epilog=example("pavane logs run_0193f2a4 -f"))(logs)


def run(
    workflow: Annotated[str, typer.Argument(help="A workflow file (YAML or JSON), or the id of a registered one.")],
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help="The run's input, or `@FILE`.")] = None,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Start a batch: one run for each line of a .jsonl or .csv file.")
    ] = None,
    query: Annotated[
        str | None, typer.Option("--sql", metavar="QUERY", help="Start a batch: one run for each row. Or `@FILE`.")
    ] = None,
    connection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of --sql: a connection that the API's operator has set up.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="CEL", help="Each item's key, over `item` and `index`; known keys are skipped."),
    ] = None,
    audit_sql: Annotated[
        str | None,
        typer.Option(metavar="QUERY", help="Of a batch: SQL whose one row is its state before and after. Or `@FILE`."),
    ] = None,
    audit_connection: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of --audit-sql; by default that of --sql.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Also where a batch of this workflow runs, and known keys.")] = False,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="An id of your own: the same again is no second run.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="To find its runs by, later on. Repeatable."),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Follow it to its end; exit 1 if it fails.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Start a run, or with --items or --sql a batch."""
    if [given, items, query].count(None) != 2:
        raise typer.BadParameter("give one of --input, --items and --sql")
    if given is not None and (key is not None or force or audit_sql is not None):
        raise typer.BadParameter("--key, --audit-sql and --force go with --items or --sql")
    if (query is None) != (connection is None):
        raise typer.BadParameter("--sql and --connection go together")
    audit = _audit(audit_sql, audit_connection or connection)
    with client_of(api, data) as client:
        chosen = choose(workflow) | ({"labels": read_labels(labels)} if labels else {})
        if given is None:
            if items is not None:
                batch = submit_batch(client, chosen, items, key, force=force, audit=audit)
            else:
                source = {"connection": connection, "query": text_argument("--sql", query or "")}
                batch = submit_source(client, chosen, source, key, force=force, audit=audit)
            _follow_batch(client, batch, as_json=as_json, watch=watch)
            return
        body = {**chosen, "input": json_argument("--input", given)}
        started = client.post("runs", body=body | ({"run_id": run_id} if run_id else {}))
        _said(started, "run_id", as_json=as_json, watched=watch)
        if watch:
            _follow(client, started["run_id"], as_json=as_json)


def _follow_batch(client: Client, batch: Mapping[str, Any], *, as_json: bool, watch: bool) -> None:
    """Say what was taken and, if asked, watch it to its end."""
    _said(batch, "batch_id", as_json=as_json, watched=watch)
    if batch["skipped"]:
        which = f"pavane history {batch['batch_id']} --skipped"
        typer.echo(f"{batch['accepted']} items taken, {batch['skipped']} with known keys skipped: {which}", err=True)
    if watch:
        watch_batch(client, batch["batch_id"], as_json=as_json)


def _audit(query: str | None, connection: str | None) -> Audit | None:
    """The audit query of a batch. Raises BadParameter."""
    if query is None:
        return None
    if connection is None:
        raise typer.BadParameter("--audit-sql needs --audit-connection, which the API's operator has set up")
    return {"connection": connection, "query": text_argument("--audit-sql", query)}


def choose(workflow: str) -> dict[str, Any]:
    """The fields of a submission for a workflow file, or for the id of a registered workflow."""
    path = Path(workflow)
    if workflow != "-" and not path.exists() and not path.suffix and path.name == workflow:
        return {"workflow_id": workflow}
    try:
        return {"workflow": read_document(path)}
    except InvalidDocument as error:
        raise typer.BadParameter(str(error)) from None


def _said(answer: Mapping[str, Any], name: str, *, as_json: bool, watched: bool) -> None:
    """What was started: on stdout its id alone, so that scripts can take it; beside its events, on stderr. On stderr
    too what is probably not meant."""
    for warning in () if as_json else answer.get("warnings", ()):
        typer.echo(f"{warning['path']}  warning, {warning['code']}: {warning['message']}", err=True)
    if watched:
        typer.echo(answer[name], err=True)
    elif as_json:
        print_json(answer)
    else:
        typer.echo(answer[name])


def _follow(client: Client, run_id: str, *, as_json: bool) -> None:
    """Show events as they come, then the output; exit 1 unless the run completed."""
    lines = EventLines()
    for event in client.follow(run_id):
        if not as_json:
            typer.echo(lines.line(event))
    ended = client.get("runs", run_id)
    if as_json:
        print_json(ended)
    elif ended["status"] == "COMPLETED":
        typer.echo(one_line(ended["output"]))
    if ended["status"] != "COMPLETED":
        raise typer.Exit(1)


def ps(
    status: Annotated[
        str | None, typer.Option(help="RUNNING, PAUSED, COMPLETED, FAILED, CANCELLED or TIMED_OUT.")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="ID", help="Runs of this batch.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="ID", help="Runs of this workflow.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="ID", help="The child runs of this one.")] = None,
    forked_from: Annotated[str | None, typer.Option(metavar="ID", help="The runs forked from this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """List runs, the newest first; child runs only with --parent."""
    with client_of(api, data) as client:
        answer = client.get(
            "runs",
            status=status and status.upper(),
            batch_id=batch,
            workflow_id=workflow,
            parent=parent,
            forked_from=forked_from,
            limit=limit,
        )
    if as_json:
        print_json(answer)
        return
    shown = table("RUN|36", "WORKFLOW", "STATUS|9", "STARTED|8", "TOOK>", "KEY")
    for found in answer["runs"]:
        took = span(found["ended_at"] - found["created_at"]) if found["ended_at"] else ""
        shown.add_row(
            found["run_id"], found["workflow_id"], styled(found["status"]), short_clock(found["created_at"]), took,
            found.get("key") or "",
        )  # fmt: skip
    console().print(shown)
    if answer["next_cursor"]:
        typer.echo(f"there are more than these {limit}; --limit goes up to 500", err=True)


def logs(
    run_id: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Show what happened in a run, one line an event; with --json the events themselves."""
    lines = EventLines()
    with client_of(api, data) as client:
        for event in client.follow(run_id) if follow else client.events(run_id):
            typer.echo(_event_json(event) if as_json else lines.line(event))


def _event_json(event: Mapping[str, Any]) -> str:
    import orjson

    return orjson.dumps(event).decode()
