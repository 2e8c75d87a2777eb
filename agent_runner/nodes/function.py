"""Function nodes: a registered Python function called with the node's rendered arguments."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.handlers import Handler, Handlers
from agent_runner.work import Result, Work


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a handler raised. Carried as a value: a SystemExit or StopIteration would break the loop or the future."""

    error: BaseException


class FunctionNodes:
    """Executes function nodes; plain functions in a thread for each call.

    A thread can not be stopped: after its timeout the task has failed and the slot is free, but the thread goes on. It
    is a daemon, and nobody else waits for it: neither another call nor the end of the process.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        name = work.node.config["handler"]
        handler = self._handlers.get(name)
        if handler is None:
            raise TaskFailed("not_found", f"no handler {name!r} is registered with this runner")
        template = work.node.templates.get("args")
        args = template.render(variables) if template is not None else {}
        began = time.monotonic()
        try:
            async with asyncio.timeout(work.timeout_s):
                if handler.is_async:
                    answer = await _await(handler.function, args)
                else:
                    answer = await _in_thread(handler.function, args, name)
        except TimeoutError:
            raise TaskFailed("timeout", f"handler {name!r} gave no answer within {work.timeout_s:g} s") from None
        if isinstance(answer, _Raised):
            raise _failure(handler, args, answer.error) from answer.error
        return Result(answer, {"execution_time_ms": round((time.monotonic() - began) * 1000)})

    async def close(self) -> None:
        """Nothing is held."""


async def _in_thread(function: Callable[..., Any], args: Mapping[str, Any], name: str) -> Any:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Any] = loop.create_future()

    def answer(value: Any) -> None:
        if not answered.done():  # it was given up
            answered.set_result(value)

    def run() -> None:
        try:
            value = function(**args)
        except BaseException as error:
            value = _Raised(error)
        try:
            loop.call_soon_threadsafe(answer, value)
        except RuntimeError:  # the loop is closed: the runner has stopped
            return

    threading.Thread(target=run, name=f"handler {name}", daemon=True).start()
    return await answered


async def _await(function: Callable[..., Any], args: Mapping[str, Any]) -> Any:
    task = asyncio.current_task()
    try:
        return await function(**args)
    except asyncio.CancelledError as error:
        if task is not None and task.cancelling():
            raise  # the timeout or the runner cancelled it
        return _Raised(error)
    except BaseException as error:
        return _Raised(error)


def _failure(handler: Handler, args: Mapping[str, Any], error: BaseException) -> TaskFailed:
    if isinstance(error, TypeError) and (refusal := handler.refusal(args)):
        return TaskFailed("invalid_input", f"handler {handler.name!r} can not be called so: {refusal}")
    retryable = bool(getattr(error, "retryable", True))
    return TaskFailed("handler", f"{type(error).__name__}: {error}", retryable=retryable)
