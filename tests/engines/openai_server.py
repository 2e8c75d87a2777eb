"""A small server with OpenAI's protocol in its three dialects, and as wrong as a test likes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_runner.engines.openai import OpenAIEngine
from agent_runner.engines.simulated.listener import Listener, bound

Chat = Callable[[dict[str, Any]], Awaitable[Response] | Response | dict[str, Any]]


def said(text: str | None = "ok", **message: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": text, **message}}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def error(status: int, message: str, kind: str = "invalid_request_error") -> JSONResponse:
    return JSONResponse({"error": {"code": status, "message": message, "type": kind}}, status)


class OpenAIServer:
    """`states` is what a router or llama-swap says of each model. While `hold` is clear, a load goes on."""

    def __init__(self, dialect: Literal["fixed", "router", "swap"] = "fixed") -> None:
        self.dialect = dialect
        self.states = {"small": "unloaded", "org/big:q4": "unloaded"}
        self.meta: dict[str, Any] | None = {"size": 4_900_000_000, "n_ctx": 8192, "n_params": 8_030_261_312}
        self.chat: Chat = lambda body: said()
        self.fails_to_load: set[str] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self.listing: Any = None  # in place of the models that there are
        self.health: int | None = 200
        self.sent: list[tuple[str, dict[str, str], Any]] = []
        self.url = ""
        self._loads: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> OpenAIServer:
        listening = bound(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._listener = Listener(Starlette(routes=self._routes()))
        self._serving = asyncio.create_task(self._listener.serve(sockets=[listening]))
        await self._listener.ready.wait()
        return self

    def at_hand(self, **about: Any) -> OpenAIEngine:
        """An engine that asks this server without a socket in between, for questions by the thousand."""
        engine = OpenAIEngine("http://at.hand", **about)
        app = Starlette(routes=self._routes())
        engine._wire._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=engine.url)
        return engine

    async def __aexit__(self, *_: object) -> None:
        self.hold.set()
        self._listener.end()
        await self._serving

    def asked(self, path: str) -> list[Any]:
        """Bodies of the requests to a path."""
        return [body for where, _, body in self.sent if where == path]

    def _routes(self) -> list[Route]:
        routes = [
            ("/v1/chat/completions", "POST", self._chat),
            ("/v1/models", "GET", self._models),
            ("/health", "GET", self._health),
        ]
        if self.dialect == "router":
            routes += [
                ("/models", "GET", self._models),
                ("/models/load", "POST", self._load),
                ("/models/unload", "POST", self._unload),
            ]
        if self.dialect == "swap":
            routes += [
                ("/running", "GET", self._running),
                ("/upstream/{model:path}/health", "GET", self._start),
                ("/upstream/{model:path}/props", "GET", self._props),
                ("/api/models/unload/{model:path}", "POST", self._stop),
            ]
        else:
            routes.append(("/props", "GET", self._props))
        return [Route(path, self._noted(handle), methods=[method]) for path, method, handle in routes]

    def _noted(self, handle: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def noted(request: Request) -> Response:
            raw = await request.body()
            self.sent.append((request.url.path, dict(request.headers), json.loads(raw) if raw else None))
            answer = handle(request)
            if isinstance(answer, Awaitable):
                answer = await answer
            return answer if isinstance(answer, Response) else JSONResponse(answer)

        return noted

    def _chat(self, _: Request) -> Any:
        return self.chat(self.sent[-1][2])

    def _health(self, _: Request) -> Response:
        if self.health == 503:
            return error(503, "Loading model", "unavailable_error")
        return Response("OK") if self.health else Response("no such page", 404)

    def _models(self, _: Request) -> Any:
        if self.listing is not None:
            return Response(json.dumps(self.listing))
        return {"object": "list", "data": [self._entry(model) for model in self.states]}

    def _entry(self, model: str) -> dict[str, Any]:
        entry = {"id": model, "object": "model"}
        state = self.states[model]
        if self.dialect == "router":
            failed = {"failed": True, "exit_code": 1} if state == "failed" else {}
            entry["status"] = {"value": "unloaded" if failed else state, **failed}
        if self.meta and (self.dialect == "fixed" or state == "loaded"):
            entry["meta"] = self.meta
        return entry

    def _load(self, _: Request) -> Any:
        model = self.sent[-1][2]["model"]
        if model not in self.states:
            return error(404, "model is not found", "not_found_error")
        if self.states[model] in ("loaded", "loading"):
            return error(400, "model is already running")
        self.states[model] = "loading"
        task = asyncio.create_task(self._become_loaded(model))
        self._loads.add(task)
        return {"success": True}

    async def _become_loaded(self, model: str) -> None:
        await self.hold.wait()
        self.states[model] = "failed" if model in self.fails_to_load else "loaded"

    def _unload(self, _: Request) -> Any:
        model = self.sent[-1][2]["model"]
        if model not in self.states:
            return error(404, "model is not found", "not_found_error")
        if self.states[model] not in ("loaded", "loading"):
            return error(400, "model is not running")
        self.states[model] = "unloaded"
        return {"success": True}

    def _props(self, request: Request) -> Any:
        model = request.query_params.get("model") or request.path_params.get("model")
        if self.dialect == "router" and self.states.get(str(model)) != "loaded":
            return error(400, "model is not loaded")
        return {"total_slots": 8, "model_path": "x.gguf"}

    def _running(self, _: Request) -> Any:
        return {"running": [{"model": m, "state": s} for m, s in self.states.items() if s != "unloaded"]}

    async def _start(self, request: Request) -> Response:
        model = request.path_params["model"]
        if model not in self.states:
            return JSONResponse({"error": "model not found"}, 404)
        if model in self.fails_to_load:
            return JSONResponse({"error": "unable to start process: upstream command exited prematurely"}, 500)
        self.states[model] = "starting"
        await self.hold.wait()
        self.states[model] = "ready"
        return JSONResponse({"status": "ok"}) if self.health is not None else Response("no such page", 404)

    def _stop(self, request: Request) -> Response:
        model = request.path_params["model"]
        if model not in self.states:
            return JSONResponse({"error": "Model not found"}, 404)
        self.states[model] = "unloaded"
        return Response("OK")
