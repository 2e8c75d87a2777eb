"""Agent nodes: a prompt to a model, the tools that it calls, and its answer checked against the schema asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from jsonschema.protocols import Validator

from agent_runner.engine_time import Cost
from agent_runner.engines.engine import ChatReply, ChatRequest, EngineError
from agent_runner.failure import TaskFailed
from agent_runner.gpu import Gpu
from agent_runner.tools.loop import Spent, ToolLoop
from agent_runner.tools.toolbox import Toolbox
from agent_runner.work import Result, Work
from lua.run_store import RunStore
from schemas.compiler.json_schema import schema_validator
from schemas.limits import LIMITS

_SHOWN = 300  # characters of a validator's message, which may quote the whole answer


class AgentNodes:
    """Executes agent nodes on one GPU.

    The output is the parsed object if the node has a `response_format`, else {"text": ...}.
    """

    def __init__(self, gpu: Gpu, store: RunStore, toolbox: Toolbox) -> None:
        self._gpu = gpu
        self._store = store
        self._toolbox = toolbox

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        request, cost = _request(work, variables), Cost()
        if work.node.config.get("tools"):
            reply, spent = await self._converse(work, request, cost)
        else:
            reply, spent = await self._ask(work, request, cost), Spent()
        metadata = _usage(reply, spent, cost)
        if request.response_format is None:
            return Result({"text": _clean(reply.text)}, metadata)
        return Result(_parse(reply.text, _validator(work), metadata), metadata)

    async def close(self) -> None:
        await self._toolbox.close()
        await self._gpu.close()

    async def _ask(self, work: Work, request: ChatRequest, cost: Cost) -> ChatReply:
        try:
            return await self._gpu.chat(work.node.analysis.pool or request.model, request, cost)
        except EngineError as error:
            raise TaskFailed(error.klass, error.message, retryable=error.retryable, metadata=cost.metadata()) from None

    async def _converse(self, work: Work, request: ChatRequest, cost: Cost) -> tuple[ChatReply, Spent]:
        """The last reply of a model with tools. A failure says what was spent until then."""
        tools = await self._toolbox.tools(work)

        async def ask(asked: ChatRequest) -> ChatReply:
            return await self._ask(work, asked, cost)

        loop = ToolLoop(self._store, ask, work, tools)
        try:
            return await loop.answer(request, lambda text: _fault(text, _validator(work)) is None), loop.spent
        except TaskFailed as failure:
            failure.metadata = {**_usage(loop.spent.total(), loop.spent, cost), **failure.metadata}
            raise


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


def _usage(reply: ChatReply, spent: Spent, cost: Cost) -> dict[str, Any]:
    return {
        "tool_calls": spent.calls,
        "tokens_used": reply.prompt_tokens + reply.completion_tokens,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "execution_time_ms": reply.total_ms,
        **cost.metadata(),
    }


def _parse(text: str, validator: Validator, metadata: Mapping[str, Any]) -> Any:
    """The answer as JSON. Raises TaskFailed (invalid_output, retriable) that keeps the raw text."""
    fault = _fault(text, validator)
    if fault is not None:
        raise TaskFailed("invalid_output", fault, metadata={**metadata, "raw": text})
    return orjson.loads(text)


def _fault(text: str, validator: Validator) -> str | None:
    """Why a text is not the JSON that was asked for."""
    try:
        answer = orjson.loads(text)
    except ValueError as error:
        return f"the model's answer is not JSON: {error}"
    fault = next(validator.iter_errors(answer), None)
    if fault is None:
        return None
    return f"the model's answer misses its schema at {fault.json_path}: {fault.message[:_SHOWN]}"


def _validator(work: Work) -> Validator:
    validators = work.program.validators
    if work.node.id not in validators:
        validators[work.node.id] = schema_validator(work.node.config["response_format"])
    return validators[work.node.id]


def _clean(text: str) -> str:
    # Models' JSON escapes may hold lone surrogates, which no JSON of ours can.
    return text.encode("utf-8", "replace").decode()
