"""A runner that plays the script of each run and writes down every execution, stored or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import orjson
from redis.exceptions import RedisError

from agent_runner.backoff import Backoff
from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from agent_runner.work import Work
from lua.run_store import Finish, RunStore
from schemas.values import unpack
from tests.faults.courses import case_of, is_mortal
from tests.faults.verdict import EXECUTIONS
from tests.reference.records import Completed, Failed
from tests.routing.judged import wordless

_WORK: ContextVar[Work] = ContextVar("work")


class WatchedRunner(Runner):
    """`pace_s` is how long each task takes."""

    def __init__(self, store: RunStore, runner_id: str, settings: RunnerSettings, pace_s: float) -> None:
        super().__init__(
            store, runner_id, settings, nodes={"function": FunctionNodes(Handlers([_scripted(store, pace_s)]))}
        )

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
        await _patiently(lambda: self.store.redis.rpush(EXECUTIONS, orjson.dumps(execution)))
        return finish


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What Redis answers; what the runner does while it is away is not to hang on this question."""
    backoff = Backoff()
    while True:
        try:
            return await ask()
        except (RedisError, OSError):
            await asyncio.sleep(backoff.next_s())


class _ScriptedError(Exception):
    def __init__(self, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


def _scripted(store: RunStore, pace_s: float) -> Any:
    async def scripted(node: str, output: Any, iteration: int, seen: Any = None) -> Any:
        work = _WORK.get()
        token = work.started.token
        assert token is not None
        await asyncio.sleep(pace_s)
        run_id = work.task.run_id
        outcome = case_of(run_id).outcome_of(node, token.failures + 1, iteration, wordless(output))
        if is_mortal(run_id, node, output) and not await _patiently(
            lambda: store.redis.hget(store.keys.run(run_id), "epoch")
        ):
            outcome = Failed("handler", "not before the run was retried")
        if isinstance(outcome, Completed):
            return outcome.value
        raise _ScriptedError(outcome.message or "no message", outcome.retryable)

    return scripted
