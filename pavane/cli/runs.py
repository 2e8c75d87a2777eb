"""Runs: run, ps, show, logs, stop."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pavane.cli.batches import submit_batch, watch_batch
from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import (
    STATUS_STYLE,
    clock,
    compact,
    console,
    one_line,
    pairs,
    print_json,
    print_shown,
    short_clock,
    span,
    table,
)
from pavane.cli.workflows import json_argument
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
        )
    )(run)
    app.command(epilog=example("pavane ps --status RUNNING"))(ps)
    app.command(epilog=example("pavane show run_0193f2a4"))(show)
    app.command(epilog=example("pavane logs run_0193f2a4 -f"))(logs)
    app.command(epilog=example("pavane stop run_0193f2a4 --reason 'wrong input'"))(stop)


def run(
    workflow: Annotated[str, typer.Argument(help="A workflow file (YAML or JSON), or the id of a registered one.")],
    given: Annotated[str | None, typer.Option("--input", metavar="JSON", help="The run's input, or `@FILE`.")] = None,
    items: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Start a batch: one run for each line of a .jsonl or .csv file.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="CEL", help="Each item's key, over `item` and `index`; known keys are skipped."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Also where a batch of this workflow runs, and known keys.")] = False,
    run_id: Annotated[
        str | None, typer.Option(metavar="ID", help="An id of your own: the same again is no second run.")
    ] = None,
    watch: Annotated[bool, typer.Option(help="Follow it to its end; exit 1 if it fails.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Start a run, or with --items a batch."""
    if (given is None) == (items is None):
        raise typer.BadParameter("give either --input or --items")
    if items is None and (key is not None or force):
        raise typer.BadParameter("--key and --force go with --items")
    with client_of(api, data) as client:
        chosen = choose(workflow)
        if items is not None:
            batch = submit_batch(client, chosen, items, key, force=force)
            _said(batch, "batch_id", as_json=as_json, watched=watch)
            if batch["skipped"]:
                typer.echo(f"{batch['accepted']} items taken, {batch['skipped']} with known keys skipped", err=True)
            if watch:
                watch_batch(client, batch["batch_id"], as_json=as_json)
            return
        body = {**chosen, "input": json_argument("--input", given or "")}
        started = client.post("runs", body=body | ({"run_id": run_id} if run_id else {}))
        _said(started, "run_id", as_json=as_json, watched=watch)
        if watch:
            _follow(client, started["run_id"], as_json=as_json)


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
    """What was started: on stdout its id alone, so that scripts can take it; beside its events, on stderr."""
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
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """List runs, the newest first."""
    with client_of(api, data) as client:
        answer = client.get("runs", status=status and status.upper(), batch_id=batch, workflow_id=workflow, limit=limit)
    if as_json:
        print_json(answer)
        return
    shown = table("RUN|36", "WORKFLOW", "STATUS|9", "STARTED|8", "TOOK>", "KEY")
    for found in answer["runs"]:
        took = span(found["ended_at"] - found["created_at"]) if found["ended_at"] else ""
        shown.add_row(
            found["run_id"], found["workflow_id"], _styled(found["status"]), short_clock(found["created_at"]), took,
            found.get("key") or "",
        )  # fmt: skip
    console().print(shown)
    if answer["next_cursor"]:
        typer.echo(f"and more; --limit shows up to 500, not {limit}", err=True)


def _styled(status: str) -> Any:
    from rich.text import Text

    return Text(status, style=STATUS_STYLE.get(status, ""))


def show(run_id: RunArgument, as_json: Json = False, api: Api = None, data: Data = None) -> None:
    """Show a run: status, outputs, live tokens, usage, error."""
    with client_of(api, data) as client:
        found = client.get("runs", run_id)
    if as_json:
        print_json(found)
        return
    out = console()
    width = max(60, out.width - 18) if out.is_terminal else 400
    parts: list[Any] = [pairs(_facts(found, width))]
    if found["outputs"]:
        parts += [
            "\noutputs",
            pairs((f"  {node}", compact(output, width)) for node, output in found["outputs"].items()),
        ]
    if found["live_tokens"]:
        tokens = table("  NODE", "STATE", "ATTEMPT>", "SINCE", "STREAM", "RUNNER", "TOKEN")
        for token in found["live_tokens"]:
            tokens.add_row(
                f"  {token['node_id']}", token["state"], str(token["attempt"] or 0), clock(token["since"]),
                token["stream"] or "", token["runner"] or "", token["token_id"],
            )  # fmt: skip
        parts += ["\nlive tokens", tokens]
    print_shown(*parts)


def _facts(found: Mapping[str, Any], width: int) -> list[tuple[str, Any]]:
    ended = found["ended_at"]
    version = f" version {found['version']}" if found["version"] else ""
    facts: list[tuple[str, Any]] = [
        ("run", found["run_id"]),
        ("status", _styled(found["status"])),
        ("workflow", f"{found['workflow_id']}{version}, revision {found['revision']}"),
        ("started", clock(found["created_at"])),
    ]
    if ended:
        facts.append(("ended", f"{clock(ended)}, after {span(ended - found['created_at'])}"))
    if found["batch_id"]:
        facts.append(("batch", f"{found['batch_id']}, key {found['key']}" if found["key"] else found["batch_id"]))
    if found["labels"]:
        facts.append(("labels", ", ".join(f"{name}={value}" for name, value in found["labels"].items())))
    facts.append(("input", compact(found["input"], width)))
    if found["status"] == "COMPLETED":
        facts.append(("output", compact(found["output"], width)))
    if found["error"]:
        facts.append(("error", _error(found["error"], width)))
    if usage := found["usage"]:
        tasks = f"{usage['tasks']} task{'' if usage['tasks'] == 1 else 's'}"
        tokens = f"{usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
        work = f"{tasks}, {span(usage['execution_time_ms'])} in models"
        facts.append(("usage", f"{work}, {tokens}" if usage["prompt_tokens"] else tasks))
    return facts


def _error(error: Any, width: int) -> str:
    if isinstance(error, Mapping) and "class" in error:
        where = f"{error['node']}: " if error.get("node") else ""
        tries = f" (attempt {error['attempts']})" if error.get("attempts", 1) > 1 else ""
        return f"{where}{error['class']}: {error.get('message', '')}{tries}"
    return compact(error, width)


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


def stop(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_BATCH", help="The id of a run or of a batch.")],
    reason: Annotated[str | None, typer.Option(help="Why; kept with it.")] = None,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Cancel a run or a batch: what is queued is withdrawn, what is running is ignored when it comes in."""
    kind = "batches" if target.startswith("batch_") else "runs"
    with client_of(api, data) as client:
        answer = client.post(kind, target, "cancel", body={"reason": reason} if reason else {})
    live = f", {answer['cancelled']} live runs" if "cancelled" in answer else ""
    if as_json:
        print_json(answer)
    else:
        typer.echo(f"{target}: {answer['status']}{live}")
