"""A runner that plays the script of each run and writes down every execution, stored or not."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import orjson
from redis.exceptions import RedisError

from agent_runner.backoff import Backoff
from agent_runner.handlers import Handlers
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from agent_runner.work import Work
from lua.run_store import Finish, RunStore
from schemas.values import unpack
from tests.faults.courses import case_of
from tests.faults.verdict import EXECUTIONS
from tests.reference.interpreter import Completed
from tests.routing.judged import wordless

_WORK: ContextVar[Work] = ContextVar("work")


class WatchedRunner(Runner):
    """`pace_s` is how long each task takes."""

    def __init__(self, store: RunStore, runner_id: str, settings: RunnerSettings, pace_s: float) -> None:
        super().__init__(store, runner_id, settings, handlers=Handlers([_scripted(pace_s)]))

    async def _outcome(self, work: Work) -> Finish:
        _WORK.set(work)
        finish = await super()._outcome(work)
        token, failure = work.started.token, finish.signal.failure
        assert token is not None
        execution = {
            "token": work.task.token_id,
            "attempt": work.attempt,
            "node": work.task.node_id,
            "failures": token.failures,
            "iteration": token.iteration,
            "output": (await self._variables(work))["output"],
            "result": unpack(finish.artifact.packed) if finish.artifact else finish.signal.result,
            "error": failure.klass if failure else None,
            "signal": finish.signal.to_json(),
        }
        await self._write_down(orjson.dumps(execution))
        return finish

    async def _write_down(self, execution: bytes) -> None:
        backoff = Backoff()
        while True:
            try:
                await self.store.redis.rpush(EXECUTIONS, execution)
                return
            except (RedisError, OSError):  # away: what the runner does then is not to hang on this record
                await asyncio.sleep(backoff.next_s())


class _ScriptedError(Exception):
    def __init__(self, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def _scripted(pace_s: float) -> Any:
    async def scripted(node: str, output: Any, iteration: int, seen: Any = None) -> Any:
        work = _WORK.get()
        token = work.started.token
        assert token is not None
        await asyncio.sleep(pace_s)
        outcome = case_of(work.task.run_id).outcome_of(node, token.failures + 1, iteration, wordless(output))
        if isinstance(outcome, Completed):
            return outcome.value
        raise _ScriptedError(outcome.message or "no message", outcome.retryable)

    return scripted
