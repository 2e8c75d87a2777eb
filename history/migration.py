"""Migrations: numbered .sql files beside this one, applied once each, in order. Their sum is the schema."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from psycopg import AsyncConnection

LOCK = 0x70617661_6E650001
"""Advisory lock of whoever migrates: services that start together wait for the first one."""


class NewerSchema(RuntimeError):
    """The database has a migration that this release does not know."""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    found = []
    for file in files("history").joinpath("migrations").iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix == "sql":
            found.append(Migration(int(stem[:4]), stem, file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.version)


async def migrate(connection: AsyncConnection[Any]) -> list[str]:
    """Bring the database to this release's schema; answers the names of what was applied. Raises NewerSchema."""
    applied = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations "
            "(version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        cursor = await connection.execute("SELECT version FROM migrations")
        known = {version for (version,) in await cursor.fetchall()}
        ours = migrations()
        if newer := known - {migration.version for migration in ours}:
            raise NewerSchema(f"the database has migration {max(newer)}; this release ends at {ours[-1].version}")
        for migration in ours:
            if migration.version not in known:
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO migrations (version, name) VALUES (%s, %s)", (migration.version, migration.name)
                )
                applied.append(migration.name)
    return applied
