"""Past states: a run as it was after any of its events."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.events import MAX_SEQ
from orchestrator_api.openapi import answers
from orchestrator_api.problems import not_found
from orchestrator_api.requests import RunId
from orchestrator_api.run_states import whole
from orchestrator_api.services import Backend
from schemas.run_state import RunState
from schemas.state_view import shown_state

router = APIRouter(tags=["events"])


class StateFilter(QueryShape):
    """GET /runs/{run_id}/state"""

    at: int | None = Query(None, ge=1, le=MAX_SEQ, description="number of the event; the last by default")


@router.get(
    "/runs/{run_id}/state",
    summary="The run as it was after any of its events",
    responses=answers({"run_id": "run_0193f2a4", "seq": 3, "status": "RUNNING", "outputs": {}}, 404, 422),
)
async def get_state(run_id: RunId, query: Annotated[StateFilter, Query()], backend: Backend) -> Response:
    """Folded from its events: what GET /runs/{run_id} answered then, its large values put in."""
    state = await backend.log.state(run_id, query.at)
    if state is None:
        raise not_found("run", run_id)
    if query.at is not None and state.seq < query.at:
        raise not_found(f"event {query.at} of the run", run_id)
    packed = await backend.states.packed(run_id, _values(state))
    return JsonResponse(shown_state(state, lambda value: whole(value, packed)))


def _values(state: RunState) -> list[object]:
    return [state.input, *state.outputs.get("", {}).values()]
