"""Revisions of a run's workflow: list, show, diff."""

import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from pavane.cli.options import Api, Data, Json, client_of, example
from pavane.cli.output import clock, print_json, print_shown, table
from pavane.cli.patches import RunArgument
from pavane.client import Client
from pavane.event_lines import difference
from schemas.yaml_text import yaml_text

COLOURS = {"-": typer.colors.RED, "+": typer.colors.GREEN, "@": typer.colors.CYAN}
Revision = Annotated[int | None, typer.Argument(min=1, help="The number of a revision.")]


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane revisions run_0193f2a4", "pavane revisions run_0193f2a4 1 > before.yaml"))(
        revisions
    )
    app.command(epilog=example("pavane diff run_0193f2a4", "pavane diff run_0193f2a4 2 3 --patch > patch.json"))(diff)


def revisions(
    run_id: RunArgument, revision: Revision = None, as_json: Json = False, api: Api = None, data: Data = None
) -> None:
    """List the revisions of a run's workflow, the newest last, or print the document of one as YAML."""
    with client_of(api, data) as client:
        if revision is not None:
            found = client.get("runs", run_id, "revisions", str(revision))
            if as_json:
                print_json(found)
            else:
                typer.echo(yaml_text(found["workflow"]), nl=False)
            return
        listed = list(_all(client, run_id))
    if as_json:
        print_json({"revisions": listed})
        return
    shown = table("REVISION>", "WHEN|19", "WHO", "WHAT")
    for one in listed:
        shown.add_row(str(one["revision"]), clock(one["at"]), one["by"] or "", _what(one))
    print_shown(shown)


def _all(client: Client, run_id: str) -> Iterator[dict[str, Any]]:
    after: int | None = 0
    while after is not None:
        page = client.get("runs", run_id, "revisions", after=after)
        yield from page["revisions"]
        after = page["next_after"]


def _what(one: Mapping[str, Any]) -> str:
    if one["revision"] == 1:
        return "as it was started"
    back = f"back to {one['rollback_to']}" if one.get("rollback_to") else ""
    return "; ".join(filter(None, (back, one["description"], difference(one))))


def diff(
    run_id: RunArgument,
    first: Annotated[
        int | None, typer.Argument(metavar="A", min=1, help="A revision. Default: the one before.")
    ] = None,
    second: Annotated[int | None, typer.Argument(metavar="B", min=1, help="Another. Default: the newest.")] = None,
    patch: Annotated[bool, typer.Option("--patch", help="Print the JSON Patch that leads from A to B.")] = False,
    as_json: Json = False,
    api: Api = None,
    data: Data = None,
) -> None:
    """Show what differs between two revisions of a run's workflow, by default what the last patch changed."""
    with client_of(api, data) as client:
        both: dict[str, Any] = {"from": first, "to": second}
        found = client.get("runs", run_id, "diff", **both)
    if as_json or patch:
        print_json(found["operations"] if patch else found)
        return
    if not found["changes"]:
        typer.echo(f"revisions {found['from']} and {found['to']} do not differ", err=True)
    coloured = sys.stdout.isatty()
    for line in found["changes"]:
        typer.secho(line, fg=COLOURS.get(line[:1]) if coloured else None)
