"""A real HTTP server that speaks Ollama's protocol and answers from a simulated GPU.

Routes: / and /api/{version,chat,generate,ps,tags,show} as Ollama's, and GET /simulated/stats: where the
card's time went, in simulated seconds. Times in replies are wall time, as a client would measure them. A
stream's chunks come together when the answer is done.
"""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agent_runner.engines.engine import short_name
from agent_runner.engines.simulated.answers import answer, draw_for
from agent_runner.engines.simulated.gpu import CARDS, CATALOGUE, Card, Demand, Gpu, ModelSpec, Tenant
from agent_runner.engines.simulated.listener import Listener, bound
from agent_runner.engines.simulated.protocol import (
    FOREVER,
    MAX_BODY,
    Ask,
    Refused,
    Reply,
    Usage,
    describe,
    model_info,
    parse_ask,
    parse_body,
    parse_model,
    stamp,
)
from agent_runner.engines.simulated.residency import DEFAULT_KEEP_ALIVE_S, QueueFull, Residency
from agent_runner.engines.simulated.script import Outcome, Script
from agent_runner.engines.simulated.timeline import Timeline
from agent_runner.engines.simulated.tool_calls import Call, as_text, composed_calls
from agent_runner.engines.simulated.work import WorkLaw, tokens

VERSION = "0.13.0-simulated"
GB = 10**9


class _Gone(Exception):
    """The client closed its connection before the answer."""


