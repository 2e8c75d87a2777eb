"""Patches of a batch: of all of it, of the live runs that a filter takes, of a canary that is promoted or reverted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from history.batch_control import BatchBusy
from history.batch_patches import ALL, OUTCOMES, Asked, BatchPatch, OpenItem, Outcome, Result
from orchestrator_api.batch_actions import busy
from orchestrator_api.batch_patching import BatchPatching, Manner
from orchestrator_api.bodies import (
    JSON,
    JsonResponse,
    QueryShape,
    expect_media,
    read_body,
    read_json,
    read_request,
    read_shape,
)
from orchestrator_api.control import ACTION_BYTES
from orchestrator_api.openapi import answers, body, optional_body
from orchestrator_api.patches import invalid_patch
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import (
    BatchId,
    BatchPatchRequest,
    DryRun,
    PromoteRequest,
    RevertRequest,
)
from orchestrator_api.services import Backend, By, Services
from schemas.errors import InvalidDocument, Problem
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import Difference

router = APIRouter(tags=["patches"])

BESIDE_BYTES = 1_000_000
"""What a body may have beside its operations: `patch_keys` keys of some 100 bytes."""
SHOWN = 100
"""Runs that did not take it, in the answer; the page of a patch has all of them."""
_WRAPPED = 3  # levels of a request around the value of an operation
_HINDERED: tuple[Outcome, ...] = ("refused", "kept")
_EXAMPLE = {
    "operations": [{"op": "replace", "path": "/nodes/greet/config/prompt", "value": "Welcome {{ input.name }}"}],
    "canary": {"first": 50},
}
_PATCH = {
    "batch_id": "batch_0193f2a4", "number": 1, "state": "canary", "done": True, "by": "ada", "description": None,
    "at": 1760000000000, "changed_at": 1760000000000, "options": {"canary": {"first": 50}},
    "counts": {"patched": 47, "reverted": 0, "refused": 1, "kept": 0, "ended": 2, "waiting": 0, "begin": 0},
}  # fmt: skip
_RUN = {
    "run_id": "run_0193f2a4", "key": "Ada", "outcome": "refused", "revision": 1,
    "reason": {"reason": "live_tokens", "message": "...", "tokens": []},
}  # fmt: skip
_ANSWER = {**_PATCH, "hindered": [_RUN]}


@router.post(
    "/batches/{batch_id}/patch",
    summary="Edit the workflow of a batch while it runs: of all of it, of some runs, or of a canary",
    openapi_extra=body(BatchPatchRequest, _EXAMPLE),
    responses=answers({**_ANSWER, "added": [], "removed": [], "changed": ["greet"]}, 400, 404, 409, 413, 415, 422),
)
async def patch_batch(
    batch_id: BatchId, query: Annotated[DryRun, Query()], request: Request, backend: Backend, by: By
) -> Response:
    """Each run takes the patch by itself, or says why it does not. What has not started begins with it. Cut off, the
    same request completes it, and no run is patched twice."""
    asked = await _read_patch(request)
    async with _alone(backend, batch_id) as batch:
        patches, work = backend.history.batch_patches, BatchPatching(backend.patching, backend.history, batch_id)
        patch = await patches.newest(batch_id)
        again = patch is not None and _is_cut_off(patch, asked)
        base = await work.ir(patch.before) if patch and again else await work.base()
        try:
            after, difference = await asyncio.to_thread(work.after, base, asked.operations)
        except InvalidDocument as error:
            raise invalid_patch(error, request) from None
        if patch and again:
            chosen = await _chosen(backend, patch)
        else:
            number = patch.number + 1 if patch else 1
            made, chosen = await _make(work, asked, batch["total"], by, base, after)
            if query.dry_run:
                return JsonResponse(await _try(work, made, number, chosen, by) | _changes(difference))
            patch = await patches.start(batch_id, made, sorted(chosen or ()))
        if query.dry_run:
            return JsonResponse(await _try(work, patch, patch.number, chosen, by) | _changes(difference))
        patch = await _go_forward(backend, work, patch, by)
        return JsonResponse(await _answer(backend, patch) | _changes(difference))


@router.post(
    "/batches/{batch_id}/promote",
    summary="Give the newest patch of a batch to all that has not got it",
    openapi_extra=optional_body(PromoteRequest, {"reason": "the canary is well"}),
    responses=answers({**_ANSWER, "state": "applied"}, 404, 409, 422),
)
async def promote_patch(
    batch_id: BatchId, query: Annotated[DryRun, Query()], request: Request, backend: Backend, by: By
) -> Response:
    """Of a canary, to all other live runs and to what has not started. Of a patch that is applied, to the runs that
    refused it: they are asked again."""
    asked = await read_request(request, PromoteRequest, "action_bytes", ACTION_BYTES, optional=True)
    async with _alone(backend, batch_id):
        work = BatchPatching(backend.patching, backend.history, batch_id)
        patch = await _newest(backend, batch_id)
        if patch.state == "reverted":
            raise Refusal(409, f"Patch {patch.number} was reverted.", number=patch.number, state=patch.state)
        given = {"live_tokens": asked.live_tokens, "running": asked.running}
        options = {**patch.options, **{name: value for name, value in given.items() if value}}
        whole = replace(patch, state="applied", options=options, through=None if patch.through is None else ALL)
        if query.dry_run:
            return JsonResponse(await _try(work, whole, patch.number, await _chosen(backend, patch), by))
        patch = await backend.history.batch_patches.change(patch, "applied", by or "api", asked.reason, options)
        patch = await _go_forward(backend, work, patch, by)
        return JsonResponse(await _answer(backend, patch))


@router.post(
    "/batches/{batch_id}/revert",
    summary="Take the newest patch of a batch back",
    openapi_extra=optional_body(RevertRequest, {"reason": "the summaries are worse"}),
    responses=answers({**_ANSWER, "state": "reverted"}, 404, 409, 422),
)
async def revert_patch(
    batch_id: BatchId, query: Annotated[DryRun, Query()], request: Request, backend: Backend, by: By
) -> Response:
    """Live runs that have it get, as a new revision, the workflow that they had before; what has not started begins
    with that of before. A run that was patched by itself since is `kept` as it is. Asked again, it asks those again."""
    asked = await read_request(request, RevertRequest, "action_bytes", ACTION_BYTES, optional=True)
    async with _alone(backend, batch_id):
        patches, work = backend.history.batch_patches, BatchPatching(backend.patching, backend.history, batch_id)
        patch = await _newest(backend, batch_id)
        manner = _manner(asked.model_dump(), by, asked.reason, patch.number, dry=query.dry_run, reverted=True)
        back = work.back(patch.number, manner)
        if query.dry_run:
            items, _ = await work.open()
            head = {"batch_id": batch_id, "number": patch.number, "state": "reverted"}
            return JsonResponse(head | _tried(items, await work.ask(items, back, None), 0))
        patch = await patches.change(patch, "reverted", by or "api", asked.reason, patch.options)
        await backend.history.batch_control.await_claims(batch_id)
        items, _ = await work.open()
        await work.ask(items, back, patch)
        return JsonResponse(await _answer(backend, await patches.finish(patch)))


async def _go_forward(backend: Services, work: BatchPatching, patch: BatchPatch, by: str) -> BatchPatch:
    """Ask the runs that a patch is for. Items that are admitted from now on begin with it: it is kept already, and the
    claims that did not see it have ended."""
    patches = backend.history.batch_patches
    await backend.history.batch_control.await_claims(patch.batch_id)
    items, _ = await work.open(patch.through, await _chosen(backend, patch))
    manner = _manner(patch.options, by, patch.description, patch.number)
    await work.ask(items, work.forward(patch, patch.number, manner), patch)
    return await patches.finish(patch)


async def _try(
    work: BatchPatching, patch: Asked | BatchPatch, number: int, chosen: Set[int] | None, by: str
) -> dict[str, Any]:
    """What would come of it."""
    items, waiting = await work.open(patch.through, chosen)
    manner = _manner(patch.options, by, patch.description, number, dry=True)
    results = await work.ask(items, work.forward(patch, number, manner), None)
    return {"batch_id": work.batch_id, "number": number, "state": patch.state} | _tried(items, results, waiting)


# -- what is asked -----------------------------------------------------------------------------------
@asynccontextmanager
async def _alone(backend: Services, batch_id: str) -> AsyncIterator[Mapping[str, Any]]:
    """The batch, while nothing else is done to it. Raises Refusal: 404; 409 if it has ended, or something is."""
    try:
        async with backend.history.batch_control.alone(batch_id):
            batch = await backend.history.batches.get(batch_id)
            if batch is None:
                raise not_found("batch", batch_id)
            if batch["status"] not in ("RUNNING", "PAUSED"):
                raise Refusal(409, f"The batch is {batch['status']}.", batch_status=batch["status"])
            yield batch
    except BatchBusy:
        raise busy() from None


async def _newest(backend: Services, batch_id: str) -> BatchPatch:
    patch = await backend.history.batch_patches.newest(batch_id)
    if patch is None:
        raise Refusal(409, "The batch has no patch.")
    return patch


async def _make(
    work: BatchPatching, asked: BatchPatchRequest, total: int, by: str, base: IR, after: IR
) -> tuple[Asked, Set[int] | None]:
    """The patch that is asked for, and the positions that its filter chooses. Raises Refusal (422) if none are."""
    through: int | None = ALL
    chosen: Set[int] | None = None
    if asked.canary:
        through = await work.canary(asked.canary, total)
    elif asked.filter:
        through, chosen = None, {item.position for item in await work.filtered(asked.filter)}
        if not chosen:
            raise invalid([Problem("/filter", "out-of-range", "No live run of the batch is chosen.")])
    made = Asked(by or "api", asked.description, asked.operations, _options(asked), through, base.digest, after)
    return made, chosen


async def _chosen(backend: Services, patch: BatchPatch) -> Set[int] | None:
    """The positions that the patch's filter chose; None without one."""
    return await backend.history.batch_patches.chosen(patch) if "filter" in patch.options else None


