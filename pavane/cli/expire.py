"""expire: events of long ago go from Postgres, exported first where that is wanted."""

import asyncio
import contextlib
import functools
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psycopg
import typer

from pavane.cli.options import Data, DryRun, Json, example, settings_of
from pavane.cli.output import clock, print_json
from pavane.preflight import PreflightError
from pavane.settings import Settings

if TYPE_CHECKING:
    from history.retention import Report

DAYS = {"d": 1, "w": 7, "y": 365}


class ExpireFailed(Exception):
    """Nothing, or not all, was dropped; the text says why."""


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example(
            "pavane expire --older-than 90d --dry-run", "pavane expire --older-than 90d --export /srv/pavane-history"
        )
    )(expire)


def _days(given: str) -> int:
    age = re.fullmatch(r"([1-9]\d{0,4})([dwy])", given, re.ASCII)
    if age is None or int(age[1]) * DAYS[age[2]] > 36_500:
        raise typer.BadParameter(f"{given!r} is no age: give days, weeks or years, as 90d, 12w or 1y")
    return int(age[1]) * DAYS[age[2]]


def expire(
    older_than: Annotated[
        int,
        typer.Option("--older-than", metavar="AGE", parser=_days, help="Of runs that ended so long ago: 90d, 12w, 1y."),
    ],
    export: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write what is dropped there first. Default: PAVANE_HISTORY_EXPORT."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without an export, do not ask.")] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    data: Data = None,
) -> None:
    """Drop recorded events, a month at a time; what runs came to stays, also their inputs and outputs."""
    settings = settings_of(data=data, history_export=export)
    if older_than * 86_400 <= settings.retention_s:
        raise typer.BadParameter(
            f"runs stay in Redis for {settings.retention_s} s (PAVANE_RETENTION_S), and need their events for longer",
            param_hint="--older-than",
        )
    if settings.history_export is None and not (yes or dry_run):
        _ask()
    asyncio.run(_expire(settings, older_than, dry_run=dry_run, as_json=as_json))


def _ask() -> None:
    """Raises Abort, and BadParameter where nobody can be asked."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("the events would be gone for good: give --export DIR, or --yes")
    typer.confirm("Nothing is exported, so the events are gone for good. Go on?", abort=True)


async def _expire(settings: Settings, days: int, *, dry_run: bool, as_json: bool) -> None:
    from history.retention import Retention
    from pavane.services.connections import artifact_store, connect

    before = datetime.now(UTC) - timedelta(days=days)
    retention = Retention(functools.partial(connect, settings), settings.history_export, artifact_store(settings))
    with _told():
        report = await retention.apply(before, "pavane expire", dry_run=dry_run)
    if as_json:
        print_json({**report.as_dict(), "dry_run": dry_run})
    else:
        typer.echo("\n".join(_lines(report, settings.history_export, dry_run)))


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What may go wrong, as what people are told of it. Raises ExpireFailed and PreflightError."""
    from history.retention import RetentionBusy

    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise PreflightError("this database is not of this release: a recorder brings it there at its start") from None
    except psycopg.errors.LockNotAvailable:
        raise ExpireFailed(
            "somebody has been reading these events for some seconds; months before them may be gone already: try again"
        ) from None
    except psycopg.OperationalError as error:
        raise PreflightError(f"Postgres went away: {error}") from None
    except RetentionBusy as error:
        raise ExpireFailed(str(error)) from None
    except OSError as error:
        raise ExpireFailed(f"the export failed: {error}; what it was to hold is still in the database") from None


def _lines(report: "Report", folder: Path | None, dry_run: bool) -> Iterator[str]:
    """A line for each month, or other table, and one for what follows from them."""
    verb = "would drop" if dry_run else "dropped"
    yield f"Runs that ended before {clock(report.before)}:"
    for lot in report.lots:
        if lot.held:
            others = f" and {lot.held - len(lot.held_by)} more" if lot.held > len(lot.held_by) else ""
            who = f"{counted(lot.held, 'run')} that {'goes' if lot.held == 1 else 'go'} on or ended later"
            yield f"  {lot.source}: stays, held by {who}: {', '.join(lot.held_by)}{others}"
        else:
            where = f", exported to {folder / lot.file}" if folder and lot.file else ""
            yield f"  {lot.source}: {verb} {counted(lot.events, 'event')} of {counted(lot.runs, 'run')}{where}"
    if not report.lots:
        yield "  nothing is old enough: events are dropped by the month, once all of it is"
    if report.artifacts:
        yield f"deleted {counted(report.artifacts, 'artifact')} that nothing names any more"


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
