"""History: the nouns of the database over one pool of connections."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore
from history.artifacts import Artifacts
from history.audit import Audit
from history.batch_control import BatchControl
from history.batch_histories import BatchHistories
from history.batch_patches import BatchPatches
from history.batches import Batches
from history.dropped_events import DroppedEvents
from history.dropped_letters import DroppedLetters
from history.events import Events
from history.families import Families
from history.migration import migrate
from history.pairs import Pairs
from history.questions.questions import Questions
from history.runs import Runs
from history.workflows import Workflows

UNAVAILABLE = psycopg.OperationalError
"""What every method raises while Postgres is away (a pool's timeout is one too): try again later."""


class History:
    """Reads and writes of everything but what the recorder writes. The pool belongs to the caller."""

    def __init__(self, pool: AsyncConnectionPool[Any], store: ArtifactStore | None = None) -> None:
        self.pool = pool
        self.workflows = Workflows(pool)
        self.batches = Batches(pool, store)
        self.batch_histories = BatchHistories(pool)
        self.batch_control = BatchControl(pool)
        self.batch_patches = BatchPatches(pool)
        self.runs = Runs(pool, store)
        self.pairs = Pairs(pool)
        self.families = Families(pool)
        self.events = Events(pool)
        self.dropped_events = DroppedEvents(pool)
        self.dropped_letters = DroppedLetters(pool)
        self.artifacts = Artifacts(pool, store)
        self.audit = Audit(pool)
        self.questions = Questions(pool)

    async def migrate(self) -> list[str]:
        """Bring the database to this release's schema; the names of the migrations applied."""
        async with self.pool.connection() as connection:
            return await migrate(connection)
