"""Tools as the simulated models use them: offered by a request, called once, and then answered from their results.

As in Ollama, a request with a `format` gets no calls: the grammar leaves no room for them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_runner.engines.simulated.answers import Composer, draw_for
from agent_runner.engines.simulated.prose import Prose

MAX_TOOLS = 1_000
AT_ONCE = 2  # tools that an unscripted model calls in one message


@dataclass(frozen=True, slots=True)
class OfferedTool:
    """One tool of a request. `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]


Call = Mapping[str, Any]
"""{name, arguments}, as a message's `tool_calls` hold it in `function`."""


class InvalidTools(ValueError):
    """The `tools` of a request are refused; the message begins with the place."""


def parse_tools(value: object) -> tuple[OfferedTool, ...]:
    """The field `tools` of a chat. Raises InvalidTools."""
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_TOOLS:
        raise InvalidTools(f"tools must be a list of at most {MAX_TOOLS}")
    return tuple(_tool(one, f"tools[{place}]") for place, one in enumerate(value))


def _tool(value: object, where: str) -> OfferedTool:
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidTools(f"{where}.function must be an object with a name")
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise InvalidTools(f"{where}.function.parameters must be a JSON Schema")
    return OfferedTool(function["name"], str(function.get("description") or ""), parameters)


def composed_calls(model: str, prompt: str, tools: Sequence[OfferedTool], seed: str) -> tuple[Call, ...]:
    """What a model calls of itself: one or two of the tools, with arguments that fit."""
    draw = draw_for("tools", model, prompt, seed)
    chosen = draw.sample(tools, min(AT_ONCE, len(tools)))
    calls = []
    for tool in chosen:
        arguments = Composer(draw, Prose(prompt), tool.parameters).value({"type": "object", **tool.parameters}, "", 0)
        calls.append({"name": tool.name, "arguments": arguments if isinstance(arguments, dict) else {}})
    return tuple(calls)


def as_text(calls: Sequence[Call] | Sequence[OfferedTool]) -> str:
    """What a model reads or writes of them: for counting tokens."""
    return json.dumps([getattr(call, "parameters", call) for call in calls]) if calls else ""
