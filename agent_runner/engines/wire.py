"""JSON over HTTP with one engine: every call bounded in time and in size, every failure an EngineError."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx

from agent_runner.engines.exchange import LONGEST_TEXT, Exchange, Foreign, Refused
from agent_runner.engines.fence import Fence

T = TypeVar("T")

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer. A model's longest one has a few hundred KB."""


class Wire:
    """The connections to `url`. `key` goes to it as a bearer token, and nowhere else: redirects are not followed.

    `read` makes of an answer's JSON what is wanted; it raises Foreign where that can not be. `model` is whom a call
    is about; `probe` marks the question whether the engine answers at all. What is posted, and a knock, has an effect
    on the engine and passes the fence: NotOurs.
    """

    def __init__(
        self,
        url: str,
        healthy: Callable[[], Awaitable[bool]],
        fence: Fence,
        *,
        key: str = "",
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.url = url
        self._fence = fence
        self._exchange = Exchange(url, "an OpenAI-compatible engine", healthy, secret=key)
        # Reads wait for the model, so each call bounds itself. The pool is unbounded because the runner's slots
        # are the bound; proxies are for the outside world; a compressed answer could unfold to any size.
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                **({"Authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx.Timeout(None, connect=connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            follow_redirects=False,
            trust_env=False,
        )

    async def get(self, path: str, timeout_s: float, read: Callable[[Any], T], *, probe: bool = False) -> T:
        return await self._exchange.ask(self._read("GET", path, read), timeout_s, probe=probe)

    async def post(
        self, path: str, body: Mapping[str, Any], timeout_s: float, read: Callable[[Any], T], *, model: str
    ) -> T:
        return await self._exchange.ask(self._read("POST", path, read, body, fenced=True), timeout_s, model)

    async def look(self, path: str, timeout_s: float, *, probe: bool = False) -> Any:
        """The JSON at a path that only some engines have; None where this one has not."""
        return await self._exchange.ask(self._json_if_any(path), timeout_s, probe=probe)

    async def knock(self, method: str, path: str, timeout_s: float, *, model: str) -> None:
        """A call whose answer says nothing but that it succeeded."""
        await self._exchange.ask(self._success(method, path, fenced=True), timeout_s, model)

    async def close(self) -> None:
        await self._client.aclose()

    async def _read(self, method: str, path: str, read: Callable[[Any], T], body: Any = None, **how: bool) -> T:
        return read(_parsed(await self._success(method, path, body, **how)))

    async def _json_if_any(self, path: str) -> Any:
        status, raw = await self._send("GET", path)
        if status in (401, 403, 407, 408, 429) or (status >= 500 and status != 501):
            raise _refused(status, raw)
        try:
            return _parsed(raw) if 200 <= status < 300 else None
        except Foreign:
            return None

    async def _success(self, method: str, path: str, body: Any = None, *, fenced: bool = False) -> bytes:
        status, raw = await self._send(method, path, body, fenced=fenced)
        if not 200 <= status < 300:
            raise _refused(status, raw)
        return raw

    async def _send(self, method: str, path: str, body: Any = None, *, fenced: bool = False) -> tuple[int, bytes]:
        content = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        extensions = dict(self._fence.extensions) if fenced else {}
        async with self._client.stream(method, path, content=content, headers=headers, extensions=extensions) as answer:
            raw = bytearray()
            async for part in answer.aiter_raw():
                raw += part
                if len(raw) > MAX_ANSWER:
                    raise Foreign(f"its answer has more than {MAX_ANSWER} bytes")
        return answer.status_code, bytes(raw)


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Foreign(str(error)) from error


def _refused(status: int, raw: bytes) -> Exception:
    said = _error_of(raw)
    if said is None and status == 404:  # engines say in JSON which model is missing: this is something else
        return Foreign("404, without saying what was not found")
    if 300 <= status < 400:
        said = "a redirect, which is not followed"
    return Refused(status, said or raw[: 8 * LONGEST_TEXT].decode("utf-8", "replace"))


def _error_of(raw: bytes) -> str | None:
    """What an error's body says, with its type and code: failures of one status are told apart by them."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    error = body.get("error", body if body.get("object") == "error" else None) if isinstance(body, dict) else None
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return None
    parts = [error.get("message"), error.get("type"), error.get("code")]
    return " / ".join(part for part in parts if isinstance(part, str)) or None
