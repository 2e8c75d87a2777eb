"""Models: what waits for each, who holds it, how fast it goes, and whether its stream is held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from redis.exceptions import ResponseError
from starlette.responses import Response

from lua.run_store import RunStore
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.heartbeats import live_runners
from orchestrator_api.model_rates import ModelRates
from orchestrator_api.openapi import answers
from orchestrator_api.services import Backend
from schemas.keys import FAST_LANE, RUNNERS_GROUP, agent_stream, pool_of

router = APIRouter(tags=["models"])

BREAKER = "breaker|"
"""Fields of `model:<pool>` that begin so hold why a runner's breaker is open; the runner's id follows."""
_EXAMPLE = {
    "model": "gemma3:4b", "queued": 90, "interactive": 0, "running": 8, "oldest_s": 12.5, "rate_per_min": 210.0,
    "holders": ["gpu-1"], "breaker": None, "breakers": [], "loads": 3,
    "measured": {"8GB": {"rate": 0.62, "load_s": 3.1}},
}  # fmt: skip


@router.get(
    "/models",
    summary="Every model: what waits, who holds it, how fast it goes",
    responses=answers({"models": [_EXAMPLE]}),
)
async def list_models(backend: Backend) -> Response:
    """`oldest_s`: age of the task that waits longest. `breaker`: why a runner holds the stream, null where none does.
    `rate_per_min` is null until two looks lie far enough apart."""
    return JsonResponse({"models": await models(backend.store, backend.rates)})


async def models(store: RunStore, rates: ModelRates) -> list[dict[str, Any]]:
    """However many there are, in a handful of round trips, and one more for each kind of GPU."""
    live, (streams, backlog) = await asyncio.gather(live_runners(store), _streams(store))
    pools = sorted({pool_of(name) for name in streams} - {""})
    kinds = sorted({runner["kind"] for runner in live if runner["kind"]})
    counts, heads = await asyncio.gather(_counts(store, pools), _heads(store, backlog))
    measures = dict(zip(kinds, await asyncio.gather(*map(store.measures, kinds)), strict=True))
    now = await store.now()
    return [
        {
            "model": pool,
            "queued": max(0, int(fields.get("queued", 0))),
            "interactive": backlog.get(pool + FAST_LANE, 0),
            "running": max(0, int(fields.get("running", 0))),
            "oldest_s": round(max(0, now - heads[pool]) / 1_000, 1) if pool in heads else None,
            "rate_per_min": rates.rate(pool, int(fields.get("executed", 0)), time.monotonic()),
            "holders": [runner["runner_id"] for runner in live if pool in _held_by(runner)],
            "breaker": next(iter(breakers := _breakers(fields, live)), None),
            "breakers": breakers,
            "loads": int(fields.get("loads", 0)),
            "measured": {kind: _rounded(known[pool]) for kind, known in measures.items() if pool in known},
        }
        for pool, fields in zip(pools, counts, strict=True)
    ]


async def _streams(store: RunStore) -> tuple[list[str], dict[str, int]]:
    """Every task stream by name; and how many tasks are queued in each lane of a model that has any."""
    pipe = store.redis.pipeline(transaction=False)
    pipe.smembers(store.keys.streams)
    pipe.hgetall(store.keys.backlog)
    streams, backlog = await pipe.execute()
    return [name.decode() for name in streams], {
        lane.decode(): int(queued) for lane, queued in backlog.items() if queued.isdigit()
    }


async def _counts(store: RunStore, pools: Sequence[str]) -> list[dict[str, str]]:
    pipe = store.redis.pipeline(transaction=False)
    for pool in pools:
        pipe.hgetall(store.keys.model(pool))
    return [{k.decode(): v.decode(errors="replace") for k, v in found.items()} for found in await pipe.execute()]


async def _heads(store: RunStore, lanes: Iterable[str]) -> dict[str, int]:
    """When the oldest task of each model that nobody has claimed came in, ms."""
    keys = {lane: store.keys.stream(agent_stream(lane)) for lane in lanes}
    pipe = store.redis.pipeline(transaction=False)
    for key in keys.values():
        pipe.xinfo_groups(key)
    groups = await pipe.execute(raise_on_error=False)
    for key, found in zip(keys.values(), groups, strict=True):
        pipe.xrange(key, f"({last}" if (last := _last_delivered(found)) != "0-0" else "-", count=1)
    heads: dict[str, int] = {}
    for lane, entries in zip(keys, await pipe.execute(), strict=True):
        pool = lane.removesuffix(FAST_LANE)
        for entry, _ in entries:
            at = int(entry.partition(b"-")[0])
            heads[pool] = min(at, heads.get(pool, at))
    return heads


def _last_delivered(groups: Sequence[Mapping[str, Any]] | ResponseError) -> str:
    """How far the runners are; the beginning where there is no stream or no group yet."""
    if isinstance(groups, ResponseError):
        return "0-0"
    group = RUNNERS_GROUP.encode()
    return next((found["last-delivered-id"].decode() for found in groups if found["name"] == group), "0-0")


def _held_by(runner: Mapping[str, Any]) -> set[str]:
    """The pools that a runner holds, loads or is about to load."""
    return {
        runner["focus_model"],
        runner["target"],
        *runner["residents"],
        *(held["model"] for held in runner["models"]),
    }


def _rounded(measured: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in measured.items()}


def _breakers(fields: Mapping[str, str], live: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The open breakers of a model, the oldest first. A runner that was killed may have left one behind."""
    alive = {runner["runner_id"] for runner in live}
    found = [
        breaker
        for name, text in fields.items()
        if name.startswith(BREAKER) and name.removeprefix(BREAKER) in alive and (breaker := _read(text))
    ]
    return sorted(found, key=lambda breaker: int(breaker["since"]))


def _read(text: str) -> dict[str, Any] | None:
    try:
        breaker: dict[str, Any] = orjson.loads(text)
        return breaker if int(breaker["since"]) else None
    except (ValueError, TypeError, KeyError):
        return None
