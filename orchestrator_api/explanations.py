"""Explanations: why a node of a run was executed as it was, or was not; and what a run cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import Refusal, not_found
from orchestrator_api.requests import NodeId, RunId
from orchestrator_api.services import Backend, Services
from schemas.events import Event
from schemas.explanations.explain import SHOWN, explained
from schemas.explanations.sentences import sentences
from schemas.explanations.spending import Spending
from schemas.explanations.walk import Walk
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import ir_after

router = APIRouter(tags=["events"])

PAGE = 1_000


class ExplainQuery(QueryShape):
    """GET /runs/{run_id}/nodes/{node_id}/explain"""

    item: int | None = Query(None, ge=0, lt=LIMITS.map_items, description="of a map's items only the one at this index")
    limit: int = Query(SHOWN, ge=1, le=1_000, description="executions: those that failed first, then the newest")


@router.get(
    "/runs/{run_id}/nodes/{node_id}/explain",
    summary="Why a node was executed as it was, or was not",
    responses=answers(
        {
            "run_id": "run_0193f2a4", "node_id": "improve", "status": "COMPLETED", "executions": [],
            "reasons": [{"text": "quality went to format and not to it ...", "node": "quality", "seq": 9}],
            "sentences": [["improve (agent) was not executed.", "quality went to format and not to it ..."]],
        },
        404, 422,
    ),
)  # fmt: skip
async def explain_node(
    run_id: RunId, node_id: NodeId, query: Annotated[ExplainQuery, Query()], backend: Backend
) -> Response:
    """By the run's events alone: where its token came from, why it began or what it waits for, its attempts, what it
    gave, where it went and why. Where it was not executed, `reasons` say why not. `sentences`: the same for people, a
    paragraph for each execution."""
    irs: dict[str, IR] = {}
    walk = Walk(irs, node_id, query.item)
    async for page in pages(backend, run_id):
        await _learn(backend, run_id, page, irs)
        walk.read(page)
    if not walk.seq:
        raise not_found("run", run_id)
    told = explained(walk, query.limit)
    if not told.total and not any(node_id in ir.nodes for ir in irs.values()):
        raise _no_such_node(node_id, run_id, irs.get(walk.digest))
    told.price(backend.options.prices)
    return JsonResponse({**told.as_dict(), "sentences": sentences(told)})


@router.get(
    "/runs/{run_id}/cost",
    summary="What a run used, model by model, and what it cost",
    responses=answers(
        {"run_id": "run_0193f2a4", "cost": 0.0021, "models": [{"model": "gemma3:4b", "tasks": 3, "cost": 0.0021}]},
        404, 422,
    ),
)  # fmt: skip
async def get_cost(run_id: RunId, backend: Backend) -> Response:
    """Repeated attempts count too, child runs do not. `cost` is null where PAVANE_PRICES has no price for it; it is
    computed now, by the prices of now."""
    spending = Spending()
    async for page in pages(backend, run_id):
        spending.read(page)
    if not spending.seq:
        raise not_found("run", run_id)
    return JsonResponse({"run_id": run_id, **spending.as_dict(backend.options.prices)})


async def pages(backend: Services, run_id: str) -> AsyncIterator[list[Event]]:
    """All events of a run, in order."""
    seq = 0
    while page := await backend.log.after(run_id, seq, PAGE):
        yield page
        seq = page[-1].seq


async def _learn(backend: Services, run_id: str, page: list[Event], irs: dict[str, IR]) -> None:
    """The graphs that the run goes over to in these events, as far as they are kept, or can be made again."""
    last = next(reversed(irs.values()), None)
    for event in page:
        digest = event.data.get("digest")
        if not digest or digest in irs:
            last = irs.get(digest, last) if digest else last
            continue
        text = await backend.revisions.workflows.ir(digest)
        if text is None and event.type == "run_patched" and last is not None:
            made: IR | None = await asyncio.to_thread(ir_after, last, [event])
        else:
            text = text or (await backend.states.ir(run_id))[0]
            made = await asyncio.to_thread(IR.from_json, text) if text else None
        if made is not None and made.digest == digest:
            irs[digest] = last = made


def _no_such_node(node_id: str, run_id: str, ir: IR | None) -> Refusal:
    known = ", ".join(list(ir.nodes)[:20]) if ir else ""
    return Refusal(404, f"{run_id} has no node {node_id}{f'; its nodes are {known}' if known else ''}.")
