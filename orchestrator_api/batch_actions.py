"""Control of a batch: cancel, pause, resume, retry. What was asked, by whom and why is kept with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from history.batch_control import Action, BatchBusy
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.control import CANCEL, PAUSE, RESUME, Step, read_action
from orchestrator_api.openapi import answers, optional_body
from orchestrator_api.problems import Refusal, not_found
from orchestrator_api.requests import ActionRequest, BatchId
from orchestrator_api.retries import AT_ONCE, retry_runs
from orchestrator_api.services import Backend, By, Services

router = APIRouter(tags=["control"])


async def _act(
    backend: Services, batch_id: str, action: Action, event: Mapping[str, Any], step: Step, done: str
) -> int:
    """Change the batch, then its live runs; of how many `step` answered `done`."""
    try:
        async with backend.history.batch_control.alone(batch_id):
            number = await _change(backend, batch_id, action, event)
            changed = await _change_runs(backend, batch_id, event, step, done)
            if number is not None:
                counts = {"cancelled" if action == "cancel" else done: changed}
                await backend.history.batch_control.finish(number, counts, changed)
            return changed
    except BatchBusy:
        raise busy() from None


async def _change(backend: Services, batch_id: str, action: Action, event: Mapping[str, Any]) -> int | None:
    """The number of the action; None for a cancelled batch that is cancelled again. Raises Refusal: 404, or 409 where
    the batch's status does not allow it."""
    number = await backend.history.batch_control.act(batch_id, action, event["by"], event.get("reason"))
    if number is not None:
        return number
    found = await backend.history.batches.get(batch_id)
    if found is None:
        raise not_found("batch", batch_id)
    if not (action == "cancel" and found["status"] == "CANCELLED"):
        detail = f"The batch is {found['status']}: {action} is not possible."
        raise Refusal(409, detail, batch_status=found["status"])
    return None


def busy() -> Refusal:
    return Refusal(409, "Another action on the batch is under way; ask again.", headers={"Retry-After": "1"})


async def _change_runs(backend: Services, batch_id: str, event: Mapping[str, Any], step: Step, done: str) -> int:
    """All live runs, also those that are admitted meanwhile."""
    changed, seen = 0, set[str]()
    while fresh := [run for run in await backend.history.batch_control.live_runs(batch_id) if run not in seen]:
        seen.update(fresh)
        for first in range(0, len(fresh), AT_ONCE):
            slice_ = fresh[first : first + AT_ONCE]
            found = await asyncio.gather(*(step(run_id, event) for run_id in slice_))
            changed += sum(answer[0] == done for answer in found)
    return changed


@router.post(
    "/batches/{batch_id}/cancel",
    summary="End a batch: what waits is withdrawn, what runs is cancelled",
    openapi_extra=optional_body(ActionRequest, {"reason": "wrong model"}),
    responses=answers({"batch_id": "batch_0193f2a4", "status": "CANCELLED", "cancelled": 12}, 404, 409, 422),
)
async def cancel_batch(batch_id: BatchId, request: Request, backend: Backend, by: By) -> Response:
    """`cancelled`: live runs that this call ended. It may be called again where it was cut off."""

    async def cancel(run_id: str, event: Mapping[str, Any]) -> list[str]:
        return await backend.store.end_run(run_id, CANCEL.status, event)

    cancelled = await _act(backend, batch_id, "cancel", await read_action(request, by), cancel, "ended")
    return JsonResponse({"batch_id": batch_id, "status": CANCEL.status, "cancelled": cancelled})


@router.post(
    "/batches/{batch_id}/pause",
    summary="Admit no more items, and pause the runs",
    openapi_extra=optional_body(ActionRequest, {"reason": "the card is needed"}),
    responses=answers({"batch_id": "batch_0193f2a4", "status": "PAUSED", "paused": 12}, 404, 409, 422),
)
async def pause_batch(batch_id: BatchId, request: Request, backend: Backend, by: By) -> Response:
    """`paused`: runs that this call paused. One that is resumed by itself then goes on. It may be called again where it
    was cut off."""
    paused = await _act(backend, batch_id, "pause", await read_action(request, by), backend.store.pause_run, "paused")
    return JsonResponse({"batch_id": batch_id, "status": PAUSE.status, "paused": paused})


@router.post(
    "/batches/{batch_id}/resume",
    summary="Let a paused batch go on",
    openapi_extra=optional_body(ActionRequest, {}),
    responses=answers({"batch_id": "batch_0193f2a4", "status": "RUNNING", "resumed": 12}, 404, 409, 422),
)
async def resume_batch(batch_id: BatchId, request: Request, backend: Backend, by: By) -> Response:
    """All its paused runs go on; `resumed` counts them."""
    resumed = await _act(
        backend, batch_id, "resume", await read_action(request, by), backend.store.resume_run, "resumed"
    )
    return JsonResponse({"batch_id": batch_id, "status": RESUME.status, "resumed": resumed})


@router.post(
    "/batches/{batch_id}/retry",
    summary="Let the failed runs of a batch go on",
    openapi_extra=optional_body(ActionRequest, {"reason": "the model is there now"}),
    responses=answers({"batch_id": "batch_0193f2a4", "status": "RUNNING", "retried": 12, "gone": 0}, 404, 409, 422),
)
async def retry_batch(batch_id: BatchId, request: Request, backend: Backend, by: By) -> Response:
    """`gone`: failed runs that ended too long ago to be rebuilt. A batch that had ended goes on, as soon as that is
    recorded."""
    event = await read_action(request, by)
    control = backend.history.batch_control
    try:
        async with control.alone(batch_id):
            number = await _change(backend, batch_id, "retry", event)
            outcomes = await retry_runs(backend, await control.failed_runs(batch_id), event)
            if number is not None:
                counts = {str(name): count for name, count in outcomes.items()}
                await control.finish(number, counts, outcomes["retried"])
    except BatchBusy:
        raise busy() from None
    found = await backend.history.batches.get(batch_id)
    status = "RUNNING" if outcomes["retried"] or found is None else found["status"]
    return JsonResponse(
        {"batch_id": batch_id, "status": status, "retried": outcomes["retried"], "gone": outcomes["gone"]}
    )
