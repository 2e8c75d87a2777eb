"""How many GPUs work: what admission goes by. From the heartbeats of the agent runners."""

from __future__ import annotations

import time

from lua.run_store import RunStore

KEPT_S = 1.0
"""How long a count is used before the heartbeats are looked at again."""


class Gpus:
    """The live agent runners of one shard that drive a GPU; one that waits for another's engine has none."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._count = 0
        self._counted_at = float("-inf")

    async def count(self) -> int:
        """Two round trips, at most once a second."""
        now = time.monotonic()
        if now - self._counted_at >= KEPT_S:
            self._count, self._counted_at = await self._look(), now
        return self._count

    async def _look(self) -> int:
        runner_ids = await self._store.redis.zrange(self._store.keys.runners, 0, -1)
        pipe = self._store.redis.pipeline(transaction=False)
        for runner_id in runner_ids:  # the heartbeat of one that is lost has expired
            pipe.hmget(self._store.keys.runner(runner_id.decode()), "engine", "state")
        return sum(engine is not None and state != b"waiting" for engine, state in await pipe.execute())
