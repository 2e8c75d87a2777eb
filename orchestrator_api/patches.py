"""Patches: a run's workflow is edited while it runs, or goes back to what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from lua.patching import Patch, Patched, PatchRefused
from orchestrator_api.bodies import (
    JSON,
    JSON_PATCH,
    JsonResponse,
    expect_media,
    read_body,
    read_json,
    read_request,
    read_shape,
)
from orchestrator_api.openapi import answers, body
from orchestrator_api.preconditions import etag, if_match
from orchestrator_api.problems import Refusal, invalid, lost, not_found, too_large
from orchestrator_api.requests import DryRun, PatchOptions, PatchQuery, PatchRequest, RollbackRequest, RunId
from orchestrator_api.services import Backend, By, Services
from schemas.errors import InvalidDocument, Problem
from schemas.events import STATUS_OF
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import Revision, restore, revise

router = APIRouter(tags=["patches"])

BESIDE_BYTES = 16_000
"""What a body may have beside its operations."""
OPTION_BYTES = 10_000
_WRAPPED = 3  # levels of a request around the value of an operation
_EXAMPLE = [{"op": "replace", "path": "/nodes/greet/config/prompt", "value": "Welcome {{ input.name }}"}]
_PATCHED = {
    "run_id": "run_0193f2a4", "status": "RUNNING", "revision": 2, "added": [], "removed": [], "changed": ["greet"],
    "restarted": [], "cancelled": [], "reachable": ["greet"], "unreachable": [],
}  # fmt: skip
_BARE = {JSON_PATCH: {"schema": {"type": "array", "items": {"type": "object"}}, "example": _EXAMPLE}}


@router.post(
    "/runs/{run_id}/patch",
    summary="Edit the workflow of a run while it runs",
    openapi_extra=body(PatchRequest, {"operations": _EXAMPLE, "description": "warmer"}, **_BARE),
    responses=answers(_PATCHED, 400, 404, 409, 412, 413, 415, 422),
)
async def patch_run(
    run_id: RunId, query: Annotated[PatchQuery, Query()], request: Request, backend: Backend, by: By
) -> Response:
    """All operations or none, at one moment between two steps. `If-Match`: only on this revision. The body may be the
    list of operations alone, as application/json-patch+json; the query has the options then."""
    asked = await read_patch(request, query)
    revision = await expected_revision(backend, run_id, request)
    patch = make_patch(asked, lambda ir: revise(ir, asked.operations), by, dry=query.dry_run, revision=revision)
    try:
        return await _carry_out(backend, run_id, patch)
    except InvalidDocument as error:
        raise invalid_patch(error, request) from None


@router.post(
    "/runs/{run_id}/rollback",
    summary="Give a run the workflow of an earlier revision again",
    openapi_extra=body(RollbackRequest, {"revision": 1, "description": "the prompt was better"}),
    responses=answers(_PATCHED, 400, 404, 409, 412, 413, 415, 422),
)
async def roll_back_run(
    run_id: RunId, query: Annotated[DryRun, Query()], request: Request, backend: Backend, by: By
) -> Response:
    """A new revision, by the operations that lead there: what happened stays. As a patch in all else."""
    asked = await read_request(request, RollbackRequest, "option_bytes", OPTION_BYTES)
    revision = await expected_revision(backend, run_id, request)
    if await backend.states.status(run_id) is None:
        raise not_found("run", run_id)
    workflow = await backend.revisions.workflow(run_id, asked.revision)
    if workflow is None:
        raise invalid([Problem("/revision", "not-found", f"The run has no revision {asked.revision}.")])
    patch = make_patch(
        asked, lambda ir: restore(ir, workflow), by, dry=query.dry_run, revision=revision, rollback_to=asked.revision
    )
    return await _carry_out(backend, run_id, patch)


# -- what is asked -----------------------------------------------------------------------------------
async def read_patch(request: Request, query: PatchQuery) -> PatchRequest:
    """A body with operations: an object, or their list alone with the options in the query. Raises Refusal."""
    media = expect_media(request, (JSON, JSON_PATCH))
    raw = await read_body(request, "patch_bytes", LIMITS.patch_bytes + BESIDE_BYTES)
    value = read_json(raw, wrapped=_WRAPPED, unique=True)
    options = query.model_dump(include={"description", "live_tokens", "running"}, exclude_none=True)
    if media == JSON_PATCH:
        return PatchRequest(operations=value, **options)
    if isinstance(value, list):
        detail = f"A list of operations alone is {JSON_PATCH}; as {JSON} it is the field `operations` of an object."
        raise invalid([Problem("", "wrong-type", detail)])
    if options:
        raise invalid(Problem(f"/query/{name}", "unknown-field", f"`{name}` goes into the body.") for name in options)
    return read_shape(PatchRequest, value)


async def expected_revision(backend: Services, run_id: str, request: Request) -> int | None:
    """The revision that If-Match lets the patch be made on; None for any. Raises Refusal (400, 412)."""
    tags = if_match(request)
    if tags is None:
        return None
    current = await backend.store.redis.hget(backend.store.keys.run(run_id), "revision")
    if current is None:
        return None  # it can not be patched at all
    if current.decode() not in tags:
        detail = f"The run is at revision {current.decode()}, which If-Match does not name."
        raise Refusal(412, detail, headers=etag(int(current)), revision=int(current))
    return int(current)


def make_patch(
    asked: PatchOptions, revise: Callable[[IR], Revision], by: str, *, dry: bool, revision: int | None, **more: Any
) -> Patch:
    """What the request asks for; `more` is for the event."""
    said = {"by": by or "api", "description": asked.description, **more}
    return Patch(
        revise=revise,
        event={name: value for name, value in said.items() if value},
        cancel=asked.live_tokens == "cancel",
        restart=asked.running == "restart",
        dry=dry,
        revision=revision,
    )


# -- what came of it ---------------------------------------------------------------------------------
async def _carry_out(backend: Services, run_id: str, patch: Patch) -> Response:
    try:
        done = await backend.patching.patch(run_id, patch)
    except PatchRefused as refused:
        raise await _refusal(backend, run_id, refused) from None
    return JsonResponse(patched_view(done, dry=patch.dry), headers=etag(done.revision - patch.dry))


def patched_view(done: Patched, *, dry: bool) -> dict[str, Any]:
    """What is answered for one run."""
    view: dict[str, Any] = {
        "run_id": done.run_id,
        "status": done.status,
        "revision": done.revision,
        "added": done.difference.added,
        "removed": done.difference.removed,
        "changed": done.difference.changed,
        "restarted": done.restarted,
        "cancelled": done.cancelled,
        "reachable": done.reachable,
        "unreachable": done.unreachable,
    }
    if done.warnings:
        view["warnings"] = [problem.as_dict() for problem in done.warnings]
    if dry:
        view["dry_run"] = True
    return view


def invalid_patch(error: InvalidDocument, request: Request) -> Refusal:
    """422, 413 for too many bytes, 409 for a `test` that failed; the places are those in the body as it came."""
    if any(problem.code == "patch-too-large" for problem in error.problems):
        return too_large("patch_bytes", LIMITS.patch_bytes)
    bare = request.headers["content-type"].lower().startswith(JSON_PATCH)
    prefix = "/operations" if bare else ""
    refusal = invalid(Problem(p.path.removeprefix(prefix), p.code, p.message) for p in error.problems)
    if error.problems[0].code == "test-failed":
        refusal.status = 409  # RFC 6902, section 5, and RFC 5789, section 2.2: the state is another one
    return refusal


async def _refusal(backend: Services, run_id: str, refused: PatchRefused) -> Refusal:
    """A run that Redis does not have may have ended long ago."""
    if refused.reason != "unknown":
        return refusal_of(refused)
    status = await backend.states.status(run_id)
    if status is None:
        return not_found("run", run_id)
    if status in STATUS_OF.values():
        return refusal_of(PatchRefused("over", f"The run has ended: {status}.", status=status))
    return lost(status)


def refusal_of(refused: PatchRefused) -> Refusal:
    """A run that does not take the patch as it is now: 409, or 412 for another revision than the one asked for."""
    extra: dict[str, Any] = {"reason": refused.reason}
    headers = {}
    if refused.revision:
        extra["revision"], headers = refused.revision, etag(refused.revision)
    if refused.status:
        extra["run_status"] = refused.status
    if refused.tokens:
        extra["tokens"] = [
            {"token_id": token, "node_id": node, "state": state} for token, node, state in refused.tokens
        ]
    if refused.reason == "following":
        headers["Retry-After"] = "1"
    return Refusal(412 if refused.reason == "precondition" else 409, str(refused), headers=headers, **extra)
