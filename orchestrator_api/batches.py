"""Batches: start many runs, watch them. Their results: results.py; pause, retry and so on: batch_actions.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from history.audit_query import AuditQuery
from history.batches import BatchRefused, NewBatch
from history.pace import Pace
from orchestrator_api.audit import state_before
from orchestrator_api.batch_items import ItemReader
from orchestrator_api.batch_source import read_source
from orchestrator_api.bodies import (
    JSON,
    NDJSON,
    JsonResponse,
    QueryShape,
    expect_media,
    read_body,
    read_json,
    read_lines,
    read_shape,
)
from orchestrator_api.openapi import answers, body
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import (
    BatchId,
    BatchOptions,
    BatchRequest,
    WorkflowName,
)
from orchestrator_api.services import Backend, By, Services
from orchestrator_api.submissions import Prepared
from orchestrator_api.workflows import EXAMPLE
from schemas.errors import Problem
from schemas.ids import new_batch_id
from schemas.limits import LIMITS

router = APIRouter(tags=["batches"])

RATE_WINDOW_S = 300
_EXAMPLE = {"workflow": EXAMPLE, "items": [{"name": "Ada"}, {"name": "Alan"}], "key": "item.name"}
_AUDIT = {"audit_connection": "connection", "audit_query": "query"}
_BATCH = {"batch_id": "batch_0193f2a4", "accepted": 2, "skipped": 0}


@router.post(
    "/batches",
    summary="Start many runs of one workflow",
    status_code=202,
    openapi_extra=body(
        BatchRequest,
        _EXAMPLE,
        **{NDJSON[0]: {"schema": {"type": "string", "description": "an item a line; all else as query parameters"}}},
    ),
    responses=answers(_BATCH, 400, 404, 409, 413, 415, 422, 429, status=202, says="taken"),
)
async def start_batch(request: Request, backend: Backend, by: By) -> Response:
    """One invalid item refuses the batch, and nothing is taken; the first 100 problems are named. Items whose `key`
    this workflow version has completed, or is working on, are skipped unless `force`."""
    await backend.submissions.refuse_when_full()
    if expect_media(request, (JSON, *NDJSON)) == JSON:
        raw = await read_body(request, "batch_json_bytes", backend.options.batch_json_bytes)
        asked = read_shape(BatchRequest, read_json(raw))
        options: BatchOptions = asked
        prepared = await backend.submissions.choose(options)
        reader = ItemReader(prepared, options.key)
        if asked.source is None:
            await reader.read_values(asked.items or [])
        else:
            await read_source(backend.connections, asked.source, reader, backend.options.retry_after_s)
    else:
        options = _options(request)
        prepared = await backend.submissions.choose(options)
        reader = ItemReader(prepared, options.key)
        await reader.read_lines(read_lines(request, "batch_bytes", LIMITS.batch_bytes, 2 * LIMITS.input_bytes))
    return await _create(backend, prepared, reader, options, by)


def _options(request: Request) -> BatchOptions:
    """The options of an NDJSON batch, from the query: labels as `label=name=value`, the audit as `audit_connection` and
    `audit_query`."""
    given: dict[str, Any] = {}
    labels: dict[str, str] = {}
    audit: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name == "label":
            label, _, value = text.partition("=")
            labels[label] = value
        elif name in _AUDIT and _AUDIT[name] not in audit:
            audit[_AUDIT[name]] = text
        elif name in given or name in ("workflow", "audit", *_AUDIT):
            raise invalid([Problem(f"/query/{name}", "bad-value", f"`{name}` can not be given here, or not twice.")])
        elif name == "version" and text.isascii() and text.isdigit():
            given[name] = int(text[:10])
        elif name == "force" and text in ("true", "1", "false", "0"):
            given[name] = text in ("true", "1")
        else:
            given[name] = text
    more = {"labels": labels, "audit": audit}
    return read_shape(BatchOptions, given | {name: value for name, value in more.items() if value})


async def _create(
    backend: Services, prepared: Prepared, reader: ItemReader, options: BatchOptions, by: str
) -> Response:
    items = reader.finish()
    warnings = await backend.submissions.warnings(prepared)
    if prepared.version is None:
        await backend.history.workflows.add_ir(prepared.ir)
    audit = AuditQuery(options.audit.connection, options.audit.query) if options.audit else None
    batch = NewBatch(
        batch_id=new_batch_id(),
        workflow_id=prepared.ir.workflow_id,
        version=prepared.version,
        digest=prepared.ir.digest,
        items=items,
        created_at=await backend.store.now(),
        requested_by=options.requested_by or by or None,
        priority=options.priority,
        labels=options.labels,
        force=options.force,
        by=by or None,
        audit=audit,
        state=await state_before(backend, audit) if audit else None,
    )
    try:
        taken = await backend.history.batches.create(batch)
    except BatchRefused as refused:
        headers = {"Retry-After": str(math.ceil(refused.retry_after_s))}
        status = 409 if refused.reason == "running" else 429
        hint = "; `force` (`--force`) starts this one all the same" if refused.reason == "running" else ""
        raise Refusal(status, f"{refused}{hint}.", headers=headers, batch_id=refused.other) from None
    answer = {"batch_id": taken.batch_id, "accepted": taken.accepted, "skipped": taken.skipped, **warnings}
    return JsonResponse(answer, 202, {"Location": f"/batches/{taken.batch_id}"})


class BatchFilter(QueryShape):
    """GET /batches"""

    workflow_id: WorkflowName | None = None
    limit: int = Query(50, ge=1, le=500)


@router.get(
    "/batches",
    summary="Batches, the newest first",
    responses=answers({"batches": [{"batch_id": "batch_0193f2a4", "status": "RUNNING", "total": 2}]}, 422),
)
async def list_batches(backend: Backend, query: Annotated[BatchFilter, Query()]) -> Response:
    found = await backend.history.batches.list(query.workflow_id, query.limit)
    return JsonResponse({"batches": found})


@router.get(
    "/batches/{batch_id}",
    summary="How far a batch has come: counts, nodes, rate, time left",
    responses=answers(
        {
            "batch_id": "batch_0193f2a4",
            "status": "RUNNING",
            "total": 2062,
            "done": 200,
            "failed": 1,
            "per_node": [{"node_id": "greet", "queued": 90, "running": 8, "done": 210, "failed": 1}],
            "rate_per_min": 41.5,
            "eta_s": None,
            "stalled": False,
            "actions": [{"action": "pause", "by": "ada", "reason": None, "at": 1760000000000}],
            "patch": {"number": 1, "state": "canary", "done": True},
        },
        404,
        422,
    ),
)
async def get_batch(batch_id: BatchId, backend: Backend) -> Response:
    """`eta_s` is null until enough items have ended to tell. `stalled`: nothing at all happened for ten minutes."""
    found = await backend.history.batches.get(batch_id)
    pace = await backend.paces.of(batch_id, window_s=RATE_WINDOW_S, stall_s=backend.options.stall_s)
    if found is None or pace is None:
        raise not_found("batch", batch_id)
    counts = await backend.store.redis.hgetall(backend.store.keys.batch(batch_id))
    order = await _node_order(backend, found)
    actions = await backend.history.batch_control.actions(batch_id)
    newest = await backend.history.batch_patches.newest(batch_id)
    patch = newest and {"number": newest.number, "state": newest.state, "done": newest.done}
    nodes = per_node(counts, order)
    return JsonResponse({**found, "per_node": nodes, **progress(found, pace), "actions": actions, "patch": patch})


async def _node_order(backend: Services, batch: Mapping[str, Any]) -> list[str]:
    text = await backend.history.workflows.ir(batch["digest"])
    return [node["id"] for node in orjson.loads(text)["workflow"]["nodes"]] if text else []


def per_node(counts: Mapping[bytes, bytes], order: list[str]) -> list[dict[str, Any]]:
    """`<node>|<state>` counts of a batch by node, in the order of the workflow; nodes that a patch added come last."""
    nodes: dict[str, dict[str, Any]] = {
        node: {"node_id": node, "queued": 0, "running": 0, "done": 0, "failed": 0} for node in order
    }
    for name, count in counts.items():
        node, bar, state = name.decode().partition("|")
        if bar:
            found = nodes.setdefault(node, {"node_id": node, "queued": 0, "running": 0, "done": 0, "failed": 0})
            found[state] = max(0, int(count))  # what a Redis that was lost had counted is taken back here
    return list(nodes.values())


def progress(batch: Mapping[str, Any], pace: Pace) -> dict[str, Any]:
    """rate_per_min over the last minutes; eta_s from the whole batch's pace, because items of a model-by-model
    schedule end in bursts; null until 5 %, at least 5 and at most 50 of the items, have ended, and while it is
    paused."""
    window_ms = max(1_000, min(pace.elapsed, RATE_WINDOW_S * 1_000))
    over, paused = batch["ended_at"] is not None, batch["status"] == "PAUSED"
    left = batch["pending"] + batch["running"]
    eta: int | None = 0 if over else None
    if not over and not paused and pace.ended >= min(50, max(5, batch["total"] // 20)):
        eta = math.ceil(pace.elapsed / 1_000 * left / pace.ended)
    return {
        "rate_per_min": round(pace.ended_lately * 60_000 / window_ms, 1),
        "eta_s": eta,
        "stalled": not over and not paused and not pace.moved,
    }
