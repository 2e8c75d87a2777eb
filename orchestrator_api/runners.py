"""Runners: their heartbeats, as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from lua.run_store import RunStore
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.openapi import answers
from orchestrator_api.services import Backend

router = APIRouter(tags=["runners"])

_NUMBERS = ("slots", "running", "loads", "executed", "pid", "started_at", "held_since")
_SHARES = ("active_share", "loading_share", "idle_share")


@router.get(
    "/runners",
    summary="Every runner: its GPU, its model, what it does, since when it was not heard of",
    responses=answers(
        {"runners": [{"runner_id": "gpu-1", "gpu": "8GB", "engine": "ollama", "state": "working",
                      "focus_model": "gemma3:4b", "residents": ["gemma3:4b"], "slots": 8, "running": 8, "loads": 4,
                      "active_share": 0.93, "loading_share": 0.03, "idle_share": 0.04, "heartbeat_age_s": 0.8}]}
    ),
)  # fmt: skip
async def list_runners(backend: Backend) -> Response:
    """Shares are of the runner's life, 0 to 1. A runner that was not heard of for a while has the state `lost`."""
    return JsonResponse({"runners": await runners(backend.store)})


async def runners(store: RunStore) -> list[dict[str, Any]]:
    """All that were heard of within a day, dead ones too."""
    now = await store.now()
    known = await store.redis.zrange(store.keys.runners, 0, -1, withscores=True)
    found = []
    for name, beat in known:
        runner_id = name.decode()
        fields = await store.redis.hgetall(store.keys.runner(runner_id))
        found.append(_runner(runner_id, {k.decode(): v.decode() for k, v in fields.items()}, now - int(beat)))
    return sorted(found, key=lambda runner: runner["runner_id"])


async def live_runners(store: RunStore) -> list[dict[str, Any]]:
    return [runner for runner in await runners(store) if runner["state"] != "lost"]


def _runner(runner_id: str, fields: Mapping[str, str], age_ms: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "runner_id": runner_id,
        "gpu": fields.get("gpu") or None,
        "engine": fields.get("engine"),
        "url": fields.get("url"),
        "types": fields.get("types", "").split(),
        "state": fields.get("state", "lost"),
        "focus_model": fields.get("focus_model") or None,
        "residents": fields.get("residents", "").split(),
        "loading": fields.get("loading") or None,
        "held": fields.get("held"),
        "host": fields.get("host"),
        "heartbeat_age_s": round(max(0, age_ms) / 1_000, 1),
    }
    shown |= {name: int(fields[name]) if fields.get(name) else None for name in _NUMBERS}
    return shown | {name: float(fields[name]) if fields.get(name) else None for name in _SHARES}
