"""Handlers as tools: called as a function node calls them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_runner.failure import TaskFailed
from agent_runner.handler_call import HandlerRaised, call_handler
from agent_runner.handlers import Handlers
from agent_runner.tools.signatures import description_of, parameters_of
from agent_runner.tools.tool import Call, Tool, ToolFailed, make_tool


def handler_tool(config: Mapping[str, Any], handlers: Handlers) -> Tool:
    """The tool of `{handler, description?, parameters?}`. Raises TaskFailed for a handler that is not there."""
    name = config["handler"]
    handler = handlers.get(name)
    if handler is None:
        raise TaskFailed("not_found", f"no handler {name!r} is registered with this runner (--handlers)")

    async def execute(call: Call) -> Any:
        if refusal := handler.refusal(call.arguments):
            raise ToolFailed(f"handler {name!r} can not be called so: {refusal}")
        try:
            return await call_handler(handler, call.arguments)
        except HandlerRaised as raised:
            raise ToolFailed(str(raised)) from raised.error

    description = config.get("description") or description_of(handler.function)
    parameters = config.get("parameters") or parameters_of(handler.function)
    return make_tool("handler", name, description, parameters, execute)
