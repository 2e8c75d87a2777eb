"""What-if: recorded runs of a batch routed again under a changed workflow. Nothing changes, and no model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from orchestrator_api.bodies import JSON, JsonResponse, RequestShape, expect_media, read_body, read_json, read_shape
from orchestrator_api.openapi import answers, body
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import BatchId
from orchestrator_api.services import Backend
from schemas.errors import InvalidDocument, Problem
from schemas.limits import LIMITS

router = APIRouter(tags=["batches"])

BODY_BYTES = LIMITS.workflow_bytes + LIMITS.patch_bytes
MOST_RUNS = 100_000
"""Items of a batch whose runs are routed again."""
MOST_VALUES = 200
SHOWN = 20
_WRAPPED = 3
AGAIN_S = 5


class WhatIf(Protocol):
    """Routes recorded runs again. Given to the application from outside: it decides as a coordinator does.

    Every method raises InvalidDocument, with places in the request's body, and what History raises.
    """

    async def by_workflow(self, batch_id: str, workflow: Mapping[str, Any], shown: int) -> dict[str, Any]: ...

    async def by_operations(self, batch_id: str, operations: Any, shown: int) -> dict[str, Any]: ...

    async def by_sweep(self, batch_id: str, path: str, values: Sequence[Any], shown: int) -> dict[str, Any]: ...


class Sweep(RequestShape):
    """One number in one condition, at several values."""

    path: Annotated[
        str,
        Field(min_length=1, max_length=500, description="nodes.quality.rules.0, edges.3; with #2 its second number"),
    ]
    values: Annotated[list[float | int], Field(min_length=1, max_length=MOST_VALUES)]


class WhatIfRequest(RequestShape):
    """POST /batches/{batch_id}/whatif"""

    workflow: dict[str, Any] | None = Field(None, description="the whole changed workflow")
    operations: Any = Field(None, description="or a patch of the batch's newest workflow (RFC 6902, docs/patching.md)")
    sweep: Sweep | None = Field(None, description="or one number of it at several values")
    shown: Annotated[int, Field(ge=0, le=1_000)] = Field(SHOWN, description="runs that are listed, of each kind")

    @model_validator(mode="after")
    def _one_of_them(self) -> WhatIfRequest:
        if [self.workflow, self.operations, self.sweep].count(None) != 2:
            raise ValueError("give one of workflow, operations and sweep")
        return self


_EXAMPLE = {
    "operations": [
        {"op": "replace", "path": "/nodes/quality/config/rules/0/condition/expression", "value": "output.score >= 70"}
    ]
}
_ANSWER = {
    "batch_id": "batch_0193f2a4",
    "sentences": ["With 70 instead of 80, 212 items would have skipped improve."],
    "runs": {
        "routed": 2000, "unchanged": 1788, "changed": 212, "undecided": 0, "outputs_changed": 212, "unended": 0,
        "left_out": 0,
    },
    "statuses": {"before": {"COMPLETED": 2000}, "after": {"COMPLETED": 2000}},
    "rules": [{"node": "quality", "way": "0", "condition": "output.score >= 70", "before": 900, "after": 1112}],
    "nodes": [{"node": "improve", "before": 1100, "after": 888, "skipped": 212, "reached": 0}],
    "needed": [],
    "gpu": {"before_s": 9000.0, "saved_s": 848.0, "added_s": 0.0, "difference_s": -848.0, "added": []},
    "changed": [],
    "undecided": [],
}  # fmt: skip


@router.post(
    "/batches/{batch_id}/whatif",
    summary="What a batch's runs would have done under a changed workflow",
    openapi_extra=body(WhatIfRequest, _EXAMPLE),
    responses=answers(_ANSWER, 400, 404, 409, 413, 415, 422, 429),
)
async def ask_what_if(batch_id: BatchId, request: Request, backend: Backend) -> Response:
    """What is recorded is routed again with the outputs that were recorded. Where another output would be needed, the
    answer says so. One question at a time is worked on."""
    expect_media(request, (JSON,))
    raw = await read_body(request, "workflow_bytes", BODY_BYTES)
    asked = read_shape(WhatIfRequest, read_json(raw, wrapped=_WRAPPED))
    batch = await backend.history.batches.get(batch_id)
    if batch is None:
        raise not_found("batch", batch_id)
    if batch["total"] > MOST_RUNS:
        raise invalid(
            [Problem("", "too-large", f"The batch has {batch['total']} items; at most {MOST_RUNS} are routed again.")]
        )
    engine = backend.what_if
    if engine is None:
        raise Refusal(503, "This API was started without what-if; ask another one.")
    if backend.asking.locked():
        detail = "Another what-if is being worked on; ask again when it is done."
        raise Refusal(429, detail, headers={"Retry-After": str(AGAIN_S)})
    async with backend.asking:
        try:
            return JsonResponse(await _ask(engine, batch_id, asked))
        except InvalidDocument as error:
            raise invalid(error.problems) from None


async def _ask(engine: WhatIf, batch_id: str, asked: WhatIfRequest) -> dict[str, Any]:
    if asked.sweep is not None:
        return await engine.by_sweep(batch_id, asked.sweep.path, asked.sweep.values, asked.shown)
    if asked.workflow is not None:
        return await engine.by_workflow(batch_id, asked.workflow, asked.shown)
    return await engine.by_operations(batch_id, asked.operations, asked.shown)
