"""A migrated database of its own for each test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from history.history import History


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        yield pool


@pytest.fixture
async def history(pool: AsyncConnectionPool[Any]) -> History:
    history = History(pool)
    await history.migrate()
    return history