class SimulatedServer:
    """One GPU with one Ollama on it, at `url` between `start` and `stop`.

    `gpu` is a name in CARDS or a Card; `speed` the simulated seconds per second; `parallel`, `max_loaded`,
    `max_queue` and `keep_alive_s` are OLLAMA_NUM_PARALLEL, _MAX_LOADED_MODELS, _MAX_QUEUE and _KEEP_ALIVE;
    `script` is a Script or the document of one; port 0 takes a free one.
    """

    def __init__(
        self,
        gpu: str | Card = "8GB",
        speed: float = 50.0,
        parallel: int = 8,
        script: Script | Mapping[str, Any] | list[Any] | None = None,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        models: Mapping[str, ModelSpec] = CATALOGUE,
        max_loaded: int = 3,
        max_queue: int = 512,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
        work: WorkLaw | None = None,
    ) -> None:
        if isinstance(gpu, str) and gpu not in CARDS:
            raise ValueError(f"no GPU {gpu!r}: known are {', '.join(CARDS)}")
        if not 0 < speed < math.inf:
            raise ValueError(f"speed {speed!r}: must be above 0")
        if parallel < 1 or max_loaded < 1:
            raise ValueError("parallel and max_loaded must be 1 or more")
        self._card = CARDS[gpu] if isinstance(gpu, str) else gpu
        self._parallel = parallel
        self._rules: dict[str, Any] = {
            "max_loaded": max_loaded,
            "max_queue": max_queue,
            "keep_alive_s": keep_alive_s,
        }
        self._power_on()
        self._speed = speed
        self._address = (host, port)
        self._models = {short_name(name): spec for name, spec in models.items()}
        self._script = script if isinstance(script, Script) else Script.parse(script or [])
        self._work = work or WorkLaw()
        self._timeline: Timeline | None = None
        self._listener: Listener | None = None
        self._serving: asyncio.Task[None] | None = None

    def _power_on(self) -> None:
        """An empty card, and counters from zero."""
        self.gpu = Gpu(self._card, self._parallel)
        self.residency = Residency(self.gpu, **self._rules)
        self.requests = 0
        self.refused = 0

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}"

    @property
    def timeline(self) -> Timeline:
        if self._timeline is None:
            raise RuntimeError("the simulated server is not started")
        return self._timeline

    async def start(self) -> None:
        """Listen; returns when requests can come. Raises OSError when the port is taken."""
        listening = bound(self._address)
        self._address = (self._address[0], listening.getsockname()[1])
        self._power_on()
        self._timeline = Timeline(self.residency, self._speed)
        self._listener = Listener(self._application())
        self._serving = asyncio.create_task(self._listener.serve(sockets=[listening]))
        ready = asyncio.create_task(self._listener.ready.wait())
        await asyncio.wait({self._serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """End at once, breaking what is open: to a client, an engine that was killed."""
        if self._listener is None or self._serving is None:
            return
        self._listener.end()
        await self._serving
        self.timeline.close()
        self._listener = self._serving = None

    async def __aenter__(self) -> SimulatedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def stats(self) -> dict[str, Any]:
        """The card's meter, in simulated seconds; active + loading + idle is `simulated_s`."""
        self.timeline.catch_up()
        return self._snapshot()

    async def until(self, holds: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait until the stats are such that `holds`; for tests and demonstrations."""
        await self.timeline.until(lambda: holds(self._snapshot()))

    def _snapshot(self) -> dict[str, Any]:
        meter, tenants = self.gpu.meter, self.gpu.tenants.values()
        return {
            "gpu": self.gpu.card.name,
            "parallel": self.gpu.slots,
            "speed": self._speed,
            "simulated_s": self.gpu.now,
            "active_s": meter.active_s,
            "loading_s": meter.loading_s,
            "idle_s": meter.idle_s,
            "all_loading_s": meter.all_loading_s,
            "work_s": meter.work_s,
            "loads": sum(meter.loads.values()),
            "loads_by_model": dict(meter.loads),
            "requests": self.requests,
            "refused": self.refused,
            "running": sum(tenant.running for tenant in tenants),
            "waiting": sum(len(tenant.requests) for tenant in tenants),
            "pending": self.residency.pending,
        }

    def _application(self) -> Starlette:
        def route(path: str, method: str, handle: Callable[[Request], Any]) -> Route:
            return Route(path, handle, methods=[method])

        return Starlette(
            routes=[
                route("/", "GET", _root),
                route("/api/version", "GET", _version),
                route("/api/chat", "POST", self._chat),
                route("/api/generate", "POST", self._generate),
                route("/api/ps", "GET", self._ps),
                route("/api/tags", "GET", self._tags),
                route("/api/show", "POST", self._show),
                route("/simulated/stats", "GET", self._stats),
            ],
            exception_handlers={Refused: self._on_refused, _Gone: _on_gone, RecursionError: _on_too_deep},
        )

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, parse_ask(parse_body(await _body(request)), chat=True))

    async def _generate(self, request: Request) -> Response:
        return await self._answer(request, parse_ask(parse_body(await _body(request)), chat=False))

    async def _answer(self, request: Request, ask: Ask) -> Response:
        spec = self._spec(ask.model)
        if ask.empty and ask.keep_alive_s == 0:
            self.timeline.expire(spec.name)
            return _Json(Reply(ask, done_reason="unload").whole())
        if ask.empty:
            await self._use(request, spec, ask, None)
            return _Json(Reply(ask, done_reason="load").whole())
        self.requests += 1
        if ask.tools and not spec.tools:
            raise Refused(400, f"registry.ollama.ai/library/{spec.name} does not support tools")
        name = short_name(spec.name)
        outcome = self._script.outcome(name, f"{ask.system}\n{ask.prompt}", f"{ask.system}\n{ask.opening}")
        if outcome.status is not None:
            raise Refused(outcome.status, outcome.message)
        reply = await self._compute(request, spec, ask, outcome)
        lines = [json.dumps(chunk) + "\n" for chunk in (reply.chunks() if ask.stream else [reply.whole()])]
        if outcome.close:
            return _Cut("".join(lines))
        if ask.stream:
            return StreamingResponse(_each(lines), media_type="application/x-ndjson")
        return Response(lines[0], media_type="application/json")

    async def _compute(self, request: Request, spec: ModelSpec, ask: Ask, outcome: Outcome) -> Reply:
        """The reply to a prompt, after its work was done on the GPU."""
        calls = _calls(spec, ask, outcome)
        text = outcome.text if calls else outcome.answer
        if text is None:
            text = answer(spec.name, f"{ask.system}\n{ask.prompt}".strip(), ask.schema, str(ask.seed or ""))
        reason = "stop"
        if ask.num_predict is not None and 0 <= ask.num_predict < tokens(text):
            text, reason = text[: ask.num_predict * 4], "length"
        read = tokens(ask.system) + tokens(ask.prompt) + tokens(as_text(ask.tools)) + 8
        prompt_tokens = min(read, ask.load_options.num_ctx)
        written = tokens(text) + tokens(as_text(calls))
        draw = draw_for("work", spec.name, ask.prompt, text)
        prompt_s, completion_s = self._work.parts(spec, prompt_tokens, written, draw)
        share = prompt_s / (prompt_s + completion_s) if prompt_s else 0.0
        work_s = outcome.delay_s + (prompt_s + completion_s if outcome.work_s is None else outcome.work_s)
        demand = await self._use(request, spec, ask, math.inf if outcome.hang else work_s)
        computed_ns = self.timeline.wall_ns(demand.ended_at - demand.granted_at)
        usage = Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=written,
            load_ns=self.timeline.wall_ns(demand.granted_at - demand.arrived_at),
            total_ns=self.timeline.wall_ns(demand.ended_at - demand.arrived_at),
            prompt_ns=round(computed_ns * share),
            completion_ns=round(computed_ns * (1 - share)),
        )
        return Reply(ask, text, calls, outcome.thinking, reason, usage)

    async def _use(self, request: Request, spec: ModelSpec, ask: Ask, work_s: float | None) -> Demand:
        """Have the model loaded and the work done, for as long as the client is there."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_ended(_: Demand) -> None:
            if not ended.done():
                ended.set_result(None)

        demand = Demand(spec, ask.load_options, work_s, ask.keep_alive_s, on_ended)
        try:
            self.timeline.submit(demand)
        except QueueFull:
            raise Refused(503, "server busy, please try again.  maximum pending requests exceeded") from None
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not ended.done():
                self.timeline.cancel(demand)
        if not ended.done():
            raise _Gone
        return demand

    def _spec(self, model: str) -> ModelSpec:
        spec = self._models.get(short_name(model))
        if spec is None:
            raise Refused(404, f"model '{model[:200]}' not found")
        return spec

    async def _ps(self, _: Request) -> Response:
        self.timeline.catch_up()
        return _Json({"models": [self._held(tenant) for tenant in self.gpu.tenants.values()]})

    def _held(self, tenant: Tenant) -> dict[str, Any]:
        left_s = min(tenant.expires_at - self.gpu.now, tenant.keep_alive_s)
        left = FOREVER if left_s == math.inf else min(FOREVER, timedelta(seconds=left_s / self._speed))
        return {
            **describe(tenant.spec),
            "size": round(tenant.size_gb * GB),
            "size_vram": round(tenant.vram_gb * GB),
            "expires_at": stamp(datetime.now(UTC) + left),
            "context_length": tenant.options.num_ctx,
        }

    async def _tags(self, _: Request) -> Response:
        listed = [
            {**describe(spec), "size": round(spec.weights_gb * GB), "modified_at": stamp(datetime.now(UTC))}
            for spec in self._models.values()
        ]
        return _Json({"models": listed})

    async def _show(self, request: Request) -> Response:
        spec = self._spec(parse_model(parse_body(await _body(request))))
        able = ["completion", "tools"] if spec.tools else ["completion"]
        return _Json({"details": describe(spec)["details"], "model_info": model_info(spec), "capabilities": able})

    async def _stats(self, _: Request) -> Response:
        return _Json(self.stats())

    async def _on_refused(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        self.refused += 1
        self.timeline.catch_up()
        return _Json({"error": error.message}, error.status)


def _calls(spec: ModelSpec, ask: Ask, outcome: Outcome) -> tuple[Call, ...]:
    """The tools that the model calls now: those of the script, else some of those offered, until it has results."""
    if not ask.tools or ask.schema is not None:
        return ()
    if outcome.calls or outcome.answer is not None or ask.has_results:
        return outcome.calls
    return composed_calls(spec.name, ask.prompt, ask.tools, str(ask.seed or ""))


class _Json(Response):
    """JSON in ASCII, so that no text of a request (a lone surrogate) can break the answer to it."""

    media_type = "application/json"

    def __init__(self, body: Mapping[str, Any], status: int = 200) -> None:
        super().__init__(json.dumps(body), status)


class _Cut(Response):
    """Half of a body, then the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        half = self.body[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": bytes(half), "more_body": True})


async def _root(_: Request) -> Response:
    return PlainTextResponse("Ollama is running")


async def _version(_: Request) -> Response:
    return _Json({"version": VERSION})


async def _on_gone(_: Request, __: Exception) -> Response:
    return Response(status_code=499)


async def _on_too_deep(_: Request, __: Exception) -> Response:
    return _Json({"error": "nested too deeply"}, 400)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(413, "http: request body too large")
    return bytes(body)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _each(lines: list[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line


def serve(*, ready: Callable[[str], None] | None = None, **server: Any) -> None:
    """Run a SimulatedServer (its arguments) until SIGINT or SIGTERM; `ready` is told the URL."""

    async def run() -> None:
        ending = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ending.set)
        async with SimulatedServer(**server) as running:
            if ready is not None:
                ready(running.url)
            await ending.wait()

    asyncio.run(run())
