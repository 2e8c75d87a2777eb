"""Function nodes: a registered Python function called with the node's rendered arguments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.handler_call import HandlerRaised, call_handler
from agent_runner.handlers import Handler, Handlers
from agent_runner.work import Result, Work


class FunctionNodes:
    """Executes function nodes. After a handler's timeout the task has failed and the slot is free (handler_call.py)."""

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
                answer = await call_handler(handler, args)
        except TimeoutError:
            raise TaskFailed("timeout", f"handler {name!r} gave no answer within {work.timeout_s:g} s") from None
        except HandlerRaised as raised:
            raise _failure(handler, args, raised.error) from raised.error
        return Result(answer, {"execution_time_ms": round((time.monotonic() - began) * 1000)})

    async def close(self) -> None:
        """Nothing is held."""


def _failure(handler: Handler, args: Mapping[str, Any], error: BaseException) -> TaskFailed:
    if isinstance(error, TypeError) and (refusal := handler.refusal(args)):
        return TaskFailed("invalid_input", f"handler {handler.name!r} can not be called so: {refusal}")
    retryable = bool(getattr(error, "retryable", True))
    return TaskFailed("handler", f"{type(error).__name__}: {error}", retryable=retryable)
