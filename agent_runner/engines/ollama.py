"""The engine adapter for Ollama, and for the simulated engine, which speaks the same protocol."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

import httpx
import ollama
import pydantic

from agent_runner.engines.engine import (
    ChatReply,
    ChatRequest,
    EngineError,
    Footprint,
    LoadReply,
    Resident,
    ToolCall,
    ToolOffer,
    Turn,
    short_name,
)
from agent_runner.engines.exchange import Exchange, Foreign, Refused
from agent_runner.engines.fence import Fence
from agent_runner.engines.kv_cache import kv_bytes, trained_context

T = TypeVar("T")

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
DEFAULT_CONTEXT = 4096
"""Ollama's `num_ctx` where nobody says another (OLLAMA_CONTEXT_LENGTH)."""


class OllamaEngine:
    """One Ollama, at `url`.

    `name` is what it is called where people look ("simulated" for that one);
    `load_timeout_s` bounds a load (a drain before it included), `control_timeout_s` the short questions.
    `key` goes to it as a bearer token, for an Ollama behind a proxy that wants one.
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
        key: str = "",
    ) -> None:
        self.name = name
        self.url = url
        self.fence = Fence()
        self._load_timeout_s = load_timeout_s
        self._control_timeout_s = control_timeout_s
        self._exchange = Exchange(url, "Ollama", self.healthy, secret=key)
        # Reads wait for the model, so each call bounds itself (`_ask`). The pool is unbounded because the
        # runner's slots are the bound; proxies are for the outside world.
        self._client = ollama.AsyncClient(
            host=url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            follow_redirects=False,  # the key is for this host
            timeout=httpx.Timeout(None, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def chat(self, request: ChatRequest) -> ChatReply:
        began = time.monotonic()
        # Not the client's own `chat`: its model of a tool drops what it does not know of a JSON Schema, such as the
        # fields of an inner object.
        asked = self._client._request(
            ollama.ChatResponse, "POST", "/api/chat", json=_body(request), extensions=self.fence.extensions
        )
        reply = await self._ask(asked, request.timeout_s, request.model)
        return ChatReply(
            text=reply.message.content or "",
            prompt_tokens=reply.prompt_eval_count or 0,  # absent when the whole prompt was cached
            completion_tokens=reply.eval_count or 0,
            wait_ms=_ms(reply.load_duration) or 0,
            total_ms=_ms(reply.total_duration) or _since(began),
            calls=[ToolCall(call.function.name, call.function.arguments) for call in reply.message.tool_calls or ()],
            thinking=reply.message.thinking or "",
        )

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        began = time.monotonic()
        await self._keep(model, self._load_timeout_s, keep_alive=-1, options=dict(options))
        return LoadReply(load_ms=_since(began))  # Ollama reports no duration for a bare load

    async def unload(self, model: str) -> None:
        await self._keep(model, self._control_timeout_s, keep_alive=0)

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

    async def footprint(self, model: str, options: Mapping[str, Any]) -> Footprint | None:
        """By the model's file, which is what is loaded, and the KV cache of one slot in f16, Ollama's default."""
        shown = await self._show(model)
        listed = await self._ask(self._client.list(), self._control_timeout_s)
        weights = next((one.size for one in listed.models if short_name(one.model or "") == short_name(model)), None)
        info = shown.modelinfo or {}
        context = _context(options, shown.parameters or "", trained_context(info))
        per_token = kv_bytes(info)
        if per_token is None:  # lists of more than five values come out empty unless all is asked for, vocabulary too
            per_token = kv_bytes((await self._show(model, verbose=True)).modelinfo or {})
        return None if weights is None or per_token is None else Footprint(int(weights), context * per_token)

    async def healthy(self) -> bool:
        try:
            await self._ask(self._client.ps(), self._control_timeout_s, probe=True)
        except EngineError:
            return False
        return True

    async def close(self) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def _show(self, model: str, *, verbose: bool = False) -> ollama.ShowResponse:
        body = {"model": model, "verbose": verbose}
        asked = self._client._request(ollama.ShowResponse, "POST", "/api/show", json=body)
        return await self._ask(asked, self._control_timeout_s, model)

    async def _keep(self, model: str, timeout_s: float, **about: Any) -> None:
        """A generation without a prompt: it loads or unloads, as `keep_alive` says."""
        body = {"model": model, "prompt": "", "stream": False, **about}
        asked = self._client._request(
            ollama.GenerateResponse, "POST", "/api/generate", json=body, extensions=self.fence.extensions
        )
        if not (await self._ask(asked, timeout_s, model)).done:
            raise EngineError("connection", f"{self.url} confirmed no load or unload of {model!r}")

    async def _ask(self, asked: Awaitable[T], timeout_s: float, model: str | None = None, *, probe: bool = False) -> T:
        return await self._exchange.ask(_answer(asked), timeout_s, model, probe=probe)


async def _answer(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except ollama.ResponseError as error:
        raise Refused(error.status_code, str(error.error)) from None
    except _NOT_OLLAMA as error:
        raise Foreign(str(error) or type(error).__name__) from error


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


def _context(options: Mapping[str, Any], parameters: str, trained: int | None) -> int:
    """The tokens of one slot's cache: asked for, else by the model's own `parameters`, else Ollama's default."""
    own = re.search(r"^num_ctx\s+(\d{1,9})$", parameters, re.MULTILINE)
    asked = options.get("num_ctx")
    context = asked if isinstance(asked, int) else int(own[1]) if own else DEFAULT_CONTEXT
    return max(min(context, trained or context), 1)


def _ms(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else round(nanoseconds / 1e6)


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
