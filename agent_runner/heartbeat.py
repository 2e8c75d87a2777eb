"""The heartbeat: what a runner says about itself, and that it still works on what it holds."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Mapping

from redis.exceptions import RedisError

from agent_runner.description import Description
from agent_runner.executions import Execution, Executions
from agent_runner.guarded_engine import Held
from agent_runner.model_intake import ModelIntake
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.wakeup import Wakeup
from lua.run_store import TIMEOUT_GRACE_MS, RunStore

log = logging.getLogger("pavane.runner")

FORGET_MS = 86_400_000  # a runner that was not heard of for a day leaves the list


class Heartbeat:
    """Writes `runner:<id>` (with a TTL) and `runners`, and refreshes the entries that are executed.

    After a pause longer than `reclaim_idle_ms` (SIGSTOP, a suspended machine) other runners may hold what this one
    executed: those entries are not refreshed again, and whose outcome counts is decided by the attempt.
    """

    def __init__(
        self, store: RunStore, runner_id: str, settings: RunnerSettings, streams: Streams, executions: Executions,
        description: Description, models: ModelIntake | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._runner_id = runner_id
        self._settings = settings
        self._streams = streams
        self._executions = executions
        self._description = description
        self._models = models
        self._reported: Counter[str] = Counter()  # pool -> loads that Redis knows of
        self._held: set[str] = set()  # pools whose breaker Redis shows as open here
        self._last = time.monotonic()
        self._pulse = Wakeup()
        self._over = False

    def soon(self) -> None:
        """Something changed that people want to see now."""
        self._pulse.notify()

    async def run(self) -> None:
        while not self._over:
            try:
                await self.beat()
            except (RedisError, OSError) as error:
                log.warning("no heartbeat: %s", error)
            except Exception:
                log.exception("no heartbeat")
            await self._pulse.within(self._settings.heartbeat_ms / 1000)

    async def beat(self) -> None:
        await self._refresh()
        if self._models is not None:
            await self._models.renew()
            await self._models.gpu.look()
        key = self._store.keys.runner(self._runner_id)
        fields = {**self._description.fields(), "heartbeat_at": str(await self._store.now())}
        pipe = self._store.redis.pipeline(transaction=True)
        pipe.delete(key)  # so that no field of an earlier state stays
        pipe.hset(key, mapping=dict(fields))
        pipe.pexpire(key, self._settings.heartbeat_ttl_ms)
        pipe.zadd(self._store.keys.runners, {self._runner_id: int(fields["heartbeat_at"])})
        pipe.zremrangebyscore(self._store.keys.runners, "-inf", int(fields["heartbeat_at"]) - FORGET_MS)
        await pipe.execute()
        if self._models is not None:
            await self._report_models(self._models)
            await self._models.measures.share()

    def stop(self) -> None:
        """Let `run` return."""
        self._over = True
        self._pulse.notify()

    async def end(self) -> None:
        """This runner is no more."""
        pipe = self._store.redis.pipeline(transaction=True)
        for pool in self._held:
            pipe.hdel(self._store.keys.model(pool), f"breaker|{self._runner_id}")
        pipe.delete(self._store.keys.runner(self._runner_id))
        pipe.zrem(self._store.keys.runners, self._runner_id)
        await pipe.execute()

    async def _refresh(self) -> None:
        now = time.monotonic()
        stood_still = now - self._last > self._settings.reclaim_idle_ms / 1000
        since_last, self._last = now - self._last, now
        held = []
        for execution in self._executions:
            execution.doubtful |= stood_still
            # What began since the last beat is fresh by itself: most short tasks never need this.
            if not execution.doubtful and now - execution.began > min(since_last, self._settings.heartbeat_ms / 2000):
                held.append(execution)
        if held:
            await self._streams.refresh(execution.work.task for execution in held)
            await self._move_deadlines(held)

    async def _move_deadlines(self, held: list[Execution]) -> None:
        # This runner ends an execution itself; the deadline in Redis is for runners that stopped without being dead,
        # and must not count the time that a model is loaded or an engine is away.
        at = await self._store.now() + TIMEOUT_GRACE_MS
        deadlines = {
            f"timeout {work.task.run_id} {work.task.token_id} {work.attempt}": at + int(work.timeout_s * 1000)
            for execution in held
            if (work := execution.work).node.timeout_ms is not None and not execution.ended
        }
        if deadlines:
            await self._store.redis.zadd(self._store.keys.timers, deadlines, xx=True)

    async def _report_models(self, models: ModelIntake) -> None:
        """Loads and the breakers of the models, where people look for them."""
        pipe = self._store.redis.pipeline(transaction=False)
        # Taken before anything is awaited: a load that comes meanwhile, and a beat that does, are told apart.
        before, self._reported = self._reported, Counter(models.gpu.loads)
        for pool, loads in (self._reported - before).items():
            pipe.hincrby(self._store.keys.model(pool), "loads", loads)
        held = _held(models)
        for pool in self._held - held.keys():
            pipe.hdel(self._store.keys.model(pool), f"breaker|{self._runner_id}")
        for pool, one in held.items():
            shown = {"state": "open", "runner": self._runner_id, "since": int(one.since * 1000), "reason": one.reason}
            pipe.hset(self._store.keys.model(pool), f"breaker|{self._runner_id}", json.dumps(shown))
        try:
            await pipe.execute()
        except RedisError:
            self._reported = before
            raise
        self._held = set(held)


def _held(models: ModelIntake) -> Mapping[str, Held]:
    """Pools that are not served here although they have work, and why: for their own sake, or with their engine."""
    guarded = models.gpu.guarded
    if guarded.breaker.opened_at is None:
        return guarded.breakers()
    engine = Held(guarded.breaker.opened_at, guarded.breaker.reason)
    return dict.fromkeys({*models.waiting, *models.gpu.needs, *models.gpu.residents}, engine)
