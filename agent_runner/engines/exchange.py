"""What a failed exchange with an engine means, whatever the engine speaks: an EngineError of the right class."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx

from agent_runner.engines.engine import EngineAway, EngineError, FailureClass

T = TypeVar("T")

LONGEST_TEXT = 500
"""Characters of what an engine said that an error repeats."""

_CLASSES: dict[int, FailureClass] = {
    400: "invalid_input",
    408: "timeout",
    413: "too_large",
    422: "invalid_input",
    429: "rate_limit",
    503: "engine_busy",
}
# A login that is refused and a gateway with nothing behind it are the operator's to mend, no item's fault.
AWAY = frozenset({401, 403, 407, 502, 504})
# Failures that engines tell in words, under one status with others.
_TOO_LONG = re.compile(
    r"maximum (context|model) length|context.length.exceeded|exceed\w*.(the )?(available )?context"
    r"|greater than the context length",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"\bmodel\b.{0,300}\b(not found|does not exist)|could not find.{0,40}\bmodel", re.IGNORECASE)
_NOT_LOADED = re.compile(r"\bmodel\b.{0,300}is not (loaded|running)")  # llama.cpp's router, without autoload
_LOADING = "Loading model"  # llama.cpp's server, until its one model is there


class Refused(Exception):
    """The engine answered with a status that is no success. -1 is an error inside an answer that had begun."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


class Foreign(Exception):
    """The engine's answer is not what it should be; the text says where."""


class Exchange:
    """The way to the engine at `url`, which speaks as `tongue` does.

    `healthy` asks whether it answers at all; `secret` is in no error's text.
    """

    def __init__(self, url: str, tongue: str, healthy: Callable[[], Awaitable[bool]], *, secret: str = "") -> None:
        self._url = url
        self._tongue = tongue
        self._healthy = healthy
        self._secret = secret

    async def ask(self, asked: Awaitable[T], timeout_s: float, model: str | None = None, *, probe: bool = False) -> T:
        """The one place where a call meets the engine: bounded in time, and every failure an EngineError.

        `model` is whom the question is about, if anyone; `probe`: this is the question whether the engine answers.
        `asked` may raise Refused, Foreign, EngineError, and what httpx raises.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await asked
        except Refused as error:
            failure = self._refusal(error, model)
        except Foreign as error:
            failure = EngineError(
                "connection", f"{self._url} does not answer as {self._tongue} does: {self.text(error)}"
            )
        except EngineError as error:
            failure = error
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise EngineAway(f"no engine at {self._url}: {self.text(error)}") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            failure = EngineError("timeout", f"{self._url} gave no answer within {timeout_s:g} s")
            failure.__cause__ = error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise EngineAway(f"{self._url!r} is no engine's URL: {self.text(error)}") from error
        except httpx.HTTPError as error:
            failure = EngineError("connection", f"{self._url} broke the exchange off: {self.text(error)}")
            failure.__cause__ = error
        except ValueError as error:  # no JSON can be made of the request: a lone surrogate, a NaN
            raise EngineError("invalid_input", f"the request cannot be sent: {self.text(error)}") from error
        except RuntimeError as error:
            raise EngineAway(f"the connection to {self._url} was closed: {self.text(error)}") from error
        # A broken exchange looks the same whether this request or the whole engine died, and only the first
        # may cost the item an attempt: so ask the engine.
        if failure.klass == "connection" and not probe and not await self._healthy():
            raise EngineAway(failure.message) from failure
        raise failure

    def text(self, said: object) -> str:
        """What was said, fit to be stored and shown: bounded, without the secret, without halves of surrogates."""
        text = str(said) or type(said).__name__
        if self._secret:
            text = text.replace(self._secret, "***")
        return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()

    def _refusal(self, refused: Refused, model: str | None) -> EngineError:
        status, said = refused.status, self.text(refused.said)
        answered = f"{self._url} answered {status}: {said}"
        if status in AWAY or (status == 503 and _LOADING in said):
            return EngineAway(answered)
        if model is not None and (status == 404 or (status == 400 and _NO_MODEL.search(said))):
            return EngineError("not_found", f"model {model!r} is not on the engine at {self._url}: {said}")
        if status == 400 and _NOT_LOADED.search(said):
            return EngineError("engine_busy", answered)
        if status in (400, 500) and _TOO_LONG.search(said):
            return EngineError("too_large", answered)
        if status in _CLASSES:
            return EngineError(_CLASSES[status], answered)
        if 400 <= status < 500 and status != 404 and status != 499:
            return EngineError("invalid_input", answered)
        return EngineError("connection", f"{self._url} failed ({status}): {said}")
