"""Restatement: Postgres has lost events of a run, so the run's whole state is told in one event, from which its history
goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import orjson

from lua.run_reading import read_run
from lua.run_store import RunStore
from schemas.snapshot import artifacts_in, dump_state

log = logging.getLogger("pavane.recovery")

TRIES = 20
"""A run that goes on while it is read is read again."""
PAUSE_S = 0.05
REASON = "Postgres had lost events of this run"


class Restatement:
    """Restates runs of one shard."""

    def __init__(self, store: RunStore) -> None:
        self.store = store

    async def restate(self, run_ids: Iterable[str]) -> None:
        """Runs that Redis does not have any more stay without what was lost."""
        for run_id in sorted(run_ids):
            answer = await self._restate(run_id)
            if answer == "unknown":
                log.error(
                    "events of %s are lost: neither Postgres nor Redis has them", run_id, extra={"run_id": run_id}
                )
            elif answer != "restated":
                log.warning("%s was too busy to be restated; it is tried again", run_id, extra={"run_id": run_id})

    async def _restate(self, run_id: str) -> str:
        """restated, unknown, or stale."""
        answer = "stale"
        for _ in range(TRIES):
            state = await read_run(self.store, run_id)
            if state is None:
                return "unknown"
            named = artifacts_in(state)
            body = b'{"reason":%b,"artifacts":%b,"state":%b}' % (
                orjson.dumps(REASON), orjson.dumps(named), dump_state(state),
            )  # fmt: skip
            answer = (await self.store.restate_run(run_id, state.seq, body))[0]
            if answer != "stale":
                break
            await asyncio.sleep(PAUSE_S)
        return answer
