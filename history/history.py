"""History: the nouns of the database over one pool of connections."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from history.artifacts import Artifacts
from history.batch_control import BatchControl
from history.batch_patches import BatchPatches
from history.batches import Batches
from history.dropped_letters import DroppedLetters
from history.events import Events
from history.families import Families
from history.migration import migrate
from history.runs import Runs
from history.workflows import Workflows

UNAVAILABLE = psycopg.OperationalError
"""What every method raises while Postgres is away (a pool's timeout is one too): try again later."""


class History:
    """Reads and writes of everything but what the recorder writes. The pool belongs to the caller."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self.pool = pool
        self.workflows = Workflows(pool)
        self.batches = Batches(pool)
        self.batch_control = BatchControl(pool)
        self.batch_patches = BatchPatches(pool)
        self.runs = Runs(pool)
        self.families = Families(pool)
        self.events = Events(pool)
        self.dropped_letters = DroppedLetters(pool)
        self.artifacts = Artifacts(pool)

    async def migrate(self) -> list[str]:
        """Bring the database to this release's schema; the names of the migrations applied."""
        async with self.pool.connection() as connection:
            return await migrate(connection)
