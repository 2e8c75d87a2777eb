"""Runs that Redis has lost, from Postgres: recover."""

import asyncio
from typing import Annotated

import typer

from pavane.cli.options import Data, Json, example, settings_of
from pavane.cli.output import print_json
from pavane.settings import Settings

SHOWN = 10


def register(app: typer.Typer) -> None:
    app.command(epilog=example("pavane recover --dry-run", "pavane recover"))(recover)


def recover(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to recover.")] = False,
    as_json: Json = False,
    data: Data = None,
) -> None:
    """Let runs go on that Postgres knows and Redis has lost, each from its last recorded event.

    Safe at any time, also while everything runs: what Redis has, and has no older than Postgres, is left alone.
    """
    from coordinator.recovery import Report, Survey

    found = asyncio.run(_recover(settings_of(data=data), dry_run))
    if isinstance(found, Survey):
        if as_json:
            print_json({"unfinished": found.unfinished, "in_redis": found.present})
        else:
            typer.echo(f"{found.unfinished} unfinished runs are recorded, and Redis has lost {found.lost} of them.")
        return
    assert isinstance(found, Report)
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo("\n".join(told(found.as_dict())))
    if found.failed:
        raise typer.Exit(1)


async def _recover(settings: Settings, dry_run: bool) -> object:
    from coordinator.recovery import RecoveryBusy
    from pavane.preflight import PreflightError
    from pavane.services.recovery import recovery

    async with recovery(settings, "pavane recover") as work:
        if dry_run:
            return await work.survey()
        try:
            return await work.recover("runs were lost from Redis")
        except RecoveryBusy:
            raise PreflightError("another recovery is under way; ask again when it has ended") from None


def told(report: dict[str, object]) -> list[str]:
    """What a recovery did, in sentences."""
    failed = report["failed"]
    assert isinstance(failed, dict)
    alone = f"; {report['present']} that Redis has were left alone" if report["present"] else ""
    lines = [f"{report['recovered']} runs go on from their last recorded event{alone}."]
    if report["admitted_again"]:
        lines.append(
            f"{report['admitted_again']} items of batches are admitted again: nothing was recorded of their runs."
        )
    if report["taken_out"]:
        lines.append(f"{report['taken_out']} runs were live in Redis and are recorded as ended: they were taken out.")
    if report["restated"]:
        lines.append(f"{report['restated']} runs had gone on beyond what Postgres knows: their states were told anew.")
    if failed:
        lines.append(f"{len(failed)} runs could not be recovered:")
        lines += [f"  {run_id}: {reason}" for run_id, reason in list(failed.items())[:SHOWN]]
        lines += [f"  and {len(failed) - SHOWN} more (--json lists them)"] if len(failed) > SHOWN else []
    return lines
