"""Models: what waits for each, who holds it, and whether its stream is held."""

from __future__ import annotations

import time
from typing import Any

import orjson
from fastapi import APIRouter
from redis.exceptions import ResponseError
from starlette.responses import Response

from lua.run_store import RunStore
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.model_rates import ModelRates
from orchestrator_api.openapi import answers
from orchestrator_api.runners import live_runners
from orchestrator_api.services import Backend
from schemas.keys import RUNNERS_GROUP, agent_stream

router = APIRouter(tags=["models"])

LANES = ("", ":interactive")


@router.get(
    "/models",
    summary="Every model: what waits, who holds it, how fast it goes",
    responses=answers(
        {"models": [{"model": "gemma3:4b", "queued": 90, "running": 8, "oldest_s": 12.5, "rate_per_min": 210.0,
                     "holders": ["gpu-1"], "breaker": None, "loads": 3}]}
    ),
)  # fmt: skip
async def list_models(backend: Backend) -> Response:
    """`oldest_s`: age of the task that waits longest. `breaker`: why the stream is held, null where it is not.
    `rate_per_min` is null until two looks lie far enough apart."""
    return JsonResponse({"models": await models(backend.store, backend.rates)})


async def models(store: RunStore, rates: ModelRates) -> list[dict[str, Any]]:
    prefix = agent_stream("")
    streams = [name.decode() for name in await store.redis.smembers(store.keys.streams)]
    pools = sorted({name[len(prefix) :].removesuffix(LANES[1]) for name in streams if name.startswith(prefix)})
    runners = await live_runners(store)
    now = await store.now()
    return [await _model(store, rates, pool, runners, now) for pool in pools]


async def _model(
    store: RunStore, rates: ModelRates, pool: str, runners: list[dict[str, Any]], now: int
) -> dict[str, Any]:
    fields = {k.decode(): v.decode() for k, v in (await store.redis.hgetall(store.keys.model(pool))).items()}
    holders = [r["runner_id"] for r in runners if pool == r["focus_model"] or pool in r["residents"]]
    breaker = orjson.loads(fields["breaker"]) if "breaker" in fields else None
    if breaker and breaker.get("runner") not in {r["runner_id"] for r in runners}:
        breaker = None  # left behind by a runner that was killed
    oldest = await _oldest_ms(store, pool)
    return {
        "model": pool,
        "queued": max(0, int(fields.get("queued", 0))),
        "running": max(0, int(fields.get("running", 0))),
        "oldest_s": None if oldest is None else round(max(0, now - oldest) / 1_000, 1),
        "rate_per_min": rates.rate(pool, int(fields.get("executed", 0)), time.monotonic()),
        "holders": holders,
        "breaker": breaker,
        "loads": int(fields.get("loads", 0)),
    }


async def _oldest_ms(store: RunStore, pool: str) -> int | None:
    """When the oldest task that nobody has claimed came in."""
    found = []
    for lane in LANES:
        key = store.keys.stream(agent_stream(pool) + lane)
        last = "0-0"
        try:
            groups = await store.redis.xinfo_groups(key)
            last = next((g["last-delivered-id"].decode() for g in groups if g["name"] == RUNNERS_GROUP.encode()), last)
        except ResponseError:  # no stream yet
            continue
        entries = await store.redis.xrange(key, f"({last}" if last != "0-0" else "-", count=1)
        found += [int(entry.decode().partition("-")[0]) for entry, _ in entries]
    return min(found, default=None)
