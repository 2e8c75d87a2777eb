"""Workflows: register, list, read, validate."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from orchestrator_api.bodies import JSON, YAML, JsonResponse, expect_media, read_body, read_json
from orchestrator_api.openapi import answers
from orchestrator_api.problems import not_found
from orchestrator_api.requests import Pages, WorkflowId
from orchestrator_api.services import Backend
from schemas.errors import InvalidDocument, Problem
from schemas.limits import LIMITS
from schemas.workflow import read_workflow

router = APIRouter(tags=["workflows"])

EXAMPLE = {
    "id": "hello",
    "nodes": [{"id": "greet", "type": "agent", "config": {"model": "gemma3:4b", "prompt": "Greet {{ input.name }}"}}],
    "edges": [],
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"type": "object", "description": "a workflow document"}, "example": EXAMPLE},
            YAML[0]: {"schema": {"type": "string", "description": "the same as YAML"}},
        },
    }
}


async def read_document(request: Request) -> Any:
    """The workflow document of a body, JSON or YAML. Raises Refusal; InvalidDocument for YAML that can not be read."""
    media = expect_media(request, (JSON, *YAML))
    raw = await read_body(request, "workflow_bytes", LIMITS.workflow_bytes)
    if media == JSON:
        read_json(raw)  # 400 for what is no JSON at all
        return read_workflow(raw, "json")
    return read_workflow(raw, "yaml")


@router.post(
    "/workflows",
    summary="Register a workflow, or its next version",
    status_code=201,
    openapi_extra=_BODY,
    responses=answers({"workflow_id": "hello", "version": 1}, 400, 413, 415, 422, status=201),
)
async def register_workflow(request: Request, backend: Backend) -> Response:
    """The same document again: 200 and its version. All faults of a document are named at once."""
    prepared = await backend.submissions.compiled(await read_document(request))
    warnings = await backend.submissions.warnings(prepared)
    version, created = await backend.submissions.register(prepared)
    body = {"workflow_id": version.workflow_id, "version": version.version, **warnings}
    return JsonResponse(body, 201 if created else 200, {"Location": f"/workflows/{version.workflow_id}"})


@router.post(
    "/workflows/validate",
    summary="Check a workflow document without registering it",
    openapi_extra=_BODY,
    responses=answers(
        {"valid": False, "errors": [{"path": "/nodes/0/type", "code": "unknown-type", "message": "..."}]}, 400, 413, 415
    ),
)
async def validate_workflow(request: Request, backend: Backend) -> Response:
    """Always 200 for what can be read: `valid`, and every fault with its JSON pointer."""
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    try:
        warnings = (await backend.submissions.compiled(await read_document(request))).warnings
    except InvalidDocument as error:
        errors = error.problems
    return JsonResponse(
        {
            "valid": not errors,
            "errors": [problem.as_dict() for problem in errors],
            "warnings": [problem.as_dict() for problem in warnings],
        }
    )


@router.get(
    "/workflows",
    summary="Registered workflows with their latest versions",
    responses=answers({"workflows": [{"workflow_id": "hello", "version": 1, "created_at": 1760000000000}]}, 422),
)
async def list_workflows(backend: Backend, page: Pages) -> Response:
    found = await backend.history.workflows.list(page.limit + 1, after=page.cursor or "")
    more = len(found) > page.limit
    return JsonResponse(
        {
            "workflows": found[: page.limit],
            "next_cursor": found[page.limit - 1]["workflow_id"] if more else None,
        }
    )


@router.get(
    "/workflows/{workflow_id}",
    summary="The latest version of a workflow",
    responses=answers({"workflow_id": "hello", "version": 1, "document": EXAMPLE}, 404, 422),
)
async def get_workflow(workflow_id: WorkflowId, backend: Backend) -> Response:
    return await _version(backend, workflow_id, None)


@router.get(
    "/workflows/{workflow_id}/versions/{version}",
    summary="One version of a workflow",
    responses=answers({"workflow_id": "hello", "version": 1, "document": EXAMPLE}, 404, 422),
)
async def get_workflow_version(
    workflow_id: WorkflowId, version: Annotated[int, Path(ge=1, le=2**31 - 1)], backend: Backend
) -> Response:
    return await _version(backend, workflow_id, version)


async def _version(backend: Backend, workflow_id: str, version: int | None) -> Response:
    found = await backend.history.workflows.get(workflow_id, version)
    if found is None:
        raise not_found("workflow", workflow_id if version is None else f"{workflow_id} version {version}")
    return JsonResponse(
        {
            "workflow_id": found.workflow_id,
            "version": found.version,
            "digest": found.digest,
            "created_at": found.created_at,
            "document": found.document,
        }
    )
