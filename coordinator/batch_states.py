"""Batch states: asks the audit query of each batch that has ended, whose answer is the batch's state after.

Postgres holds which are due, so any number of coordinators do this side by side, and one that dies leaves nothing out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from psycopg_pool import AsyncConnectionPool

from coordinator.service_loop import repeat
from history.audit_query import ask_state
from history.audit_states import AuditStates, DueState, next_try_s
from history.named_connections import NamedConnections
from history.query_errors import QueryFailed

log = logging.getLogger("pavane.batch_states")


class BatchStates:
    """One coordinator's part in it. The connections belong to the caller."""

    def __init__(
        self, pool: AsyncConnectionPool[Any], connections: NamedConnections, *, interval_s: float = 1.0
    ) -> None:
        self.states = AuditStates(pool)
        self.connections = connections
        self.interval_s = interval_s

    async def run(self, stop: asyncio.Event) -> None:
        await repeat("states of batches", stop, self._step)

    async def _step(self) -> float:
        return 0.0 if await self.take() else self.interval_s

    async def take(self) -> bool:
        """Ask the query of one batch; False if none is due."""
        due = await self.states.take()
        if due is None:
            return False
        try:
            after = await ask_state(self.connections, due.audit)
        except QueryFailed as failure:
            await self._fail(due, failure)
        else:
            await self.states.keep(due, after)
        return True

    async def _fail(self, due: DueState, failure: QueryFailed) -> None:
        # What another coordinator may know, or a database that comes back, is worth waiting for.
        passing = failure.retryable or failure.klass == "not_found"
        again_s = next_try_s(due.tries, due.waited_s) if passing else None
        if again_s is None or due.tries == 1:
            what = "is given up" if again_s is None else "is asked again"
            log.warning("the audit query of %s %s: %s", due.batch_id, what, failure.message)
        await self.states.fail(due, failure.message, again_s)
