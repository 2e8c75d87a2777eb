"""A recorder process: copies events from Redis to Postgres, and drops those of long ago where that is wanted.

The first one at a new database makes its tables.
"""

import asyncio
import functools

from coordinator.recorder import Recorder
from coordinator.recovery import Recovery
from history.migration import migrate
from pavane.preflight import check_postgres
from pavane.services.connections import artifact_store, connect, connect_again, database_pool, run_store
from pavane.services.process import Readiness, until_first_ends
from pavane.services.recovery import CONNECTIONS, put_right, watch_for_loss
from pavane.services.retention import check_history_days, run_retention
from pavane.settings import Settings


async def serve(settings: Settings, stop: asyncio.Event, readiness: Readiness) -> None:
    check_history_days(settings)
    artifacts = artifact_store(settings)
    await prepare_database(settings)
    async with run_store(settings) as store, database_pool(settings, most=CONNECTIONS) as pool:
        readiness.say()
        again = functools.partial(connect_again, settings)
        recorder = Recorder(store.redis, store.keys, again, artifacts, settings.snapshot_every)
        rebuild = Recovery(store, pool, "recorder", artifacts)
        put_right(recorder, rebuild, settings.recover)
        await until_first_ends(
            stop, recorder.run(stop), run_retention(settings, artifacts, stop),
            watch_for_loss(rebuild, stop, settings.recover),
        )  # fmt: skip


async def prepare_database(settings: Settings) -> list[str]:
    """Bring the database to this release's schema; the migrations applied. Raises PreflightError, NewerSchema."""
    async with await connect(settings) as connection:
        await check_postgres(connection)
        await connection.set_autocommit(True)
        return await migrate(connection)
