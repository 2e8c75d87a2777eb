"""Approvals: what waits for people."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.requests import Line, Name
from orchestrator_api.services import Backend, Services
from schemas.keys import scope_of

router = APIRouter(tags=["answers"])

READ = 500
"""Entries that are read in one round trip."""
MOST = 50_000
"""Entries that one request looks at."""

_EXAMPLE = {
    "run_id": "run_0193f2a4", "node_id": "review", "token_id": "run_0193f2a4.2", "assignee": "ada",
    "prompt": "Publish this?", "choices": ["approve", "reject"], "form": None, "since": 1760000000000, "due": None,
    "reminders": 0,
}  # fmt: skip


class ApprovalFilter(QueryShape):
    """GET /approvals"""

    assignee: Line | None = None
    run_id: Name | None = None
    batch_id: Name | None = None
    limit: int = Query(100, ge=1, le=1_000)


@router.get(
    "/approvals",
    summary="What waits for whom, the oldest first",
    responses=answers({"approvals": [_EXAMPLE], "total": 1, "complete": True}, 422),
)
async def list_approvals(backend: Backend, query: Annotated[ApprovalFilter, Query()]) -> Response:
    """With prompt, form and choices. `total`: how many there are; `complete` is false where only a part was looked
    at. POST /runs/{run_id}/nodes/{node_id}/complete answers one."""
    cursor, total = 0, 0
    seen: set[bytes] = set()  # a scan may come to an entry twice
    oldest: list[dict[str, Any]] = []
    while True:
        cursor, entries = await backend.store.redis.hscan(backend.store.keys.approvals, cursor, count=READ)
        fresh = [orjson.loads(text) for token, text in entries.items() if token not in seen]
        seen.update(entries)
        found = await _matching(backend, query, fresh)
        total += len(found)
        oldest = heapq.nsmallest(query.limit, [*oldest, *found], key=lambda one: (one["since"], one["token_id"]))
        if cursor == 0 or len(seen) >= MOST:
            break
    return JsonResponse({"approvals": await _still_asked(backend, oldest), "total": total, "complete": cursor == 0})


async def _still_asked(backend: Services, approvals: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without those whose map has ended and who will be forgotten; with how often each was reminded of."""
    async with backend.store.redis.pipeline(transaction=False) as pipe:
        for one in approvals:
            scope = scope_of(one["run_id"], one["token_id"])
            pipe.hget(backend.store.keys.tokens(one["run_id"], scope), one["token_id"])
        records = [orjson.loads(record or b"{}") for record in await pipe.execute()]
    return [
        one | {"reminders": record.get("reminders", 0)}
        for one, record in zip(approvals, records, strict=True)
        if record.get("state") == "asked"
    ]


async def _matching(
    backend: Services, query: ApprovalFilter, approvals: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    found = [
        {name: approval.get(name) for name in _EXAMPLE}
        for approval in approvals
        if query.assignee in (None, approval.get("assignee")) and query.run_id in (None, approval["run_id"])
    ]
    if query.batch_id is None or not found:
        return found
    async with backend.store.redis.pipeline(transaction=False) as pipe:
        for approval in found:
            pipe.hget(backend.store.keys.run(str(approval["run_id"])), "batch")
        batches = await pipe.execute()
    return [one for one, batch in zip(found, batches, strict=True) if batch == query.batch_id.encode()]
