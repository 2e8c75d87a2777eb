"""The loop that drops recorded events of long ago, beside the recorder: tries every hour, and does it once a day."""

import asyncio
import functools
import logging
from datetime import UTC, datetime

import psycopg

from history.artifact_store import ArtifactStore
from history.retention import Lot, Retention
from pavane.preflight import PreflightError
from pavane.services.connections import connect
from pavane.settings import Settings, SettingsError

log = logging.getLogger("pavane.retention")

EVERY_S = 3_600.0
DAY_S = 86_400


async def run_retention(settings: Settings, store: ArtifactStore | None, stop: asyncio.Event) -> None:
    """Until `stop`; at once done where nothing is to be dropped. What fails is said, and tried again."""
    days = settings.history_days
    if days is None:
        await stop.wait()
        return
    retention = Retention(functools.partial(connect, settings), settings.history_export, store)
    while not stop.is_set():
        try:
            report = await retention.run_if_due(days, datetime.now(UTC))
        except (psycopg.Error, PreflightError, OSError) as error:
            log.error("no events are dropped: %s; the next try is in an hour", error)
        else:
            for lot in report.lots if report else ():
                _say(lot)
        try:
            await asyncio.wait_for(stop.wait(), EVERY_S)
        except TimeoutError:
            pass


def check_history_days(settings: Settings) -> None:
    """Raises SettingsError where Redis would keep runs longer than Postgres keeps their events."""
    if settings.history_days is not None and settings.history_days * DAY_S <= settings.retention_s:
        raise SettingsError(
            f"PAVANE_HISTORY_DAYS: {settings.history_days} is no more than PAVANE_RETENTION_S, "
            f"{settings.retention_s} s; a run that can still be retried needs its events"
        )


def _say(lot: Lot) -> None:
    if lot.held:
        log.warning("%s stays: %d runs hold it, such as %s", lot.source, lot.held, ", ".join(lot.held_by[:3]))
    else:
        log.info(
            "dropped %s: %d events of %d runs, exported to %s", lot.source, lot.events, lot.runs, lot.file or "no file"
        )
