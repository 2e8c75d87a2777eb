"""Health: whether this process lives, whether it can work, and how each part is."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter
from psycopg import OperationalError
from redis.exceptions import RedisError
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse
from orchestrator_api.heartbeats import runners
from orchestrator_api.openapi import answers
from orchestrator_api.problems import unavailable
from orchestrator_api.services import Backend, Services

router = APIRouter(tags=["health"])

LAG_S = 30.0
"""Age of the oldest event that is not recorded, over which the recorder is said to be behind."""


@router.get("/healthz", summary="This process lives", responses=answers({"status": "ok"}))
async def healthz() -> Response:
    return JsonResponse({"status": "ok"})


@router.get("/readyz", summary="This process can serve: Redis answers", responses=answers({"status": "ready"}))
async def readyz(backend: Backend) -> Response:
    try:
        await backend.store.redis.ping()
    except (RedisError, OSError):
        raise unavailable("Redis does not answer.", backend.options.retry_after_s) from None
    return JsonResponse({"status": "ready"})


@router.get(
    "/health",
    summary="How every part is: Redis, Postgres, recorder, runners, what waits",
    responses=answers({"status": "ok", "components": {"redis": {"status": "ok"}, "postgres": {"status": "ok"}}}),
)
async def health(backend: Backend) -> Response:
    """`status` is the worst of the components': ok, degraded or down. Always 200, so that it can be read."""
    redis = await _redis(backend)
    components = {"redis": redis, "postgres": await _postgres(backend)}
    if redis["status"] == "ok":
        components |= {"recorder": await _recorder(backend), "runners": await _runners(backend)}
    worst = "down" if redis["status"] == "down" else "degraded"
    ok = all(component["status"] == "ok" for component in components.values())
    return JsonResponse({"status": "ok" if ok else worst, "components": components})


async def _redis(backend: Services) -> dict[str, Any]:
    keys = backend.store.keys
    try:
        async with backend.store.redis.pipeline(transaction=False) as pipe:
            pipe.llen(keys.signals)
            pipe.zcard(keys.live_runs)
            pipe.xlen(keys.events)
            pipe.xlen(keys.dead_letters)
            signals, runs, events, letters = await pipe.execute()
    except (RedisError, OSError) as error:
        return {"status": "down", "reason": type(error).__name__}
    full = events >= backend.options.events_limit
    return {
        "status": "degraded" if full else "ok",
        "signals_waiting": signals,
        "live_runs": runs,
        "events_waiting": events,
        "dead_letters": letters,
    }


async def _postgres(backend: Services) -> dict[str, Any]:
    return await _attempt(backend.history.batches.list(limit=1))


async def _attempt(question: Awaitable[Any]) -> dict[str, Any]:
    try:
        await question
    except OperationalError as error:
        return {"status": "down", "reason": type(error).__name__}
    return {"status": "ok"}


async def _recorder(backend: Services) -> dict[str, Any]:
    """How old the oldest event is that still waits in the stream."""
    entries = await backend.store.redis.xrange(backend.store.keys.events, count=1)
    age_s = 0.0
    if entries:
        written = int(entries[0][0].decode().partition("-")[0])
        age_s = max(0, await backend.store.now() - written) / 1_000
    return {"status": "ok" if age_s < LAG_S else "degraded", "lag_s": round(age_s, 1)}


async def _runners(backend: Services) -> dict[str, Any]:
    found = await runners(backend.store)
    lost = [runner["runner_id"] for runner in found if runner["state"] == "lost"]
    held = [runner["runner_id"] for runner in found if runner["state"] == "held"]
    alive = len(found) - len(lost)
    return {"status": "ok" if alive and not held else "degraded", "alive": alive, "held": held, "lost": lost}
