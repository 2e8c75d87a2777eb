"""Migrations: applied once each, whoever comes first; partitions of the events."""

import asyncio

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from history.history import History
from history.journal import Journal
from history.migration import NewerSchema, migrations
from tests.store_postgres.samples import NOW, record, run_events


def test_the_files_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


async def test_services_that_start_together_migrate_once(
    pool: AsyncConnectionPool, database: psycopg.AsyncConnection
) -> None:
    await database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    applied = await asyncio.gather(*[History(pool).migrate() for _ in range(4)])
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]
    assert await History(pool).migrate() == []


async def test_a_newer_schema_is_refused(history: History, database: psycopg.AsyncConnection) -> None:
    await database.execute("INSERT INTO migrations (version, name) VALUES (9000, 'of tomorrow')")
    with pytest.raises(NewerSchema, match="9000"):
        await history.migrate()


async def test_events_lie_in_the_partition_of_their_month(history: History, database: psycopg.AsyncConnection) -> None:
    """1_760_000_000 s is in October 2025. What has no partition is kept all the same."""
    await record(database, *run_events("early"))
    for _ in range(2):
        await Journal("").prepare(database, NOW + 31 * 86_400_000)
    await record(database, *run_events("late", at=NOW + 31 * 86_400_000))
    cursor = await database.execute("SELECT DISTINCT tableoid::regclass::text, run_id FROM execution_events")
    assert set(await cursor.fetchall()) == {
        ("execution_events_default", "early"),
        ("execution_events_2025_11", "late"),
    }
    await Journal("").prepare(database, NOW)  # October is in the default partition already, and stays there
    assert len(await history.events.after("early")) == 4
