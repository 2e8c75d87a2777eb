"""Programs: the IRs that tasks are executed under, by content digest."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from redis.exceptions import RedisError

from agent_runner.work import Program
from lua.run_store import RunStore
from schemas.ir import IR
from schemas.messages import Task


class Programs:
    """The most recently used IRs; 2,000 runs of one workflow are one entry."""

    def __init__(self, store: RunStore, capacity: int = 256) -> None:
        self._store = store
        self._capacity = capacity
        self._by_digest: OrderedDict[str, Program] = OrderedDict()

    def known(self, digest: str) -> Program | None:
        program = self._by_digest.get(digest)
        if program is not None:
            self._by_digest.move_to_end(digest)
        return program

    async def get(self, digest: str, run_id: str) -> Program | None:
        """The program of this digest; a newer one if the run was patched meanwhile; None if the run is gone."""
        program = self.known(digest)
        if program is not None:
            return program
        text = await self._store.ir_text(run_id)
        if text is None:
            return None
        program = Program(IR.from_json(text))
        self._by_digest[program.ir.digest] = program
        if len(self._by_digest) > self._capacity:
            self._by_digest.popitem(last=False)
        return program

    async def prepare(self, tasks: Iterable[Task]) -> None:
        """Have the programs of these tasks at hand, each asked for once. Raises only what Redis raises."""
        missing = {task.digest: task.run_id for task in tasks if task.digest not in self._by_digest}
        if missing:
            gets = (self.get(digest, run_id) for digest, run_id in missing.items())
            for answer in await asyncio.gather(*gets, return_exceptions=True):
                if isinstance(answer, RedisError | OSError):
                    raise answer  # anything else is a broken IR: it fails its own tasks when they are started
