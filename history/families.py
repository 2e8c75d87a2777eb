"""Families: which run called which, as far as is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg_pool import AsyncConnectionPool


@dataclass(frozen=True, slots=True)
class Child:
    """A run that was called by a token of another one."""

    run_id: str
    parent_token: str
    status: str


class Families:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def parent(self, run_id: str) -> str | None:
        """The run that called this one; None for one that was started from outside."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT parent FROM run_projection WHERE run_id = %s", (run_id,))
            row = await cursor.fetchone()
            return row[0] if row else None

    async def children(self, run_id: str, limit: int) -> list[Child]:
        """The runs that this one has called, the newest first."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT run_id, coalesce(parent_token, ''), status FROM run_projection WHERE parent = %s "
                "ORDER BY created_at DESC, run_id DESC LIMIT %s",
                (run_id, limit),
            )
            return [Child(*row) for row in await cursor.fetchall()]

    async def nodes(self, run_id: str, tokens: Sequence[str]) -> dict[str, str]:
        """The nodes at which these tokens of a run called others, by token."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT DISTINCT token_id, node_id FROM execution_events "
                "WHERE run_id = %s AND type = 'node_opened' AND token_id = ANY(%s)",
                (run_id, list(tokens)),
            )
            return dict(await cursor.fetchall())
