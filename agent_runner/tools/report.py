"""What is told of a call, in bounded sizes: to the model its result, to the run's history the event `tool_called`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from agent_runner.tools.tool import ToolFailed
from schemas.limits import LIMITS
from schemas.values import too_deep

ERROR_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class CallReport:
    """The event of one call. `call` counts within the execution, from 1, as `round` does; `usage` is that of the
    round's model call, told with the first of its tool calls."""

    round: int
    call: int
    tool: str
    kind: str
    usage: Mapping[str, int] | None

    def completed(self, arguments: Mapping[str, Any], result: bytes, ms: float) -> bytes:
        return self._body(arguments, ms, result=_bounded(result))

    def failed(self, arguments: Mapping[str, Any], error: str, ms: float) -> bytes:
        return self._body(arguments, ms, error=bounded_text(error))

    def _body(self, arguments: Mapping[str, Any], ms: float, **outcome: Any) -> bytes:
        body = {
            "round": self.round,
            "call": self.call,
            "tool": self.tool,
            "kind": self.kind,
            "arguments": _bounded(orjson.dumps(arguments)),
            **outcome,
            "ms": round(ms),
        }
        return orjson.dumps(body | ({"usage": self.usage} if self.usage else {}))

    @staticmethod
    def encode(value: Any) -> bytes:
        """A tool's result as JSON text. Raises ToolFailed where it is no JSON, or too large for anything."""
        try:
            text = orjson.dumps(value)
        except TypeError as error:
            raise ToolFailed(f"the result is not JSON: {error}") from None
        if len(text) > LIMITS.output_bytes:
            raise ToolFailed(f"the result has {len(text)} bytes; the limit output_bytes is {LIMITS.output_bytes}")
        if too_deep(text):
            raise ToolFailed(f"the result nests deeper than the limit json_depth, {LIMITS.json_depth}")
        return text


def result_text(result: bytes) -> str:
    """A result for the model: a string as it is, other values as JSON; cut at the limit `tool_result_bytes`."""
    value = orjson.loads(result) if result[:1] == b'"' else None
    text = value.encode() if isinstance(value, str) else result
    if len(text) <= LIMITS.tool_result_bytes:
        return text.decode()
    shown = text[: LIMITS.tool_result_bytes].decode("utf-8", "ignore")
    return f"{shown}\n[cut: the result has {len(text)} bytes, of which these are {LIMITS.tool_result_bytes}]"


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments as JSON that can be written: no halves of surrogate pairs, no NaN, bounded depth."""
    try:
        text = json.dumps(arguments, ensure_ascii=False).encode("utf-8", "replace")
        value = orjson.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) and not too_deep(text) else {}


def bounded_text(text: str, characters: int = ERROR_CHARS) -> str:
    return text.encode("utf-8", "replace").decode()[:characters]


def _bounded(text: bytes) -> Any:
    """The JSON value, or what fits of its text: {cut, bytes}."""
    if len(text) <= LIMITS.inline_bytes:
        return orjson.Fragment(text)
    return {"cut": text[: LIMITS.inline_bytes].decode("utf-8", "ignore"), "bytes": len(text)}
