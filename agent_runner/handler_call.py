"""Calling a handler: plain functions in a thread for each call, `async def` ones on the runner's loop.

A thread can not be stopped: its caller may give it up, but the thread goes on. It is a daemon, and nobody else waits
for it: neither another call nor the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_runner.handlers import Handler


class HandlerRaised(Exception):
    """A handler raised `error`: anything at all, a SystemExit too, which must not end the runner."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


async def call_handler(handler: Handler, args: Mapping[str, Any]) -> Any:
    """What the handler returns. Raises HandlerRaised; may be cancelled at any time."""
    if handler.is_async:
        answer = await _await(handler.function, args)
    else:
        answer = await _in_thread(handler.function, args, handler.name)
    if isinstance(answer, _Raised):
        raise HandlerRaised(answer.error) from answer.error
    return answer


@dataclass(frozen=True, slots=True)
class _Raised:
    """What a handler raised. Carried as a value: a SystemExit or StopIteration would break the loop or the future."""

    error: BaseException


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
