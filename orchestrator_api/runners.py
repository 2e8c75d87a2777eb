"""Runners: the route that shows them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse
from orchestrator_api.heartbeats import runners
from orchestrator_api.openapi import answers
from orchestrator_api.services import Backend

router = APIRouter(tags=["runners"])

_EXAMPLE = {
    "runner_id": "gpu-1", "gpu": "gpu-1", "kind": "8GB", "memory": 7_400_000_000, "engine": "ollama",
    "state": "working", "focus_model": "gemma3:4b", "target": None, "residents": ["gemma3:4b"],
    "models": [{"model": "gemma3:4b", "state": "ready", "running": 8, "slots": 8, "memory": 4_800_000_000, "loads": 2}],
    "slots": 8, "running": 8, "loads": 4, "active_share": 0.93, "loading_share": 0.03, "idle_share": 0.04,
    "reason": "the largest share", "held": None, "heartbeat_age_s": 0.8,
}  # fmt: skip


@router.get(
    "/runners",
    summary="Every runner: its GPU, its models, what it does, since when it was not heard of",
    responses=answers({"runners": [_EXAMPLE]}),
)
async def list_runners(backend: Backend) -> Response:
    """Shares are of the runner's life, 0 to 1. A runner that was not heard of for a while has the state `lost`."""
    return JsonResponse({"runners": await runners(backend.store)})
