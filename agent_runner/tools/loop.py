"""The loop of an agent with tools: the model, the tools that it calls, the model again, until it answers.

What goes wrong in a call is the model's to see and to mend. Only the bounds end the loop: rounds, calls, the node's
timeout, and an attempt that counts no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent_runner.backoff import Backoff, passes
from agent_runner.engines.engine import ChatReply, ChatRequest, ToolCall, Turn
from agent_runner.failure import TaskFailed
from agent_runner.tools.report import CallReport, bounded_text, plain, result_text
from agent_runner.tools.tool import Call, Tool, ToolFailed
from agent_runner.work import Work
from lua.run_store import RunStore
from schemas.limits import LIMITS
from schemas.model_calls import CALLS, ROUNDS

log = logging.getLogger("pavane.runner")

AS_JSON = "Now give that answer as JSON."

Ask = Callable[[ChatRequest], Awaitable[ChatReply]]
"""Asks the model. Raises TaskFailed."""


@dataclass(slots=True)
class Spent:
    """What the rounds took together. `ms` is the models' time and the tools'."""

    rounds: int = 0
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ms: float = 0.0

    def add(self, reply: ChatReply) -> None:
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.ms += reply.total_ms

    def total(self, text: str = "") -> ChatReply:
        """The last reply's text, with the usage of all."""
        return ChatReply(text, self.prompt_tokens, self.completion_tokens, 0, round(self.ms))


class ToolLoop:
    """One execution of an agent that has `tools`, by name. `spent` counts while it goes on."""

    def __init__(self, store: RunStore, ask: Ask, work: Work, tools: Mapping[str, Tool]) -> None:
        self.spent = Spent()
        self._store = store
        self._model = ask
        self._work = work
        self._tools = tools
        self._max_rounds = work.node.config.get("max_rounds", ROUNDS)
        self._max_calls = work.node.config.get("max_calls", CALLS)

    async def answer(self, request: ChatRequest, fits: Callable[[str], bool]) -> ChatReply:
        """The model's last reply. `fits` says whether a text satisfies the request's `response_format`.

        Raises TaskFailed: `tool_limit`, `timeout`, `too_large`, and what the model's engine fails with.
        """
        schema = request.response_format
        request = replace(request, response_format=None, tools=[tool.offer for tool in self._tools.values()])
        while self.spent.rounds < self._max_rounds:
            self.spent.rounds += 1
            reply = await self._ask(request)
            if not reply.calls:
                if schema is not None and not fits(reply.text):
                    reply = await self._ask(_formatted(request, reply, schema))
                return self.spent.total(reply.text)
            if self.spent.calls + len(reply.calls) > self._max_calls:
                raise TaskFailed("tool_limit", f"the model called more than max_calls, {self._max_calls}, tools")
            if self.spent.rounds < self._max_rounds:
                request = replace(request, turns=[*request.turns, *await self._round(reply)])
                _refuse_too_large(request)
        message = f"the model still called tools in round {self._max_rounds}, and max_rounds is {self._max_rounds}"
        raise TaskFailed("tool_limit", message)

    async def _ask(self, request: ChatRequest) -> ChatReply:
        reply = await self._model(replace(request, timeout_s=self._left_s()))
        self.spent.add(reply)
        return reply

    async def _round(self, reply: ChatReply) -> list[Turn]:
        """The model's message, and the results of its calls, which are made one after the other."""
        calls = [
            replace(call, name=bounded_text(call.name, 128), arguments=plain(call.arguments)) for call in reply.calls
        ]
        turns = [Turn("assistant", _clean(reply.text), calls, _clean(reply.thinking))]
        usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
        for place, call in enumerate(calls):
            turns.append(await self._call(call, usage if place == 0 else None))
        return turns

    async def _call(self, call: ToolCall, usage: Mapping[str, int] | None) -> Turn:
        self.spent.calls += 1
        tool = self._tools.get(call.name)
        report = CallReport(self.spent.rounds, self.spent.calls, call.name, tool.kind if tool else "unknown", usage)
        began, late = time.monotonic(), False
        try:
            async with asyncio.timeout(self._left_s()):
                result = await self._execute(tool, call)
            body, text = report.completed(call.arguments, result, _ms(began)), result_text(result)
        except ToolFailed as failed:
            body, text = report.failed(call.arguments, str(failed), _ms(began)), f"Error: {bounded_text(str(failed))}"
        except TimeoutError:
            late, text = True, ""
            body = report.failed(call.arguments, "no result within the node's timeout", _ms(began))
        self.spent.ms += _ms(began)
        await self._record(body)
        if late:
            raise self._late()
        return Turn("tool", text, tool=call.name)

    async def _execute(self, tool: Tool | None, call: ToolCall) -> bytes:
        """The result as JSON text. Raises ToolFailed."""
        if tool is None:
            raise ToolFailed(f"there is no tool {call.name!r}; there are {', '.join(self._tools)}")
        refusal = call.fault or tool.refusal(call.arguments)
        if refusal:
            raise ToolFailed(refusal)
        try:
            return CallReport.encode(await tool.execute(Call(self._work, self.spent.calls, call.arguments)))
        except (ToolFailed, TaskFailed):
            raise
        except Exception as error:
            log.exception("tool %s of %s failed in the runner", tool.name, self._work.task.run_id)
            raise ToolFailed(f"{type(error).__name__}: {error}") from error

    async def _record(self, body: bytes) -> None:
        """Write the call's event. Raises TaskFailed where this attempt counts no more: its outcome is nobody's."""
        task, backoff = self._work.task, Backoff()
        while True:
            try:
                answer = await self._store.record_call(task.run_id, task.token_id, self._work.attempt, body)
                break
            except Exception as error:
                if not passes(error):
                    raise
                await asyncio.sleep(backoff.next_s())
        if answer[0] != "recorded":
            raise TaskFailed("interrupted", "this attempt counts no more: it was given up, or its run has ended")

    def _left_s(self) -> float:
        """Seconds of the node's timeout that are left. Waiting for a model to be loaded, or an engine, takes none."""
        left = self._work.timeout_s - self.spent.ms / 1000
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> TaskFailed:
        return TaskFailed("timeout", f"no answer within {self._work.timeout_s:g} s, tool calls included")


def _formatted(request: ChatRequest, reply: ChatReply, schema: Mapping[str, Any]) -> ChatRequest:
    """The answer once more, as JSON: without tools, since Ollama calls none where it has to follow a format."""
    said = [Turn("assistant", _clean(reply.text))] if reply.text.strip() else []
    turns = [*request.turns, *said, Turn("user", AS_JSON)]
    return replace(request, response_format=schema, tools=(), turns=turns)


def _refuse_too_large(request: ChatRequest) -> None:
    arguments = sum(len(str(call.arguments)) for turn in request.turns for call in turn.calls)
    size = len(request.prompt) + sum(len(turn.text) for turn in request.turns) + arguments
    if size > LIMITS.prompt_bytes:
        message = f"prompt and tool results have {size} characters; the limit prompt_bytes is {LIMITS.prompt_bytes}"
        raise TaskFailed("too_large", message)


def _ms(began: float) -> float:
    return (time.monotonic() - began) * 1000


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
