"""Questions: all of them over one pool of connections."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool

from history.questions.conditions import conditions
from history.questions.costs import Price, costs
from history.questions.dropped import dropped_of
from history.questions.durations import durations
from history.questions.failures import failures
from history.questions.missing import Missing, missing
from history.questions.scope import Scope, asking
from history.questions.search import Search, search

AT_ONCE = 3
"""Questions that are asked together; others wait for them. Each may hold a connection for half a minute, and what else
is asked of this pool needs some."""


class Questions:
    """Every one raises TooMuch where it takes Postgres too long."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def dropped(self, scope: Scope) -> dict[str, Any] | None:
        """What of the scope's events was dropped (history/questions/dropped.py)."""
        async with self._turns, asking(self._pool) as connection:
            return await dropped_of(connection, scope)

    async def missing(self, batch_id: str, node_id: str) -> tuple[list[Missing], int] | None:
        """Which items have no output of a node (history/questions/missing.py)."""
        async with self._turns:
            return await missing(self._pool, batch_id, node_id)

    async def costs(
        self, scope: Scope, by: str, *, model: str | None = None, label: str | None = None, price: Price | None = None
    ) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
        """What tasks took (history/questions/costs.py)."""
        async with self._turns:
            return await costs(self._pool, scope, by, model=model, label=label, price=price)

    async def conditions(self, scope: Scope) -> list[dict[str, Any]]:
        """Which conditions were in error (history/questions/conditions.py)."""
        async with self._turns:
            return await conditions(self._pool, scope)

    async def durations(self, scope: Scope, by: str) -> list[dict[str, Any]]:
        """How long tasks took and waited (history/questions/durations.py)."""
        async with self._turns:
            return await durations(self._pool, scope, by)

    async def failures(self, scope: Scope, by: str) -> list[dict[str, Any]]:
        """What failed, and what came of it (history/questions/failures.py)."""
        async with self._turns:
            return await failures(self._pool, scope, by)

    async def search(self, scope: Scope, wanted: Search, *, limit: int, cursor: str | None) -> dict[str, Any]:
        """Runs that have all that is wanted (history/questions/search.py)."""
        async with self._turns:
            return await search(self._pool, scope, wanted, limit=limit, cursor=cursor)
