"""Run counts: how many runs have which status."""

from __future__ import annotations

from typing import Any

from psycopg_pool import AsyncConnectionPool


async def count_runs(pool: AsyncConnectionPool[Any]) -> dict[str, int]:
    """Recorded runs by status."""
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT status, count(*) FROM run_projection GROUP BY status")
        return dict(await cursor.fetchall())
