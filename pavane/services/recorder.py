"""A recorder process: copies events from Redis to Postgres. The first one at a new database makes its tables."""

import asyncio

from coordinator.recorder import Recorder
from history.migration import migrate
from pavane.preflight import check_postgres
from pavane.services.connections import connect, run_store
from pavane.services.process import Readiness
from pavane.settings import Settings


async def serve(settings: Settings, stop: asyncio.Event, readiness: Readiness) -> None:
    await prepare_database(settings)
    async with run_store(settings) as store:
        readiness.say()
        await Recorder(store.redis, store.keys, lambda: connect(settings)).run(stop)


async def prepare_database(settings: Settings) -> list[str]:
    """Bring the database to this release's schema; the migrations applied. Raises PreflightError, NewerSchema."""
    async with await connect(settings) as connection:
        await check_postgres(connection)
        await connection.set_autocommit(True)
        return await migrate(connection)
