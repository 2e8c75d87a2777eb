"""Runs: start, list, read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from psycopg import OperationalError
from pydantic import Field
from starlette.responses import Response

from lua.answers import Started
from lua.patching import LIVE
from orchestrator_api.bodies import JsonResponse, read_request
from orchestrator_api.openapi import answers, body
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import Name, Page, RunId, RunRequest, WorkflowName
from orchestrator_api.services import Backend, By, Services
from orchestrator_api.workflows import EXAMPLE
from schemas.errors import Problem
from schemas.ids import new_run_id
from schemas.limits import LIMITS
from schemas.submission import make_start, request_digest
from schemas.values import ValueTooLarge

router = APIRouter(tags=["runs"])

Status = Literal["RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
BODY_BYTES = LIMITS.input_bytes + LIMITS.workflow_bytes + 64_000
_STARTED = {"run_id": "run_0193f2a4", "status": "RUNNING", "revision": 1}


class RunFilter(Page):
    """GET /runs"""

    status: Status | None = None
    workflow_id: WorkflowName | None = None
    batch_id: Name | None = None
    label: list[str] = Field(default_factory=list, max_length=LIMITS.labels)
    forked_from: Name | None = Field(None, description="the runs that were forked from this one")
    parent: Name | None = Field(None, description="the child runs of this one; without it no child runs are listed")


@router.post(
    "/runs",
    summary="Start a run",
    status_code=201,
    openapi_extra=body(RunRequest, {"workflow": EXAMPLE, "input": {"name": "Ada"}}),
    responses=answers(_STARTED, 400, 404, 409, 413, 415, 422, status=201, says="started"),
)
async def start_run(request: Request, backend: Backend, by: By) -> Response:
    """With an inline workflow it needs no Postgres. With a `run_id` it may be repeated: the same body answers 200 and
    starts nothing, another body 409."""
    asked = await read_request(request, RunRequest, "input_bytes", BODY_BYTES)
    digest = request_digest(asked.model_dump(exclude={"run_id"}))
    if asked.run_id and (earlier := await _earlier(backend, asked.run_id, digest)):
        return earlier
    prepared = await backend.submissions.choose(asked)
    if problems := prepared.input_problems(asked.input, "/input"):
        raise invalid(problems)
    await backend.submissions.refuse_when_full()
    warnings = await backend.submissions.warnings(prepared)
    run_id = asked.run_id or new_run_id()
    try:
        start = make_start(
            run_id,
            prepared.ir,
            asked.input,
            request=digest,
            version=prepared.version,
            priority=asked.priority,
            labels=asked.labels,
            timeout_ms=asked.timeout_ms,
            retention_ms=backend.options.retention_ms,
            by=by,
        )
    except ValueTooLarge:
        raise invalid([_too_large("/input")]) from None
    match await backend.store.start_run(**start.arguments()):
        case Started.STARTED:
            answer = {"run_id": run_id, "status": "RUNNING", "revision": 1, **warnings}
            return JsonResponse(answer, 201, {"Location": f"/runs/{run_id}"})
        case Started.EXISTS:
            return await _existing(backend, run_id)
        case _:
            raise _taken(run_id)


async def _earlier(backend: Services, run_id: str, digest: str) -> Response | None:
    """The answer for a run id that was used before; None if it was not, as far as anybody can tell now."""
    known = await backend.store.redis.hget(backend.store.keys.run(run_id), "request")
    if known is None:
        try:
            first = await backend.history.events.after(run_id, 0, 1)
        except OperationalError:
            return None  # a run that ended long ago and whose id comes again now: not worth refusing all others
        if not first:
            return None
        known = str(first[0].data.get("request", "")).encode()
    if known.decode() != digest:
        raise _taken(run_id)
    return await _existing(backend, run_id)


async def _existing(backend: Services, run_id: str) -> Response:
    state = await backend.states.get(run_id)
    if state is None:
        raise not_found("run", run_id)
    return JsonResponse({"run_id": run_id, "status": state.status, "revision": state.revision})


def _taken(run_id: str) -> Refusal:
    return Refusal(409, f"The run id {run_id} is taken by another request.")


def _too_large(path: str) -> Problem:
    return Problem(path, "too-large", f"over the limit input_bytes, {LIMITS.input_bytes} bytes as JSON")


@router.get(
    "/runs",
    summary="Runs, the newest first",
    responses=answers({"runs": [{**_STARTED, "workflow_id": "hello"}], "next_cursor": None}, 422),
)
async def list_runs(backend: Backend, query: Annotated[RunFilter, Query()]) -> Response:
    """`label=team=red`, several times for several labels. What was started this moment may be missing for some ms."""
    runs, cursor = await backend.history.runs.list(
        status=query.status,
        workflow_id=query.workflow_id,
        batch_id=query.batch_id,
        labels=_labels(query.label),
        parent=query.parent,
        forked_from=query.forked_from,
        limit=query.limit,
        cursor=query.cursor,
    )
    return JsonResponse({"runs": runs, "next_cursor": cursor})


def _labels(asked: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in asked:
        name, equals, value = text.partition("=")
        if not equals or not name or "\0" in text:
            raise invalid([Problem("/query/label", "bad-value", "Ask for a label as `label=name=value`.")])
        labels[name] = value
    return labels


@router.get(
    "/runs/{run_id}",
    summary="A run: status, outputs, live tokens, usage",
    responses=answers({**_STARTED, "outputs": {"greet": {"text": "Hello"}}, "output": None, "counter": 1}, 404, 422),
)
async def get_run(run_id: RunId, backend: Backend) -> Response:
    state = await _state(backend, run_id)
    shown = await backend.states.show(state)
    if state.status in LIVE and not await backend.store.redis.exists(backend.store.keys.run(run_id)):
        shown["lost"] = True  # it stands still, whatever its tokens say
    return JsonResponse(shown)


@router.get(
    "/runs/{run_id}/ir",
    summary="The compiled workflow that the run follows",
    responses=answers({"ir": 1, "workflow": EXAMPLE, "entries": ["greet"], "graph": {}}, 404, 422),
)
async def get_ir(run_id: RunId, backend: Backend, request: Request) -> Response:
    """Always the newest revision; its number is the ETag."""
    text, revision = await backend.states.ir(run_id)
    if text is None:
        state = await _state(backend, run_id)
        text, revision = await backend.revisions.ir(run_id, state.digest), state.revision
        if text is None:
            raise not_found("IR of the run", run_id)
    etag = f'"{revision}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type="application/json")


async def _state(backend: Services, run_id: str) -> Any:
    state = await backend.states.get(run_id)
    if state is None:
        raise not_found("run", run_id)
    return state
