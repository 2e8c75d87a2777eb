"""Dead letters: what was given up, with its reason; retried, or dropped with another one."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, RequestShape, read_request
from orchestrator_api.control import ACTION_BYTES, raise_not_retried, read_action
from orchestrator_api.failed_input import failed_input
from orchestrator_api.letters import Letter, LetterFilter, Letters
from orchestrator_api.openapi import answers, body, optional_body
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import ActionRequest, DropRequest, LetterId, Line, Name, WorkflowName
from orchestrator_api.retries import Outcome, retry_run, retry_runs
from orchestrator_api.services import Backend, By, Services
from schemas.errors import Problem

router = APIRouter(tags=["dead letters"])

_EXAMPLE = {
    "id": "1760000000000-0", "reason": "task", "at": 1760000000000, "run_id": "run_0193f2a4",
    "token_id": "run_0193f2a4.2", "node_id": "grade", "workflow_id": "screening", "batch_id": "batch_0193f2a4",
    "key": "17", "error": {"class": "timeout", "message": "no result in 60 s", "attempts": 3, "node": "grade"},
}  # fmt: skip


class _Wanted(RequestShape):
    """Which letters."""

    model_config = ConfigDict(extra="forbid", strict=False, populate_by_name=True)
    reason: Line | None = Field(None, description="task, malformed ...")
    workflow_id: WorkflowName | None = None
    batch_id: Name | None = None
    node: Line | None = Field(None, description="id of the node that failed")
    klass: Line | None = Field(None, alias="class", description="of the error: timeout, invalid_output ...")

    def filter(self) -> LetterFilter:
        return LetterFilter(self.reason, self.workflow_id, self.batch_id, self.node, self.klass)


class LetterQuery(_Wanted):
    """GET /dead-letters"""

    dropped: bool = Field(False, description="those that were dropped, instead")
    limit: int = Field(100, ge=1, le=1_000)
    cursor: str | None = Field(None, pattern=r"^\d{1,18}(-\d{1,20})?$", description="`next_cursor` of the page before")


class RetryRequest(_Wanted):
    """POST /dead-letters/retry"""

    model_config = ConfigDict(extra="forbid", strict=True)
    why: Line | None = Field(None, description="kept with who asked")
    limit: int = Field(1_000, ge=1, le=10_000, description="letters at most")
    cursor: str | None = Field(None, pattern=r"^\d{1,18}-\d{1,20}$", description="`next_cursor` of the call before")


@router.get(
    "/dead-letters",
    summary="What was given up, the newest first",
    responses=answers({"dead_letters": [_EXAMPLE], "next_cursor": None}, 422),
)
async def list_dead_letters(backend: Backend, query: Annotated[LetterQuery, Query()]) -> Response:
    """`reason` is task for a task that failed for good, else what was wrong with a message. A page may be short and not
    the last: `next_cursor` says. Those of runs that were retried are not here any more."""
    if query.dropped:
        return await _dropped(backend, query)
    letters, cursor = await _letters(backend).page(query.filter(), query.limit, query.cursor)
    return JsonResponse({"dead_letters": letters, "next_cursor": cursor})


async def _dropped(backend: Services, query: LetterQuery) -> Response:
    before = int(query.cursor.partition("-")[0]) if query.cursor else None
    found = await backend.history.dropped_letters.page(backend.store.keys.prefix, query.limit, before)
    cursor = str(found[-1]["dropped"]["number"]) if len(found) == query.limit else None
    letters = [letter for letter in found if query.filter().takes(letter)]
    return JsonResponse({"dead_letters": letters, "next_cursor": cursor})


def _letters(backend: Services) -> Letters:
    return Letters(backend.store, backend.history.runs)


async def _letter(backend: Services, letter_id: str) -> Letter:
    """Raises Refusal (404)."""
    letter = await _letters(backend).get(letter_id)
    if letter is None:
        raise not_found("dead letter", letter_id)
    return letter


@router.get(
    "/dead-letters/{letter_id}",
    summary="A dead letter, with what the task that failed was given",
    responses=answers({**_EXAMPLE, "input": {"output": {"text": "..."}, "ctx": {}, "iteration": 0}}, 404, 422),
)
async def get_dead_letter(letter_id: LetterId, backend: Backend) -> Response:
    """`input`: the node's variables, null where nobody knows them. `raw`: the model's own words, if its answer was no
    valid output. `run`: its status, workflow, batch, key, labels. `dropped`: who dropped it, when and why."""
    letter = await _letters(backend).get(letter_id)
    if letter is None:
        letter = await backend.history.dropped_letters.get(backend.store.keys.prefix, letter_id)
    if letter is None:
        raise not_found("dead letter", letter_id)
    run_id, token_id = letter.get("run_id"), letter.get("token_id")
    given = await failed_input(backend, run_id, token_id) if run_id and token_id else None
    return JsonResponse({**letter, "input": given})


@router.post(
    "/dead-letters/{letter_id}/retry",
    summary="Let the run of a dead letter go on where it failed",
    openapi_extra=optional_body(ActionRequest, {"reason": "the model is there now"}),
    responses=answers({"id": "1760000000000-0", "run_id": "run_0193f2a4", "status": "RUNNING"}, 404, 409, 422),
)
async def retry_dead_letter(letter_id: LetterId, request: Request, backend: Backend, by: By) -> Response:
    """As POST /runs/{run_id}/retry; the letter goes."""
    event = await read_action(request, by)
    letter = await _letter(backend, letter_id)
    run_id = letter.get("run_id")
    if not run_id:
        raise Refusal(409, "This letter is of no run: there is nothing to retry.")
    answer = await retry_run(backend, run_id, event)
    raise_not_retried(run_id, answer)
    await _letters(backend).delete(letter_id)
    return JsonResponse({"id": letter_id, "run_id": run_id, "status": answer.status})


@router.post(
    "/dead-letters/retry",
    summary="Retry the runs of many dead letters",
    openapi_extra=body(RetryRequest, {"class": "timeout", "batch_id": "batch_0193f2a4", "limit": 1000}),
    responses=answers({"found": 12, "retried": 11, "refused": {"gone": 1}, "next_cursor": None}, 400, 415, 422),
)
async def retry_dead_letters(request: Request, backend: Backend, by: By) -> Response:
    """Of those that the filter takes, the newest first; `refused` counts those whose run did not go on, by why: gone
    (it ended too long ago to be rebuilt), child (its parent is to be retried), refused (it has not failed), live,
    unknown."""
    asked = await read_request(request, RetryRequest, "action_bytes", ACTION_BYTES)
    if asked.filter() == LetterFilter():
        fields = "reason, workflow_id, batch_id, node, class"
        raise invalid([Problem("", "missing-field", f"Say which letters are meant, by one of: {fields}.")])
    event = {name: text for name, text in {"by": by or "api", "reason": asked.why}.items() if text}
    letters = _letters(backend)
    found, outcomes, cursor = 0, Counter[Outcome](), asked.cursor
    while found < asked.limit:
        page, cursor = await letters.page(asked.filter(), min(asked.limit - found, 500), cursor)
        found += len(page)
        run_ids = list(dict.fromkeys(letter["run_id"] for letter in page if letter.get("run_id")))
        outcomes += await retry_runs(backend, run_ids, event)
        if cursor is None or not page:
            break
    retried = outcomes.pop("retried", 0)
    return JsonResponse({"found": found, "retried": retried, "refused": dict(outcomes), "next_cursor": cursor})


@router.post(
    "/dead-letters/{letter_id}/drop",
    summary="Take a dead letter off the list, with a reason that is kept",
    openapi_extra=body(DropRequest, {"reason": "a test item"}),
    responses=answers({"id": "1760000000000-0", "dropped": True}, 400, 404, 415, 422),
)
async def drop_dead_letter(letter_id: LetterId, request: Request, backend: Backend, by: By) -> Response:
    """Its run stays as it is. GET /dead-letters?dropped=true lists what was dropped, by whom, when and why."""
    asked = await read_request(request, DropRequest, "action_bytes", ACTION_BYTES)
    letter: dict[str, Any] = await _letter(backend, letter_id)
    await backend.history.dropped_letters.add(backend.store.keys.prefix, letter, by=by or "api", reason=asked.reason)
    await _letters(backend).delete(letter_id)
    return JsonResponse({"id": letter_id, "dropped": True})
