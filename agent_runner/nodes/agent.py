"""Agent nodes: a prompt to a model, and its answer checked against the schema that the node asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from jsonschema.protocols import Validator

from agent_runner.engines.engine import ChatReply, ChatRequest, EngineError
from agent_runner.failure import TaskFailed
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.work import Result, Work
from schemas.compiler.json_schema import schema_validator
from schemas.limits import LIMITS

_SHOWN = 300  # characters of a validator's message, which may quote the whole answer


class AgentNodes:
    """Executes agent nodes on one GPU.

    The output is the parsed object if the node has a `response_format`, else {"text": ...}.
    """

    def __init__(self, guarded: GuardedEngine) -> None:
        self._guarded = guarded

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        request = _request(work, variables)
        pool = work.node.analysis.pool or request.model
        try:
            reply = await self._guarded.chat(pool, request)
        except EngineError as error:
            raise TaskFailed(
                error.klass, error.message, retryable=error.retryable, metadata={"llm_model": request.model}
            ) from None
        metadata = _usage(request.model, reply)
        if request.response_format is None:
            return Result({"text": _clean(reply.text)}, metadata)
        return Result(_parse(reply.text, _validator(work), metadata), metadata)

    async def close(self) -> None:
        await self._guarded.close()


def _request(work: Work, variables: Mapping[str, Any]) -> ChatRequest:
    config = work.node.config
    texts = {name: _text(template.render(variables)) for name, template in work.node.templates.items()}
    size = sum(len(text.encode("utf-8", "replace")) for text in texts.values())
    if size > LIMITS.prompt_bytes:
        message = f"the rendered prompt has {size} bytes; the limit prompt_bytes is {LIMITS.prompt_bytes}"
        raise TaskFailed("too_large", message)
    return ChatRequest(
        model=config["model"],
        prompt=texts["prompt"],
        timeout_s=work.timeout_s,
        system=texts.get("system"),
        response_format=config.get("response_format"),
        options=config.get("options") or {},
    )


def _text(value: Any) -> str:
    # A template that is one `{{ }}` yields the value itself.
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _usage(model: str, reply: ChatReply) -> dict[str, Any]:
    return {
        "tool_calls": 0,
        "tokens_used": reply.prompt_tokens + reply.completion_tokens,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "execution_time_ms": reply.total_ms,
        "llm_model": model,
        "load_ms": reply.load_ms,
    }


def _parse(text: str, validator: Validator, metadata: Mapping[str, Any]) -> Any:
    """The answer as JSON. Raises TaskFailed (invalid_output, retriable) that keeps the raw text."""
    try:
        answer = orjson.loads(text)
    except ValueError as error:
        reason = f"the model's answer is not JSON: {error}"
    else:
        fault = next(validator.iter_errors(answer), None)
        if fault is None:
            return answer
        reason = f"the model's answer misses its schema at {fault.json_path}: {fault.message[:_SHOWN]}"
    raise TaskFailed("invalid_output", reason, metadata={**metadata, "raw": text})


def _validator(work: Work) -> Validator:
    validators = work.program.validators
    if work.node.id not in validators:
        validators[work.node.id] = schema_validator(work.node.config["response_format"])
    return validators[work.node.id]


def _clean(text: str) -> str:
    # Models' JSON escapes may hold lone surrogates, which no JSON of ours can.
    return text.encode("utf-8", "replace").decode()
