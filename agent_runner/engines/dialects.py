"""How OpenAI-compatible servers say which models they hold, and load and unload them: OpenAI's protocol has no word.

Three dialects, found out by asking (`find_dialect`):

- LlamaSwap: GET /running gives {"running": [{"model", "state": "ready"|"starting"|"stopping"|...}]};
  POST /api/models/unload/<model> ends it; GET /upstream/<model>/health starts it and answers when it is ready.
- LlamaRouter, llama.cpp's server without a model of its own: GET /models gives {"data": [{"id", "status": {"value":
  "unloaded"|"loading"|"loaded"|"sleeping"|"downloading", "failed"?, "exit_code"?}, "meta"?: {"size", "n_ctx"}}]};
  POST /models/load and /models/unload take {"model"} and answer {"success": true} at once, or 404 for a model that is
  not there and 400 where nothing is to be done; the status tells the rest. (github.com/ggml-org/llama.cpp,
  tools/server/README.md and server-models.cpp, as of 2026.)
- FixedModels, all others (vLLM, llama.cpp with a model, LM Studio): what GET /v1/models lists is there to stay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from agent_runner.engines.engine import EngineAway, EngineError, Resident, short_name
from agent_runner.engines.exchange import Foreign
from agent_runner.engines.wire import Wire

MODELS = "/v1/models"
ROUTED = "/models"
_AWAKE = ("loaded", "sleeping")  # a model that sleeps wakes up when it is asked
_LONGEST_PAUSE_S = 0.5


class Dialect(Protocol):
    """Each method raises EngineError, and takes about `timeout_s` seconds at most."""

    async def load(self, model: str, timeout_s: float) -> None:
        """Returns when the model can answer."""

    async def unload(self, model: str, timeout_s: float) -> None:
        """Returns when its memory is free. What still runs on it is broken off: drain it before."""

    async def residents(self, timeout_s: float) -> list[Resident]: ...

    async def slots(self, model: str, timeout_s: float) -> int | None:
        """How many requests the model takes at once; None where nobody says."""


async def find_dialect(wire: Wire, timeout_s: float) -> Dialect:
    running = await wire.look("/running", timeout_s)
    if isinstance(running, dict) and isinstance(running.get("running"), list):
        return LlamaSwap(wire)
    models = await wire.look(ROUTED, timeout_s)
    if any(_status(entry) for entry in _entries(models) or ()):
        return LlamaRouter(wire)
    return FixedModels(wire)


async def listed(wire: Wire, timeout_s: float, path: str = MODELS, *, probe: bool = False) -> dict[str, dict[str, Any]]:
    """What the engine lists, by the models' names."""

    def by_name(body: Any) -> dict[str, dict[str, Any]]:
        entries = _entries(body)
        if entries is None:
            raise Foreign(f"{path} gives no list of models")
        return {entry["id"]: entry for entry in entries}

    return await wire.get(path, timeout_s, by_name, probe=probe)


async def listed_one(wire: Wire, model: str, timeout_s: float, path: str = MODELS) -> dict[str, Any]:
    """The entry of one model. Raises EngineError (not_found)."""
    entry = (await listed(wire, timeout_s, path)).get(model)
    if entry is None:
        raise EngineError("not_found", f"model {model!r} is not on the engine at {wire.url}: it lists others")
    return entry


def meta_size(entry: Mapping[str, Any]) -> int | None:
    """Bytes of the model's weights, as llama.cpp says it of a model that it has loaded."""
    return _whole(_meta(entry).get("size"))


class FixedModels:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def load(self, model: str, timeout_s: float) -> None:
        await listed_one(self._wire, model, timeout_s)

    async def unload(self, model: str, timeout_s: float) -> None:
        pass

    async def residents(self, timeout_s: float) -> list[Resident]:
        return [_resident(name, entry) for name, entry in (await listed(self._wire, timeout_s)).items()]

    async def slots(self, model: str, timeout_s: float) -> int | None:
        return _slots(await self._wire.look("/props", timeout_s))