def _is_cut_off(newest: BatchPatch, asked: BatchPatchRequest) -> bool:
    """Whether the newest patch was cut off and is asked for once more. Raises Refusal (409) where it has to be settled
    before another one."""
    if newest.done and newest.state != "canary":
        return False
    same = (newest.description, newest.operations, newest.options) == (
        asked.description, asked.operations, _options(asked),
    )  # fmt: skip
    if not newest.done and same and newest.state == ("canary" if asked.canary else "applied"):
        return True
    what = f"Patch {newest.number} "
    if newest.state == "reverted":
        what += "is reverted in part: revert completes that."
    elif not newest.done:
        what += "reached only a part of its runs: promote completes it, revert takes it back."
    else:
        what += "is a canary: promote or revert it first."
    raise Refusal(409, what, number=newest.number, state=newest.state)


async def _read_patch(request: Request) -> BatchPatchRequest:
    expect_media(request, (JSON,))
    raw = await read_body(request, "patch_bytes", LIMITS.patch_bytes + BESIDE_BYTES)
    return read_shape(BatchPatchRequest, read_json(raw, wrapped=_WRAPPED, unique=True))


def _options(asked: BatchPatchRequest) -> dict[str, Any]:
    """What was asked for beside the default, as it is kept."""
    options: dict[str, Any] = {}
    if asked.live_tokens != "refuse":
        options["live_tokens"] = asked.live_tokens
    if asked.running != "keep":
        options["running"] = asked.running
    for name, value in (("filter", asked.filter), ("canary", asked.canary)):
        if value:
            options[name] = value.model_dump(exclude_none=True)
    return options


