"""The heartbeat: what a runner says about itself, and that it still works on what it holds."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from redis.exceptions import RedisError

from agent_runner.executions import Execution, Executions
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.wakeup import Wakeup
from lua.run_store import TIMEOUT_GRACE_MS, RunStore

log = logging.getLogger("pavane.runner")

FORGET_MS = 86_400_000  # a runner that was not heard of for a day leaves the list

Describe = Callable[[], Awaitable[Mapping[str, str]]]


class Heartbeat:
    """Writes `runner:<id>` (with a TTL) and `runners`, and refreshes the entries that are executed.

    After a pause longer than `reclaim_idle_ms` (SIGSTOP, a suspended machine) other runners may hold what this one
    executed: those entries are not refreshed again, and whose outcome counts is decided by the attempt.
    """

    def __init__(
        self, store: RunStore, runner_id: str, settings: RunnerSettings, streams: Streams, executions: Executions,
        describe: Describe, guarded: GuardedEngine | None,
    ) -> None:  # fmt: skip
        self._store = store
        self._runner_id = runner_id
        self._settings = settings
        self._streams = streams
        self._executions = executions
        self._describe = describe
        self._guarded = guarded
        self._reported: dict[str, int] = {}  # pool -> loads that Redis knows of
        self._held: str | None = None  # the pool whose breaker Redis shows as open
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
        key = self._store.keys.runner(self._runner_id)
        fields = {**await self._describe(), "heartbeat_at": str(await self._store.now())}
        pipe = self._store.redis.pipeline(transaction=True)
        pipe.delete(key)  # so that no field of an earlier state stays
        pipe.hset(key, mapping=dict(fields))
        pipe.pexpire(key, self._settings.heartbeat_ttl_ms)
        pipe.zadd(self._store.keys.runners, {self._runner_id: int(fields["heartbeat_at"])})
        pipe.zremrangebyscore(self._store.keys.runners, "-inf", int(fields["heartbeat_at"]) - FORGET_MS)
        await pipe.execute()
        await self._report_models(fields)

    def stop(self) -> None:
        """Let `run` return."""
        self._over = True
        self._pulse.notify()

    async def end(self) -> None:
        """This runner is no more."""
        if self._held is not None:
            await self._store.redis.hdel(self._store.keys.model(self._held), "breaker")
        pipe = self._store.redis.pipeline(transaction=True)
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

    async def _report_models(self, fields: Mapping[str, str]) -> None:
        """Loads and the breaker of the models, where people look for them."""
        if self._guarded is None:
            return
        focus = fields.get("focus_model") or None
        pipe = self._store.redis.pipeline(transaction=False)
        # Taken before anything is awaited: a load that comes meanwhile, and a beat that does, are told apart.
        before, self._reported = self._reported, dict(self._guarded.loads)
        for pool, loads in self._reported.items():
            if new := loads - before.get(pool, 0):
                pipe.hincrby(self._store.keys.model(pool), "loads", new)
        if focus is not None:
            pipe.hset(self._store.keys.model(focus), "served_at", fields["heartbeat_at"])
        held = focus if "held" in fields else None
        if self._held is not None and self._held != held:
            pipe.hdel(self._store.keys.model(self._held), "breaker")
        if held is not None:
            since, reason = int(fields["held_since"]), fields["held"]
            shown = {"state": "open", "runner": self._runner_id, "since": since, "reason": reason}
            pipe.hset(self._store.keys.model(held), "breaker", json.dumps(shown))
        try:
            await pipe.execute()
        except RedisError:
            self._reported = before
            raise
        self._held = held
