"""The engine adapter for Ollama, and for the simulated engine, which speaks the same protocol."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import httpx
import ollama
import pydantic

from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    EngineAway,
    EngineError,
    FailureClass,
    LoadReply,
    Resident,
    ToolCall,
    ToolOffer,
    Turn,
    short_name,
)

T = TypeVar("T")

_CLASSES: dict[int, FailureClass] = {
    400: "invalid_input",
    408: "timeout",
    413: "too_large",
    422: "invalid_input",
    429: "rate_limit",
    503: "engine_busy",
}
# A login that is refused and a gateway with nothing behind it are the operator's to mend, no item's fault.
_AWAY = frozenset({401, 403, 407, 502, 504})
# What the client raises on a body that is no JSON, or JSON of another kind.
_NOT_OLLAMA = (
    json.JSONDecodeError,
    UnicodeDecodeError,
    pydantic.ValidationError,
    TypeError,
    AttributeError,
    LookupError,
    RecursionError,
)
_LONGEST_TEXT = 500


class OllamaEngine:
    """One Ollama, at `url`.

    `name` is what it is called where people look ("simulated" for that one);
    `load_timeout_s` bounds a load (a drain before it included), `control_timeout_s` the short questions.
    A chat carries no keep_alive: it would overrule the one that `load` or `unload` has set.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "ollama",
        load_timeout_s: float = 600.0,
        control_timeout_s: float = 10.0,
        connect_timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self._load_timeout_s = load_timeout_s
        self._control_timeout_s = control_timeout_s
        # Reads wait for the model, so each call bounds itself (`_ask`). The pool is unbounded because the
        # runner's slots are the bound; proxies are for the outside world.
        self._client = ollama.AsyncClient(
            host=url,
            headers=dict(headers or {}),
            timeout=httpx.Timeout(None, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def chat(self, request: ChatRequest) -> ChatReply:
        began = time.monotonic()
        # Not the client's own `chat`: its model of a tool drops what it does not know of a JSON Schema, such as the
        # fields of an inner object.
        asked = self._client._request(ollama.ChatResponse, "POST", "/api/chat", json=_body(request), stream=False)
        reply = await self._ask(asked, request.timeout_s, request.model)
        return ChatReply(
            text=reply.message.content or "",
            prompt_tokens=reply.prompt_eval_count or 0,  # absent when the whole prompt was cached
            completion_tokens=reply.eval_count or 0,
            load_ms=_ms(reply.load_duration) or 0,
            total_ms=_ms(reply.total_duration) or _since(began),
            calls=[ToolCall(call.function.name, call.function.arguments) for call in reply.message.tool_calls or ()],
            thinking=reply.message.thinking or "",
        )

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        began = time.monotonic()
        asked = self._client.generate(model=model, prompt="", options=dict(options), keep_alive=-1)
        await self._confirm(asked, self._load_timeout_s, model)
        return LoadReply(load_ms=_since(began))  # Ollama reports no duration for a bare load

    async def unload(self, model: str) -> None:
        asked = self._client.generate(model=model, prompt="", keep_alive=0)
        await self._confirm(asked, self._control_timeout_s, model)

    async def residents(self) -> list[Resident]:
        held = await self._ask(self._client.ps(), self._control_timeout_s)
        return [
            Resident(
                model=short_name(one.model or one.name or ""),
                size=one.size or 0,
                size_vram=one.size_vram or 0,
                expires_at=one.expires_at,
                context_length=one.context_length,
            )
            for one in held.models
        ]

    async def models(self) -> list[str]:
        listed = await self._ask(self._client.list(), self._control_timeout_s)
        return sorted(short_name(one.model) for one in listed.models if one.model)

    async def healthy(self) -> bool:
        try:
            await self._ask(self._client.ps(), self._control_timeout_s, probe=True)
        except EngineError:
            return False
        return True

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _confirm(self, asked: Awaitable[ollama.GenerateResponse], timeout_s: float, model: str) -> None:
        if not (await self._ask(asked, timeout_s, model)).done:
            raise EngineError("connection", f"{self.url} confirmed no load or unload of {model!r}")

    async def _ask(self, asked: Awaitable[T], timeout_s: float, model: str | None = None, *, probe: bool = False) -> T:
        """The one place where a call meets the engine: bounded in time, and every failure an EngineError."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asked
        except ollama.ResponseError as error:
            failure = self._refusal(error, model)
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise EngineAway(f"no engine at {self.url}: {_text(error)}") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            failure = EngineError("timeout", f"{self.url} gave no answer within {timeout_s:g} s")
            failure.__cause__ = error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise EngineAway(f"{self.url!r} is no engine's URL: {_text(error)}") from error
        except httpx.HTTPError as error:
            failure = EngineError("connection", f"{self.url} broke the exchange off: {_text(error)}")
            failure.__cause__ = error
        except _NOT_OLLAMA as error:
            failure = EngineError("connection", f"{self.url} does not answer as Ollama does: {_text(error)}")
            failure.__cause__ = error
        except ValueError as error:  # no JSON can be made of the request: a lone surrogate, a NaN
            raise EngineError("invalid_input", f"the request cannot be sent: {_text(error)}") from error
        except RuntimeError as error:
            raise EngineAway(f"the connection to {self.url} was closed: {_text(error)}") from error
        # A broken exchange looks the same whether this request or the whole engine died, and only the first
        # may cost the item an attempt: so ask the engine.
        if failure.klass == "connection" and not probe and not await self.healthy():
            raise EngineAway(failure.message) from failure
        raise failure

    def _refusal(self, error: ollama.ResponseError, model: str | None) -> EngineError:
        """The EngineError that an HTTP status means; -1 is an error inside a reply that had already begun."""
        status, said = error.status_code, str(error.error)[:_LONGEST_TEXT]
        if status in _AWAY:
            return EngineAway(f"{self.url} answered {status}: {said}")
        if status == 404 and model is not None:
            return EngineError("not_found", f"model {model!r} is not on the engine at {self.url}: {said}")
        if status in _CLASSES:
            return EngineError(_CLASSES[status], f"{self.url} answered {status}: {said}")
        if 400 <= status < 500 and status != 404 and status != 499:
            return EngineError("invalid_input", f"{self.url} answered {status}: {said}")
        return EngineError("connection", f"{self.url} failed ({status}): {said}")


def _body(request: ChatRequest) -> dict[str, Any]:
    """The JSON of /api/chat."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": request.system}] if request.system else []
    messages.append({"role": "user", "content": request.prompt})
    messages += map(_message, request.turns)
    body = {"model": request.model, "messages": messages, "options": dict(request.options), "stream": False}
    if request.response_format is not None:
        body["format"] = dict(request.response_format)
    if request.tools:
        body["tools"] = [
            {"type": "function", "function": {name: getattr(tool, name) for name in ToolOffer.__slots__}}
            for tool in request.tools
        ]
    return body


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.calls:
        message["tool_calls"] = [
            {"function": {"name": call.name, "arguments": dict(call.arguments)}} for call in turn.calls
        ]
    optional = {"thinking": turn.thinking, "tool_name": turn.tool}
    return message | {name: text for name, text in optional.items() if text}


def _ms(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else round(nanoseconds / 1e6)


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)


def _text(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:_LONGEST_TEXT]