def _manner(
    options: Mapping[str, Any], by: str, description: str | None, number: int, *, dry: bool = False, **more: Any
) -> Manner:
    said = {"by": by or "api", "description": description, "batch_patch": number, **more}
    return Manner(
        {name: value for name, value in said.items() if value},
        options.get("live_tokens") == "cancel",
        options.get("running") == "restart",
        dry,
    )


# -- what came of it ---------------------------------------------------------------------------------
def view(patch: BatchPatch, counts: Mapping[str, int]) -> dict[str, Any]:
    """A patch without its operations."""
    names = ("batch_id", "number", "state", "done", "by", "description", "at", "changed_at", "options")
    return {name: getattr(patch, name) for name in names} | {"counts": counts}


async def _answer(backend: Services, patch: BatchPatch) -> dict[str, Any]:
    patches = backend.history.batch_patches
    hindered = [_run_view(row) for row in await patches.runs(patch, _HINDERED, SHOWN)]
    return view(patch, await patches.counts(patch)) | {"hindered": hindered}


def _tried(items: Sequence[OpenItem], results: Sequence[Result], begin: int) -> dict[str, Any]:
    """What a dry run answers."""
    found = Counter(result.outcome for result in results)
    item_of = {item.position: item for item in items}
    hindered = [
        {"run_id": item_of[one.position].run_id, "key": item_of[one.position].key, "outcome": one.outcome,
         "revision": one.revision, "reason": one.reason}
        for one in results if one.outcome in _HINDERED
    ]  # fmt: skip
    counts = {outcome: found[outcome] for outcome in OUTCOMES} | {"waiting": 0, "begin": begin}
    return {"dry_run": True, "counts": counts, "hindered": hindered[:SHOWN]}


