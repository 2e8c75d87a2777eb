"""Revisions of a run's workflow: who made them, what they were, how they differ."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.document_diff import document_diff
from orchestrator_api.openapi import answers
from orchestrator_api.problems import not_found
from orchestrator_api.requests import RunId
from orchestrator_api.revision_log import PAGE, revision_of
from orchestrator_api.services import Backend, Services
from schemas.events import Event
from schemas.revision import operations_to

router = APIRouter(tags=["patches"])

MOST = 2**31 - 1
_EXAMPLE = {
    "revision": 2, "digest": "sha256-...", "at": 1760000000000, "by": "ada", "description": "warmer",
    "operations": [], "added": [], "removed": [], "changed": ["greet"],
}  # fmt: skip
_OPTIONS = ("rollback_to", "live_tokens", "running", "batch_patch", "reverted")


class RevisionPage(QueryShape):
    """GET /runs/{run_id}/revisions"""

    after: int = Field(0, ge=0, le=MOST, description="larger numbers only")
    limit: int = Field(50, ge=1, le=PAGE)


class DiffQuery(QueryShape):
    """GET /runs/{run_id}/diff"""

    from_: int | None = Field(None, ge=1, le=MOST, alias="from", description="the one before by default")
    to: int | None = Field(None, ge=1, le=MOST, description="the newest by default")


@router.get(
    "/runs/{run_id}/revisions",
    summary="The revisions of a run's workflow, the newest last",
    responses=answers({"revisions": [_EXAMPLE], "next_after": None}, 404, 422),
)
async def list_revisions(run_id: RunId, page: Annotated[RevisionPage, Query()], backend: Backend) -> Response:
    """Revision 1 is what the run was started with. `next_after`: where the next page goes on, null at the end."""
    events = await backend.revisions.events(run_id, page.after, page.limit)
    if not events and await backend.states.status(run_id) is None:
        raise not_found("run", run_id)
    more = len(events) == page.limit
    return JsonResponse(
        {"revisions": [_view(event) for event in events], "next_after": revision_of(events[-1]) if more else None}
    )


@router.get(
    "/runs/{run_id}/revisions/{revision}",
    summary="A revision, with its workflow document",
    responses=answers({**_EXAMPLE, "workflow": {}}, 404, 422),
)
async def get_revision(run_id: RunId, revision: Annotated[int, Path(ge=1, le=MOST)], backend: Backend) -> Response:
    event = await backend.revisions.event(run_id, revision)
    if event is None:
        raise not_found(f"revision {revision} of the run", run_id)
    return JsonResponse(_view(event) | {"workflow": await _workflow(backend, run_id, revision)})


@router.get(
    "/runs/{run_id}/diff",
    summary="What differs between two revisions",
    responses=answers({"from": 1, "to": 2, "operations": [], "changes": ["-a", "+b"]}, 404, 422),
)
async def get_diff(run_id: RunId, query: Annotated[DiffQuery, Query()], backend: Backend) -> Response:
    """For machines as `operations` (RFC 6902), for people as `changes`: lines of a unified diff of the documents as
    YAML. By default what the newest revision changed."""
    to = query.to
    if to is None:
        state = await backend.states.get(run_id)
        if state is None:
            raise not_found("run", run_id)
        to = state.revision
    first = query.from_ or max(1, to - 1)
    one = await _workflow(backend, run_id, first)
    other = await _workflow(backend, run_id, to)
    operations = await asyncio.to_thread(operations_to, one, other)
    changes = await asyncio.to_thread(document_diff, one, other, f"revision {first}", f"revision {to}")
    return JsonResponse({"from": first, "to": to, "operations": operations, "changes": changes})


async def _workflow(backend: Services, run_id: str, revision: int) -> Mapping[str, Any]:
    workflow = await backend.revisions.workflow(run_id, revision)
    if workflow is None:
        raise not_found(f"revision {revision} of the run", run_id)
    return workflow


def _view(event: Event) -> dict[str, Any]:
    data = event.data
    return {
        "revision": revision_of(event),
        "digest": data["digest"],
        "at": event.at,
        "by": data.get("by") or None,
        "description": data.get("description"),
        "operations": data.get("operations", []),
        **{name: data.get(name, []) for name in ("added", "removed", "changed")},
        **{name: data[name] for name in _OPTIONS if name in data},
    }
