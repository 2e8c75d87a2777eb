"""The connections of a process, opened and checked before it starts to work."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore
from lua.connection import connect_redis
from lua.run_store import RunStore
from pavane.data_folder import DataFolder
from pavane.preflight import PreflightError, check_postgres, check_redis
from pavane.settings import Settings, SettingsError
from schemas.keys import Keys

log = logging.getLogger("pavane")

REDIS_TIMEOUT_S = 15.0
"""Of one command; longer than any blocking read of ours."""
POSTGRES_TIMEOUT_S = 10.0


class PostgresAwayError(PreflightError):
    """Postgres does not answer; it may come back."""


def redis_url(settings: Settings) -> str:
    """REDIS_URL, else that of the instance in the data folder. Raises PreflightError where there is neither."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    if instance := DataFolder(settings.data).running():
        return instance.redis
    raise PreflightError(f"REDIS_URL is not set, and no `pavane up` runs in {settings.data}")


def database_url(settings: Settings) -> str:
    """DATABASE_URL, else that of the instance in the data folder. Raises PreflightError where there is neither."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    if instance := DataFolder(settings.data).running():
        return instance.postgres
    raise PreflightError(f"DATABASE_URL is not set, and no `pavane up` runs in {settings.data}")


@asynccontextmanager
async def run_store(settings: Settings) -> AsyncIterator[RunStore]:
    """The store on a Redis that passed the preflight. Raises PreflightError."""
    try:
        client = connect_redis(redis_url(settings), socket_timeout=REDIS_TIMEOUT_S)
    except ValueError as error:
        raise PreflightError(f"REDIS_URL: {error}") from None
    try:
        await check_redis(client)
        yield RunStore(client, Keys(settings.prefix))
    finally:
        await client.aclose()


@asynccontextmanager
async def database_pool(settings: Settings, *, most: int) -> AsyncIterator[AsyncConnectionPool[Any]]:
    """Up to `most` connections to Postgres. Raises PreflightError for one that is too old.

    One that is away stops nobody: what needs it says so, and the pool connects when it is back.
    """
    try:
        async with await connect(settings) as connection:
            await check_postgres(connection)
    except PostgresAwayError as error:
        log.warning("%s; going on without it", error)
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
        database_url(settings), min_size=1, max_size=most, timeout=POSTGRES_TIMEOUT_S, open=False
    )
    async with pool:
        yield pool


def artifact_store(settings: Settings) -> ArtifactStore | None:
    """The store that artifacts go to; None: to Postgres. Raises SettingsError. Nothing is asked of it yet."""
    options = settings.store()
    try:
        return ArtifactStore(options) if options else None
    except ImportError:
        raise SettingsError("PAVANE_ARTIFACT_STORE needs a library: pip install 'pavane[s3]'") from None


async def connect_again(settings: Settings) -> AsyncConnection[Any]:
    """One connection to Postgres, for whoever keeps trying. Raises psycopg.OperationalError."""
    return await AsyncConnection.connect(database_url(settings), connect_timeout=int(POSTGRES_TIMEOUT_S), keepalives=1)


async def connect(settings: Settings) -> AsyncConnection[Any]:
    """One connection to Postgres. Raises PostgresAwayError."""
    try:
        return await connect_again(settings)
    except psycopg.Error as error:
        raise PostgresAwayError(f"Postgres is not reachable: {error}") from None