def _changes(difference: Difference) -> dict[str, Any]:
    return {"added": difference.added, "removed": difference.removed, "changed": difference.changed}


def _run_view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("run_id", "key", "outcome", "revision", "reason")}


class PatchPage(QueryShape):
    """GET /batches/{batch_id}/patches/{number}"""

    outcome: Outcome | None = None
    limit: int = Query(50, ge=1, le=500)
    after: int = Field(-1, ge=-1, le=ALL, description="runs of the items after this position")


@router.get(
    "/batches/{batch_id}/ir",
    summary="The compiled workflow that the items of a batch begin with now",
    responses=answers({"ir_version": 1, "workflow": {}}, 404, 422),
)
async def get_batch_ir(batch_id: BatchId, backend: Backend) -> Response:
    """What the next patch is made on. A canary does not count until it is promoted."""
    if await backend.history.batches.get(batch_id) is None:
        raise not_found("batch", batch_id)
    digest = await backend.history.batch_patches.begins_with(batch_id)
    return Response(await backend.history.workflows.ir(digest), media_type=JSON)


@router.get(
    "/batches/{batch_id}/patches",
    summary="The patches of a batch, the newest first",
    responses=answers({"patches": [_PATCH]}, 404, 422),
)
async def list_patches(batch_id: BatchId, backend: Backend) -> Response:
    """At most 100. `counts.begin`: items that have not started and will begin with it."""
    patches = backend.history.batch_patches
    found = await patches.list(batch_id)
    if not found and await backend.history.batches.get(batch_id) is None:
        raise not_found("batch", batch_id)
    return JsonResponse({"patches": [view(patch, await patches.counts(patch)) for patch in found]})


@router.get(
    "/batches/{batch_id}/patches/{number}",
    summary="A patch of a batch, and what came of each run",
    responses=answers({**_PATCH, "operations": [], "runs": [_RUN], "next_after": None}, 404, 422),
)
async def get_patch(
    batch_id: BatchId, number: Annotated[int, Path(ge=1, le=2**31 - 1)], page: Annotated[PatchPage, Query()],
    backend: Backend,
) -> Response:  # fmt: skip
    """The runs that were asked, in the order of their items; `next_after` is where the next page goes on, else null."""
    patches = backend.history.batch_patches
    patch = await patches.get(batch_id, number)
    if patch is None:
        raise not_found(f"patch {number} of the batch", batch_id)
    rows = await patches.runs(patch, [page.outcome] if page.outcome else [], page.limit, page.after)
    return JsonResponse(
        view(patch, await patches.counts(patch))
        | {
            "operations": patch.operations,
            "runs": [_run_view(row) for row in rows],
            "next_after": rows[-1]["position"] if len(rows) == page.limit else None,
        }
    )
