"""A chat in OpenAI's form (POST /v1/chat/completions): the body of a request, and what an answer's body says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from agent_runner.engines.engine import ChatReply, ChatRequest, EngineError, ToolCall, ToolOffer, Turn
from agent_runner.engines.exchange import Foreign
from schemas.compiler.analysis import LOAD_OPTIONS


def chat_body(request: ChatRequest) -> dict[str, Any]:
    """Options go along as they are, llama.cpp's and vLLM's own ones too, but for those that decide how a model is
    loaded: such a server had them when it started. Ollama's `num_predict` is `max_tokens` here.
    """
    options = {name: value for name, value in request.options.items() if name not in LOAD_OPTIONS}
    longest = options.pop("num_predict", None)
    if isinstance(longest, int) and longest >= 0:  # below 0: as long as it takes
        options["max_tokens"] = longest
    body = options | {"model": request.model, "messages": _messages(request), "stream": False}
    if request.response_format is not None:
        schema = {"name": "answer", "schema": dict(request.response_format), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": {name: getattr(tool, name) for name in ToolOffer.__slots__}}
            for tool in request.tools
        ]
    return body


def chat_reply(body: Any, took_ms: int) -> ChatReply:
    """The reply in an answer's body. Raises Foreign, and EngineError (invalid_input) where a filter withheld it."""
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Foreign(_error_in(body) or "no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Foreign("choices[0] has no message")
    if choice.get("finish_reason") == "content_filter":
        raise EngineError("invalid_input", "the engine's content filter withheld the answer")
    content = message.get("content")
    if not isinstance(content, str | None):
        raise Foreign("choices[0].message.content is no text")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return ChatReply(
        text=content or "",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        wait_ms=_waited_ms(body.get("timings"), took_ms),
        total_ms=took_ms,
        calls=_calls(message.get("tool_calls")),
        thinking=_text(message.get("reasoning_content")) or _text(message.get("reasoning")),
    )


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": request.prompt})
    made, answered = 0, 0  # calls so far, and results: a result belongs to the oldest call without one
    for turn in request.turns:
        if turn.role == "tool":
            answered += 1
            messages.append(
                {"role": "tool", "tool_call_id": _call_id(answered), "name": turn.tool, "content": turn.text}
            )
        else:
            messages.append(_said(turn, made))
            made += len(turn.calls)
    return messages


def _said(turn: Turn, made: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.text or (None if turn.calls else "")}
    if turn.thinking:
        message["reasoning_content"] = turn.thinking
    if turn.calls:
        message["tool_calls"] = [
            {
                "id": _call_id(number),
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for number, call in enumerate(turn.calls, made + 1)
        ]
    return message


def _call_id(number: int) -> str:
    """The engine's own ids are not kept: the n-th call of a conversation is always called the same.

    Nine letters and digits, since templates of Mistral's models take no others.
    """
    return f"call{number:05d}"


def _calls(given: Any) -> list[ToolCall]:
    if given is None:
        return []
    if not isinstance(given, list):
        raise Foreign("tool_calls is no list")
    calls = []
    for place, call in enumerate(given):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise Foreign(f"tool_calls[{place}] names no function")
        calls.append(_call(name, function.get("arguments")))
    return calls


def _call(name: str, arguments: Any) -> ToolCall:
    """Arguments are a JSON object as text, of some engines the object itself, or nothing.

    Others are the model's to mend: the call fails, and it is told why.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            return ToolCall(name, {}, fault=f"the arguments are not JSON: {error}")
    if not isinstance(arguments, Mapping | None):
        return ToolCall(name, {}, fault="the arguments are not a JSON object")
    return ToolCall(name, arguments or {})


def _waited_ms(timings: Any, took_ms: int) -> int:
    """The wait before the work, where the engine (llama.cpp) says how long the work took."""
    if not isinstance(timings, dict):
        return 0
    spent_ms = 0.0
    for part in (timings.get("prompt_ms"), timings.get("predicted_ms")):
        if not isinstance(part, int | float) or not 0 <= part < math.inf:
            return 0
        spent_ms += part
    return max(0, round(took_ms - min(spent_ms, took_ms)))


def _error_in(body: Any) -> str | None:
    """Some answer 200 with an error inside."""
    error = body.get("error") if isinstance(body, dict) else None
    return f"it answered with an error: {error}" if error else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0
