"""One GPU: several models behind one URL and a bound on memory, as llama.cpp's server has it in router mode.

Routes, statuses and errors are those of llama.cpp (tools/server/README.md, "Using multiple models"): GET /models,
POST /models/load and /models/unload, GET /health and /props, POST /v1/chat/completions. A load that was accepted is
over when GET /models says so. A chat loads its model if need be.

Two things are this router's own. llama.cpp bounds the number of models, this one their `memory`: what a load has no
room beside is evicted, the least recently used first, and a model larger than all of it fails to load. And what is
unloaded may finish its answers first, for as long as llama.cpp waits for a child.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_runner.engines.simulated.listener import Listener, bound
from tests.real_engines.llama_server import LlamaServer, LoadFailed
from tests.real_engines.models import CONTEXT, TinyModel

STOP_S = 10.0
"""How long a model that is unloaded may go on answering."""


@dataclass(slots=True)
class _Hosted:
    """A model that this GPU can hold."""

    path: Path
    memory: int  # bytes, weights and the KV cache of its slots
    status: Literal["unloaded", "loading", "loaded"] = "unloaded"
    leaving: bool = False
    exit_code: int = 0  # of its last process
    server: LlamaServer | None = None
    life: asyncio.Task[None] | None = None
    running: int = 0  # requests
    used_at: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)  # what its server says of it

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def up(self) -> bool:
        return self.status != "unloaded" and not self.leaving


class Router:
    """An engine with `memory` bytes at `url`, from `async with` on. `slots`: requests at once, of each model.

    `loads` are the names of the models in the order in which their processes were started; `evictions` counts those
    that had to go because a load found no room.
    """

    def __init__(self, models: Sequence[TinyModel], folder: Path, *, memory: int, slots: int = 4) -> None:
        self.memory = memory
        self.slots = slots
        self.loads: list[str] = []
        self.evictions = 0
        self.url = ""
        self._folder = folder
        self._hosted: dict[str, _Hosted] = {}
        self._moving = False  # one makes room at a time
        self._unloading: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._children = httpx.AsyncClient(timeout=None, limits=httpx.Limits(), trust_env=False)
        for model in models:
            self.host(model)

    def host(self, model: TinyModel) -> Path:
        """One more model that can be loaded; its file."""
        path = model.write(self._folder)
        self._hosted[model.name] = _Hosted(path, path.stat().st_size + self.slots * CONTEXT * model.kv_per_token)
        return path

    async def __aenter__(self) -> Router:
        listening = bound(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._listener = Listener(self._application())
        self._serving = asyncio.create_task(self._listener.serve(sockets=[listening]))
        await self._listener.ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all of it at once, what is being answered too."""
        self._listener.end()
        await self._serving
        await asyncio.gather(*(self._end(hosted) for hosted in self._hosted.values() if hosted.life is not None))
        await self._children.aclose()

    def memory_of(self, name: str) -> int:
        """Bytes that a model takes here."""
        return self._hosted[name].memory

    def pid(self, name: str) -> int:
        """The process of a model that is loaded."""
        server = self._hosted[name].server
        assert server is not None, f"{name} is not loaded"
        return server.process.pid

    def running(self, name: str) -> int:
        """Requests to a model that are not answered."""
        return self._hosted[name].running

    # -- models ------------------------------------------------------------------------------------
    async def _enter(self, hosted: _Hosted) -> LlamaServer | None:
        """The server for one more request, which is counted; None where the model can not be loaded."""
        while not hosted.up:
            await self._until(lambda: hosted.up or not self._moving)
            if not hosted.up:
                await self._load(hosted)
        hosted.running += 1  # before anybody finds it idle and evicts it
        hosted.used_at = time.monotonic()
        await self._until(lambda: hosted.status != "loading")
        if hosted.server is None:
            self._leave(hosted)
        return hosted.server

    def _leave(self, hosted: _Hosted) -> None:
        hosted.running -= 1
        self._tell()

    async def _load(self, hosted: _Hosted) -> None:
        """Make room and start its process; it is loading then."""
        self._moving = True
        try:
            await self._make_room(hosted)
            hosted.status, hosted.exit_code, hosted.used_at = "loading", 0, time.monotonic()
            hosted.life = asyncio.create_task(self._live(hosted))
        finally:
            self._moving = False
            self._tell()

    async def _make_room(self, hosted: _Hosted) -> None:
        while others := [other for other in self._hosted.values() if other.status != "unloaded"]:
            if sum(other.memory for other in others) + hosted.memory <= self.memory:
                return
            self.evictions += 1
            await self._unload(min(others, key=lambda other: other.used_at))

    async def _live(self, hosted: _Hosted) -> None:
        """From its load to its end, whoever ends it."""
        hosted.exit_code = 1
        try:
            if hosted.memory > self.memory:
                return
            self.loads.append(hosted.name)
            log = hosted.path.with_suffix(".log")
            hosted.server = await LlamaServer.start(hosted.path, slots=self.slots, context=CONTEXT, log=log)
            listed = await self._children.get(f"{hosted.server.url}/v1/models")
            hosted.about = listed.json()["data"][0]
            hosted.status = "loaded"
            self._tell()
            hosted.exit_code = await hosted.server.process.wait()
        except LoadFailed as failure:
            hosted.exit_code = failure.code
        except httpx.HTTPError:  # it ended right after its start
            pass
        finally:
            hosted.status, hosted.server, hosted.leaving, hosted.about = "unloaded", None, False, {}
            self._tell()

    async def _unload(self, hosted: _Hosted) -> None:
        """Let it finish what it answers, then end its process."""
        if not hosted.leaving:
            hosted.leaving = True
            try:
                async with asyncio.timeout(STOP_S):
                    await self._until(lambda: not hosted.running)
            except TimeoutError:
                pass
            await self._end(hosted)
        await self._until(lambda: hosted.status == "unloaded")

    async def _end(self, hosted: _Hosted) -> None:
        assert hosted.life is not None
        if hosted.server is not None:
            await hosted.server.stop()
        else:
            hosted.life.cancel()  # which kills a process that is still loading
        await asyncio.wait([hosted.life])

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._news.wait()

    # -- HTTP --------------------------------------------------------------------------------------
    def _application(self) -> Starlette:
        routes = [
            Route("/health", _health),
            Route("/props", self._props),
            Route("/models", self._list),
            Route("/v1/models", self._list),
            Route("/models/load", self._post_load, methods=["POST"]),
            Route("/models/unload", self._post_unload, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _props(self, request: Request) -> Response:
        name = request.query_params.get("model")
        if name is None:
            return JSONResponse({"role": "router", "max_instances": 0, "models_autoload": True})
        return await self._forward(request, name)

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"data": [self._entry(hosted) for hosted in self._hosted.values()], "object": "list"})

    def _entry(self, hosted: _Hosted) -> dict[str, Any]:
        sizes = ["--ctx-size", str(self.slots * CONTEXT), "--parallel", str(self.slots)]
        args = ["llama-server", "--alias", hosted.name, "--model", str(hosted.path), *sizes]
        status: dict[str, Any] = {"value": hosted.status, "args": args}
        if hosted.status == "unloaded" and hosted.exit_code:
            status |= {"exit_code": hosted.exit_code, "failed": True}
        own = {"id": hosted.name, "object": "model", "owned_by": "llamacpp", "created": 0, "status": status}
        return {**hosted.about, **own}

    async def _post_load(self, request: Request) -> Response:
        hosted = self._hosted.get((await request.json()).get("model", ""))
        if hosted is None:
            return _error(404, "model is not found")
        await self._until(lambda: hosted.status != "unloaded" or not self._moving)
        if hosted.status != "unloaded":
            return _error(400, "model is already running")
        await self._load(hosted)
        return JSONResponse({"success": True})

    async def _post_unload(self, request: Request) -> Response:
        hosted = self._hosted.get((await request.json()).get("model", ""))
        if hosted is None:
            return _error(400, "model is not found")
        if hosted.status == "unloaded":
            return _error(400, "model is not running")
        unloading = asyncio.create_task(self._unload(hosted))
        self._unloading.add(unloading)
        unloading.add_done_callback(self._unloading.discard)
        return JSONResponse({"success": True})

    async def _chat(self, request: Request) -> Response:
        return await self._forward(request, (await request.json()).get("model", ""))

    async def _forward(self, request: Request, name: str) -> Response:
        """The request as it is, to the model's own server."""
        hosted = self._hosted.get(name)
        if hosted is None:
            return _error(400, f"model '{name}' not found")
        if request.query_params.get("autoload") == "false" and not hosted.up:
            return _error(400, "model is not loaded")
        server = await self._enter(hosted)
        if server is None:
            return _error(500, f"model name={name} failed to load")
        try:
            answer = await self._children.request(
                request.method,
                f"{server.url}{request.url.path}",
                content=await request.body(),
                headers={"Content-Type": "application/json"},
            )
        except httpx.HTTPError as error:
            return Response(f"proxy error: {error}", 500)
        finally:
            self._leave(hosted)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


def _error(code: int, message: str) -> Response:
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(code, "server_error")
    return JSONResponse({"error": {"code": code, "message": message, "type": kind}}, code)
