"""Control of a run: cancel, pause, resume, retry. Each is an event of the run that says who asked, and why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from lua.patching import LIVE
from orchestrator_api.bodies import JsonResponse, read_request
from orchestrator_api.openapi import answers, optional_body
from orchestrator_api.problems import Refusal, lost, not_found
from orchestrator_api.requests import ActionRequest, RetryRequest, RunId
from orchestrator_api.retries import Retried, retry_run
from orchestrator_api.services import Backend, By, Services

router = APIRouter(tags=["control"])

ACTION_BYTES = 10_000

Asked = Mapping[str, Any]
"""Body of an event: who asked, and why."""
Step = Callable[[str, Asked], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Action:
    """What `store.<script>_run` answers, and the status that it leads to."""

    status: str
    done: tuple[str, ...]


CANCEL = Action("CANCELLED", ("ended",))
PAUSE = Action("PAUSED", ("paused", "already"))
RESUME = Action("RUNNING", ("resumed", "already"))


async def read_action(request: Request, by: str) -> Asked:
    """What a request for an action says, as the body of its event."""
    return _event(await read_request(request, ActionRequest, "action_bytes", ACTION_BYTES, optional=True), by)


def _event(asked: ActionRequest, by: str) -> Asked:
    return {name: text for name, text in {"by": by or "api", "reason": asked.reason}.items() if text}


async def _act(backend: Services, run_id: str, action: Action, step: Step, event: Asked) -> Response:
    answer, *rest = await step(run_id, event)
    status = rest[0] if rest else await backend.states.status(run_id)
    is_lost = not rest and status in LIVE  # RUNNING as it should be, and not there
    if answer not in action.done and (is_lost or status != action.status):
        raise _refused(run_id, status)
    return JsonResponse({"run_id": run_id, "status": action.status})


def _refused(run_id: str, status: str | None) -> Refusal:
    if status is None:
        return not_found("run", run_id)
    if status in LIVE:
        return lost(status)
    return Refusal(409, f"The run has ended already: {status}.", run_status=status)


@router.post(
    "/runs/{run_id}/cancel",
    summary="End a run now",
    openapi_extra=optional_body(ActionRequest, {"reason": "wrong input"}),
    responses=answers({"run_id": "run_0193f2a4", "status": "CANCELLED"}, 404, 409, 422),
)
async def cancel_run(run_id: RunId, request: Request, backend: Backend, by: By) -> Response:
    """Queued tasks are withdrawn, what runs is ignored when it comes in. Cancelling a cancelled run changes nothing."""

    async def cancel(run_id: str, event: Asked) -> list[str]:
        return await backend.store.end_run(run_id, "CANCELLED", event)

    return await _act(backend, run_id, CANCEL, cancel, await read_action(request, by))


@router.post(
    "/runs/{run_id}/pause",
    summary="Let a run start nothing more",
    openapi_extra=optional_body(ActionRequest, {"reason": "the model is being changed"}),
    responses=answers({"run_id": "run_0193f2a4", "status": "PAUSED"}, 404, 409, 422),
)
async def pause_run(run_id: RunId, request: Request, backend: Backend, by: By) -> Response:
    """Tasks that run are finished, and what follows them is parked; so are its children. Its clocks stand still.
    Pausing a paused run changes nothing."""
    return await _act(backend, run_id, PAUSE, backend.store.pause_run, await read_action(request, by))


@router.post(
    "/runs/{run_id}/resume",
    summary="Let a paused run go on",
    openapi_extra=optional_body(ActionRequest, {}),
    responses=answers({"run_id": "run_0193f2a4", "status": "RUNNING"}, 404, 409, 422),
)
async def resume_run(run_id: RunId, request: Request, backend: Backend, by: By) -> Response:
    """What was parked is emitted. Resuming a run that goes on changes nothing."""
    return await _act(backend, run_id, RESUME, backend.store.resume_run, await read_action(request, by))


@router.post(
    "/runs/{run_id}/retry",
    summary="Let a failed run go on where it failed",
    openapi_extra=optional_body(RetryRequest, {"reason": "the model is there now"}),
    responses=answers({"run_id": "run_0193f2a4", "status": "RUNNING"}, 404, 409, 422),
)
async def retry(run_id: RunId, request: Request, backend: Backend, by: By) -> Response:
    """The task that failed is tried again, with all its attempts, and what it held up goes on. Its dead letter goes. A
    run that was retried and goes on: 200 again. With `paused` it goes on when it is resumed: it can be patched
    before."""
    asked = await read_request(request, RetryRequest, "action_bytes", ACTION_BYTES, optional=True)
    raise_not_retried(run_id, answer := await retry_run(backend, run_id, _event(asked, by), paused=asked.paused))
    return JsonResponse({"run_id": run_id, "status": answer.status})


def raise_not_retried(run_id: str, answer: Retried) -> None:
    """Raises Refusal unless the run goes on."""
    match answer.outcome:
        case "unknown":
            raise not_found("run", run_id)
        case "gone":
            detail = (
                f"The run, which is {answer.status}, ended long ago: its events, its workflow or a large value of it "
                "are not there any more. Start it anew."
            )
        case "child":
            detail = f"The run was called by {answer.parent}: retry that one."
        case "refused":
            detail = f"Only a run that has failed is retried, and this one is {answer.status}."
        case _:
            return
    raise Refusal(409, detail, run_status=answer.status)
