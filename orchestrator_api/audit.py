"""The audit: who did what to which batch, what there was before and after, and what was left undone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from history.audit import Action, Filter, Outcome, durations_of, warnings_of
from history.audit_query import AuditQuery, State, ask_state
from history.query_errors import QueryFailed
from orchestrator_api.batch_source import query_refusal
from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import invalid, not_found
from orchestrator_api.requests import BatchId, Line, WorkflowName
from orchestrator_api.services import Backend, Services
from schemas.errors import Problem

router = APIRouter(tags=["history"])

MAX_MS = (1 << 47) - 1
_OPERATION = {
    "batch_id": "batch_0193f2a4", "number": 0, "action": "run", "by": "ada", "key": "ops", "reason": None,
    "at": 1760000000000, "done_at": 1760000200000, "took_ms": 200000, "touched": 500,
    "counts": {"done": 466, "failed": 34, "withdrawn": 0, "skipped": 0},
    "state_before": {"done": 0, "failed": 0, "audit": {"with_summary": 288}},
    "state_after": {"done": 466, "failed": 34, "audit": {"with_summary": 754}},
    "delta": {"done": 466, "failed": 34, "audit": {"with_summary": 466}},
    "workflow_id": "screening", "version": 3, "status": "COMPLETED", "labels": {},
    "expected_work": {"runs": 500, "skipped": 0}, "warnings": ["466 of 500 expected runs are done: 34 failed"],
}  # fmt: skip
_SKIPPED = {
    "position": 3, "key": "42", "reason": "done", "run_id": "run_0193f2a4", "batch_id": "batch_0193f000",
    "status": "COMPLETED", "ended_at": 1760000000000,
}  # fmt: skip


async def state_before(backend: Services, audit: AuditQuery) -> State:
    """What the audit query of a batch gives before it starts. Raises Refusal: 422, 503 where asking again may help."""
    try:
        return await ask_state(backend.connections, audit)
    except QueryFailed as failure:
        raise query_refusal(failure, "audit", backend.options.retry_after_s) from None


class HistoryFilter(QueryShape):
    """GET /history/runs"""

    workflow_id: WorkflowName | None = None
    by: Line | None = Query(None, description="who asked")
    since: int | None = Query(None, ge=0, le=MAX_MS, description="ms since the epoch")
    until: int | None = Query(None, ge=0, le=MAX_MS, description="ms since the epoch; not included")
    status: Literal["RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"] | None = None
    label: list[str] = Query([], max_length=20, description="`name=value`; several: all of them")
    limit: int = Query(50, ge=1, le=500)

    def filter(self, action: str | None = None) -> Filter:
        """Raises Refusal (422)."""
        labels = {}
        for text in self.label:
            name, equals, value = text.partition("=")
            if not equals or not name or "\0" in text:
                raise invalid([Problem("/query/label", "bad-value", "Ask for a label as `label=name=value`.")])
            labels[name] = value
        return Filter(self.workflow_id, self.by, action, self.since, self.until, self.status, labels)


class OperationFilter(HistoryFilter):
    """GET /history"""

    action: Action | None = None
    cursor: str | None = Query(None, max_length=300, description="`next_cursor` of the page before")


@router.get(
    "/history",
    summary="What was done to batches, the newest first: who, when, why, and what came of it",
    responses=answers({"operations": [_OPERATION], "next_cursor": None}, 422),
)
async def list_history(backend: Backend, query: Annotated[OperationFilter, Query()]) -> Response:
    """A batch's start is the action `run`. `status` and `label` are the batch's; `by` is who asked, or the name of the
    API key that it was asked with."""
    found, cursor = await backend.history.audit.operations(query.filter(query.action), query.limit, query.cursor)
    return JsonResponse({"operations": found, "next_cursor": cursor})


@router.get(
    "/history/runs",
    summary="Single runs, the newest first, and who asked for them",
    responses=answers(
        {"runs": [{"run_id": "run_0193f2a4", "workflow_id": "hello", "status": "COMPLETED", "by": "ada"}]}, 422
    ),
)
async def list_run_history(backend: Backend, query: Annotated[HistoryFilter, Query()]) -> Response:
    """Runs of no batch and called by no other run."""
    return JsonResponse({"runs": await backend.history.audit.runs(query.filter(), query.limit)})


@router.get(
    "/history/{batch_id}",
    summary="The record of one batch, whole",
    responses=answers(
        {
            "batch_id": "batch_0193f2a4", "requested_by": "ada", "by": "ops",
            "expected_work": {"runs": 500, "skipped": 34}, "skips": {"done": 34},
            "took_ms": 200000, "waited_ms": 300, "paused_ms": 0,
            "warnings": ["34 of 534 items were skipped"], "operations": [_OPERATION],
        },
        404,
        422,
    ),
)  # fmt: skip
async def get_record(batch_id: BatchId, backend: Backend) -> Response:
    """The batch as `GET /batches/{id}` has it, with its durations, `skips` by reason, `warnings` where what was
    expected and what came of it differ, and every operation on it, the oldest first."""
    found = await backend.history.batches.get(batch_id)
    if found is None:
        raise not_found("batch", batch_id)
    audit = backend.history.audit
    more: dict[str, Any] = {"skips": await audit.skips(batch_id), "warnings": warnings_of(found)}
    return JsonResponse({**found, **durations_of(found), **more, "operations": await audit.of_batch(batch_id)})


class UndoneFilter(QueryShape):
    """GET /history/{batch_id}/items"""

    outcome: Outcome
    limit: int = Query(100, ge=1, le=1_000)
    after: int = Query(-1, ge=-1, le=2**31 - 1, description="`next_after` of the page before")


@router.get(
    "/history/{batch_id}/items",
    summary="The items that a batch has not done, and why",
    responses=answers({"items": [_SKIPPED], "next_after": None}, 404, 422),
)
async def list_undone(batch_id: BatchId, backend: Backend, query: Annotated[UndoneFilter, Query()]) -> Response:
    """`outcome=skipped`: with the earlier run that has the key; `failed`: with the error of its run; `withdrawn`:
    cancelled before it started."""
    if await backend.history.batches.get(batch_id) is None:
        raise not_found("batch", batch_id)
    found = await backend.history.audit.items(batch_id, query.outcome, query.limit + 1, query.after)
    following = found[query.limit - 1]["position"] if len(found) > query.limit else None
    return JsonResponse({"items": found[: query.limit], "next_after": following})
