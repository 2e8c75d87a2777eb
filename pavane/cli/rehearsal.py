"""Testing a workflow without a server: test."""

import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pavane.cli.options import Api, Data, Json, client_of, example, settings_of
from pavane.cli.output import print_json
from pavane.client import Client
from pavane.documents import read_document
from schemas.errors import InvalidDocument

if TYPE_CHECKING:
    from agent_runner.handlers import Handlers
    from pavane.rehearsal.case import Case
    from pavane.rehearsal.player import Played, Player


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane test examples/screening/workflow.yaml examples/screening/cases.yaml",
            "pavane test workflow.yaml cases.yaml -k 'poor summary' --handlers my_package.handlers",
            "pavane test workflow.yaml --record run_123",
        )
    )(test)


def test(
    workflow: Annotated[Path, typer.Argument(help="A workflow file, YAML or JSON.")],
    cases: Annotated[
        Path | None, typer.Argument(help="Its cases, YAML or JSON; `-` reads from stdin.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option("-k", metavar="NAME", help="Only cases whose name has this in it.")] = "",
    handlers: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Executes function nodes that a case does not script; may be repeated."),
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="RUN", help="Print the case that a recorded run of the workflow makes.")
    ] = None,
    api: Api = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Play a workflow against scripted outputs, with no server, model or clock, and check what comes out."""
    from pavane.rehearsal.case import read_cases
    from pavane.rehearsal.player import Player

    try:
        player = Player(read_document(workflow), _handlers(handlers))
    except InvalidDocument as error:
        _refuse(workflow, error, 1)
    if record is not None:
        _print_recorded(player, client_of(api, data), record, as_json)
        return
    if cases is None:
        raise typer.BadParameter("give the file of the cases, or --record RUN", param_hint="CASES")
    try:
        chosen = [case for case in read_cases(cases) if name.lower() in case.name.lower()]
    except InvalidDocument as error:
        _refuse(cases, error, 2)
    if not chosen:
        raise typer.BadParameter(f"no case has {name!r} in its name", param_hint="-k")
    raise typer.Exit(0 if asyncio.run(_play(player, chosen, as_json)) else 1)


async def _play(player: "Player", cases: "list[Case]", as_json: bool) -> bool:
    """Play them, and print each as soon as it is over; whether all passed."""
    from pavane.rehearsal import report

    marks = report.SIGNS if _shows_signs() else report.WORDS
    began = time.perf_counter()
    all_played: list[Played] = []
    for case in cases:
        played = await player.play(case)
        all_played.append(played)
        for number, line in enumerate(() if as_json else report.lines(played, marks)):
            typer.secho(line, fg=("green" if played.passed else "red") if number == 0 else None)
    failed = sum(not played.passed for played in all_played)
    if as_json:
        found = [report.as_json(played) for played in all_played]
        print_json({"passed": len(found) - failed, "failed": failed, "cases": found})
    else:
        typer.echo(report.summary(all_played, time.perf_counter() - began))
    return not failed


def _print_recorded(player: "Player", client: Client, run_id: str, as_json: bool) -> None:
    import yaml

    from pavane.rehearsal.recorded import Unplayable, recorded_case

    with client:
        events = client.events(run_id)
    try:
        made = {"cases": [recorded_case(events, player.nodes)]}
    except Unplayable as error:
        typer.echo(f"pavane: {run_id}: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        print_json(made)
    else:
        typer.echo(yaml.safe_dump(made, allow_unicode=True, sort_keys=False, width=100), nl=False)


def _shows_signs() -> bool:
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _handlers(modules: list[str] | None) -> "Handlers | None":
    from agent_runner.handlers import HandlerConflict
    from pavane.services.runner import load_handlers

    names = settings_of(handlers=tuple(modules) if modules else None).handlers
    try:
        return load_handlers(names) if names else None
    except HandlerConflict as error:
        raise typer.BadParameter(str(error), param_hint="--handlers") from None


def _refuse(file: Path, error: InvalidDocument, code: int) -> None:
    for problem in error.problems:
        typer.echo(f"{file}: {problem.path or '/'}  {problem.code}: {problem.message}", err=True)
    raise typer.Exit(code)
