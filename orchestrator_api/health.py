"""Health: whether this process lives, whether it can work, and how each part is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from psycopg import OperationalError
from redis.exceptions import RedisError
from starlette.responses import Response

from history.unfinished import Unfinished
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.heartbeats import runners
from orchestrator_api.openapi import answers
from orchestrator_api.problems import unavailable
from orchestrator_api.services import Backend, Services

router = APIRouter(tags=["health"])

LAG_S = 30.0
"""Age of the oldest event that is not recorded, over which the recorder is said to be behind."""
PATIENCE_S = 2.0
"""With a Postgres that neither answers nor refuses: who asks has a timeout too."""
LOOKED_FOR = 1_000
"""Of the oldest unfinished runs: whether Redis has them."""


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
    if redis["status"] == components["postgres"]["status"] == "ok" and (lost := await _lost(backend)):
        redis |= {"status": "degraded", "lost_runs": lost, "reason": "`pavane recover` lets lost runs go on"}
    if redis["status"] != "down":
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
    question = asyncio.ensure_future(backend.history.batches.list(limit=1))
    done, _ = await asyncio.wait([question], timeout=PATIENCE_S)
    if not done:
        question.cancel()
        return {"status": "down", "reason": f"no answer within {PATIENCE_S:g} s"}
    try:
        question.result()
    except OperationalError as error:
        return {"status": "down", "reason": type(error).__name__}
    return {"status": "ok"}


async def _lost(backend: Services) -> int:
    """How many of the oldest runs that have not ended, as far as is recorded, Redis does not have."""
    if backend.options.retention_ms < LAG_S * 1_000:
        return 0  # runs that have just ended would look like it
    run_ids = await Unfinished(backend.history.pool).oldest(LOOKED_FOR)
    async with backend.store.redis.pipeline(transaction=False) as pipe:
        for run_id in run_ids:
            pipe.exists(backend.store.keys.run(run_id))
        present: list[int] = await pipe.execute()
    return len(run_ids) - sum(present)


async def _recorder(backend: Services) -> dict[str, Any]:
    """How old the oldest event is that still waits in the stream."""
    age_s = await event_age_s(backend, await backend.store.redis.xrange(backend.store.keys.events, count=1))
    return {"status": "ok" if age_s < LAG_S else "degraded", "lag_s": round(age_s, 1)}


async def event_age_s(backend: Services, oldest: Sequence[tuple[bytes, Any]]) -> float:
    """How far the recorder is behind: the age of the stream's oldest entry, which is given; 0 for none."""
    if not oldest:
        return 0.0
    written = int(oldest[0][0].decode().partition("-")[0])
    return max(0, await backend.store.now() - written) / 1_000


async def _runners(backend: Services) -> dict[str, Any]:
    found = await runners(backend.store)
    lost = [runner["runner_id"] for runner in found if runner["state"] == "lost"]
    held = [runner["runner_id"] for runner in found if runner["state"] == "held"]
    alive = len(found) - len(lost)
    return {"status": "ok" if alive and not held else "degraded", "alive": alive, "held": held, "lost": lost}