class LlamaRouter:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def load(self, model: str, timeout_s: float) -> None:
        was = _status(await self._entry(model, timeout_s))

        def loaded(entry: Mapping[str, Any]) -> bool:
            nonlocal was
            before, was = was, _status(entry)
            if was == "unloaded" and (before == "loading" or entry["status"].get("failed")):
                code = entry["status"].get("exit_code")
                raise EngineError("connection", f"{self._wire.url} could not load {model!r}: exit code {code}")
            return was in _AWAKE

        if was not in _AWAKE:
            await self._do("load", model, timeout_s)
            await self._until(loaded, model, timeout_s)

    async def unload(self, model: str, timeout_s: float) -> None:
        await self._do("unload", model, timeout_s)
        await self._until(lambda entry: _status(entry) not in (*_AWAKE, "loading"), model, timeout_s)

    async def residents(self, timeout_s: float) -> list[Resident]:
        held = await listed(self._wire, timeout_s, ROUTED)
        return [_resident(name, entry) for name, entry in held.items() if _status(entry) == "loaded"]

    async def slots(self, model: str, timeout_s: float) -> int | None:
        return _slots(await self._wire.look(f"/props?model={quote(model, safe='')}&autoload=false", timeout_s))

    async def _entry(self, model: str, timeout_s: float) -> dict[str, Any]:
        return await listed_one(self._wire, model, timeout_s, ROUTED)

    async def _do(self, what: str, model: str, timeout_s: float) -> None:
        try:
            await self._wire.post(f"/models/{what}", {"model": model}, timeout_s, lambda _: None, model=model)
        except EngineError as error:
            if error.klass not in ("invalid_input", "engine_busy"):  # it runs already, or no more: its status tells
                raise

    async def _until(self, holds: Callable[[Mapping[str, Any]], bool], model: str, timeout_s: float) -> None:
        """Ask for the model's entry until it is such that `holds`."""
        pause_s = 0.02
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(await self._entry(model, timeout_s)):
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        except TimeoutError:
            raise EngineError("timeout", f"{self._wire.url} took more than {timeout_s:g} s over {model!r}") from None


class LlamaSwap:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def load(self, model: str, timeout_s: float) -> None:
        try:
            await self._wire.knock("GET", f"/upstream/{quote(model, safe='')}/health", timeout_s, model=model)
        except EngineAway:
            raise
        except EngineError:  # the model is not there; or the server behind it is up and knows no /health
            if model not in await self._ready(timeout_s):
                raise

    async def unload(self, model: str, timeout_s: float) -> None:
        await self._wire.knock("POST", f"/api/models/unload/{quote(model, safe='')}", timeout_s, model=model)

    async def residents(self, timeout_s: float) -> list[Resident]:
        return [_resident(name, {}) for name in await self._ready(timeout_s)]

    async def slots(self, model: str, timeout_s: float) -> int | None:
        if model not in await self._ready(timeout_s):  # to ask it would load it
            return None
        return _slots(await self._wire.look(f"/upstream/{quote(model, safe='')}/props", timeout_s))

    async def _ready(self, timeout_s: float) -> list[str]:
        return await self._wire.get("/running", timeout_s, _ready)


def _ready(body: Any) -> list[str]:
    running = body.get("running") if isinstance(body, dict) else None
    if not isinstance(running, list):
        raise Foreign("/running gives no list")
    entries = [one for one in running if isinstance(one, dict) and isinstance(one.get("model"), str)]
    return [one["model"] for one in entries if one.get("state") == "ready"]


def _entries(body: Any) -> list[dict[str, Any]] | None:
    """The models of a list; None if it is no list."""
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, list):
        return None
    return [entry for entry in data if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _status(entry: Mapping[str, Any]) -> str:
    """What a router says of a model; "" where it says nothing."""
    status = entry.get("status")
    value = status.get("value") if isinstance(status, dict) else None
    return value if isinstance(value, str) else ""


def _meta(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = entry.get("meta")
    return meta if isinstance(meta, dict) else {}


def _resident(model: str, entry: Mapping[str, Any]) -> Resident:
    """`meta` is llama.cpp's, `max_model_len` vLLM's. None says what a model takes with its KV cache."""
    context = _whole(_meta(entry).get("n_ctx")) or _whole(entry.get("max_model_len"))
    return Resident(short_name(model), 0, 0, None, context)


def _slots(props: Any) -> int | None:
    return _whole(props.get("total_slots")) if isinstance(props, dict) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else None
