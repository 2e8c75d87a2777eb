"""Forks: a new run from any point of another one. What was done by then is not done again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from lua.patching import Patch, PatchRefused, Reason
from lua.run_image import Rebuilt
from lua.run_rebuild import RunRebuild
from orchestrator_api.bodies import JsonResponse, RequestShape, read_request
from orchestrator_api.forgotten import packed
from orchestrator_api.openapi import answers, body
from orchestrator_api.patches import invalid_patch, refusal_of
from orchestrator_api.problems import Refusal, not_found, too_large
from orchestrator_api.requests import Line, LiveTokens, Name, RunId
from orchestrator_api.services import Backend, By, Services
from schemas.errors import InvalidDocument
from schemas.fold import fold
from schemas.fork import LIVE, forked, in_the_way
from schemas.ids import new_run_id
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import Revision, revise
from schemas.run_state import Reference, RunState
from schemas.snapshot import artifacts_in, dump_state
from schemas.submission import request_digest
from schemas.values import ARTIFACT

router = APIRouter(tags=["runs"])

STATE_BYTES = 32_000_000
"""Of the state that a fork begins with, large values not counted: it lies in the fork's first event."""
MAX_SEQ = 2**31 - 1
ITEMS_AT_ONCE = 100
"""Events that are read to see where a step ends; a patch may leave nothing in so many items."""
BODY_BYTES = LIMITS.patch_bytes + 16_000
_FORKED = {
    "run_id": "run_0193f2a5", "status": "RUNNING", "revision": 1,
    "forked_from": {"run_id": "run_0193f2a4", "seq": 12},
}  # fmt: skip


class ForkRequest(RequestShape):
    """POST /runs/{run_id}/fork"""

    at: int | None = Field(None, ge=1, le=MAX_SEQ, description="number of the event; the last at which it was alive")
    operations: Any = Field(None, description="RFC 6902, on the workflow that it had then")
    live_tokens: LiveTokens = Field("refuse", description="on nodes that are removed: refuse, or cancel them")
    description: Line | None = Field(None, description="what it is for; kept with who asked")
    labels: dict[str, str] | None = Field(None, max_length=LIMITS.labels, description="instead of those of the run")
    run_id: Name | None = Field(None, description="the fork's id; the same request again is the same fork")


@dataclass(frozen=True, slots=True)
class Origin:
    """The run that is forked, at the point where it is."""

    state: RunState
    ir: IR
    artifacts: Mapping[str, bytes]


@router.post(
    "/runs/{run_id}/fork",
    summary="Start a new run from any point of this one",
    status_code=201,
    openapi_extra=body(ForkRequest, {"at": 12, "description": "what would the other model say?"}),
    responses=answers(_FORKED, 400, 404, 409, 413, 415, 422, status=201, says="forked"),
)
async def fork_run(run_id: RunId, request: Request, backend: Backend, by: By) -> Response:
    """What had finished then is not executed again; what was under way begins anew, also child runs; people are asked
    again. With `operations` the fork goes on under the patched workflow. Its labels and priority are those of the run;
    it belongs to no batch."""
    asked = await read_request(request, ForkRequest, "patch_bytes", BODY_BYTES)
    await backend.submissions.refuse_when_full()
    origin = await _origin(backend, run_id, asked.at)
    revision = await _revised(origin, asked, request)
    fork_id = asked.run_id or new_run_id()
    digest = request_digest([run_id, asked.model_dump(exclude={"run_id"})])
    if not await _start(backend, origin, fork_id, digest, asked, by):
        known = await backend.store.redis.hget(backend.store.keys.run(fork_id), "request")
        if known is None or known.decode() != digest:
            raise Refusal(409, f"The run id {fork_id} is taken by another request.")
        view = await _view(backend, fork_id, origin)
        if revision is None or (view["status"], view["revision"]) != ("PAUSED", 1):
            return JsonResponse(view)
        # Who asked first was cut off before the patch.
        await _patch(backend, fork_id, revision, asked, by)
        return JsonResponse(await _view(backend, fork_id, origin))
    if revision is not None:
        await _patch(backend, fork_id, revision, asked, by)
    return JsonResponse(await _view(backend, fork_id, origin), 201, {"Location": f"/runs/{fork_id}"})


async def _view(backend: Services, fork_id: str, origin: Origin) -> dict[str, Any]:
    status, revision = await backend.store.redis.hmget(backend.store.keys.run(fork_id), "status", "revision")
    forked_from = {"run_id": origin.state.run_id, "seq": origin.state.seq}
    return {
        "run_id": fork_id, "status": status.decode(), "revision": int(revision), "forked_from": forked_from,
    }  # fmt: skip


# -- the point at which it is forked -----------------------------------------------------------------
async def _origin(backend: Services, run_id: str, at: int | None) -> Origin:
    """Raises Refusal: 404; 409 where nothing is left to be done."""
    state = await _state(backend, run_id, at)
    if any(digest != state.digest for digest in state.adopted.values()):
        raise Refusal(409, f"At event {state.seq} items of its maps still followed a patch; name another event.")
    text = await _ir_text(backend, run_id, state.digest)
    if text is None:
        raise not_found("IR of the run", run_id)
    names = [reference.removeprefix(ARTIFACT) for reference in artifacts_in(state)]
    artifacts = await packed(backend, run_id, names)
    if missing := [name for name in names if name not in artifacts]:
        raise Refusal(409, f"The artifact {missing[0]} of the run is gone.")
    return Origin(state, await asyncio.to_thread(IR.from_json, text), artifacts)


async def _state(backend: Services, run_id: str, at: int | None) -> RunState:
    state = await backend.log.state(run_id, at)
    if state is None:
        raise not_found("run", run_id)
    if at is not None and state.seq < at:
        raise not_found(f"event {at} of the run", run_id)
    state = await _whole_step(backend, state)
    if state.status in (*LIVE, "FAILED") and state.tokens:
        return state
    if at is None and state.status != "COMPLETED" and state.seq > 1:  # it was ended from outside
        before = await backend.log.state(run_id, state.seq - 1)
        if before is not None and before.tokens:
            return before
    detail = f"At event {state.seq} the run is {state.status}, and nothing is left to be done: name an earlier event."
    raise Refusal(409, detail, run_status=state.status, seq=state.seq)


async def _whole_step(backend: Services, state: RunState) -> RunState:
    """The state after all events of the step that the state's last one is of: an item of a map that a step leaves
    nothing in is not done before the event that follows."""
    while True:
        after = await backend.log.after(state.run_id, state.seq, ITEMS_AT_ONCE)
        ended = list(takewhile(lambda event: event.type == "item_completed", after))
        if not ended:
            return state
        state = fold(ended, state)


async def _ir_text(backend: Services, run_id: str, digest: str) -> str | None:
    keys = backend.store.keys
    newest = await backend.store.redis.hget(keys.run(run_id), "digest")
    if newest is not None and newest.decode() == digest and (text := await backend.store.ir_text(run_id)):
        return text
    return await backend.revisions.ir(run_id, digest)


# -- the patch ---------------------------------------------------------------------------------------
async def _revised(origin: Origin, asked: ForkRequest, request: Request) -> Revision | None:
    """What the patch makes of the workflow. Raises Refusal, before anything is started."""
    if asked.operations is None:
        return None
    try:
        revision = await asyncio.to_thread(revise, origin.ir, asked.operations)
    except InvalidDocument as error:
        raise invalid_patch(error, request) from None
    difference = revision.difference
    gone = [] if asked.live_tokens == "cancel" else list(difference.gone)
    if tokens := in_the_way(origin.state, gone, list(difference.retyped)):
        reason: Reason = "live_tokens" if any(node in gone for _, node, _ in tokens) else "retyped"
        message = "At that event the run has tokens on nodes that the patch removes or makes something else of."
        raise refusal_of(PatchRefused(reason, message, tokens=tokens[:100]))
    return revision


async def _patch(backend: Services, fork_id: str, revision: Revision, asked: ForkRequest, by: str) -> None:
    """The fork waits until it has its workflow. A patch that is refused after all ends it."""
    said = {"by": by or "api", "description": asked.description}
    event = {name: value for name, value in said.items() if value}
    patch = Patch(lambda ir: revision, event, cancel=asked.live_tokens == "cancel", revision=1)
    try:
        done = await backend.patching.patch(fork_id, patch)
    except (PatchRefused, InvalidDocument) as error:
        if isinstance(error, PatchRefused) and error.reason == "precondition":
            return  # the same request, asked again, was quicker
        await backend.store.end_run(fork_id, "CANCELLED", {"by": by or "api", "reason": "its patch was refused"})
        raise (refusal_of(error) if isinstance(error, PatchRefused) else error) from None
    if done.status == "PAUSED":
        await backend.store.resume_run(fork_id, {"by": by or "api", "reason": "the fork is patched"})


# -- the start ---------------------------------------------------------------------------------------
async def _start(backend: Services, origin: Origin, fork_id: str, digest: str, asked: ForkRequest, by: str) -> bool:
    """False if there is a run with this id."""
    told = _first_event(origin, digest, asked, by or "api", backend.options.retention_ms)
    now = await backend.store.now()
    state = forked(origin.state, fork_id, told, at=now, paused=asked.operations is not None)
    if asked.labels is not None:
        state.labels = asked.labels
    text = dump_state(state)
    if len(text) > STATE_BYTES:
        raise too_large("state_bytes", STATE_BYTES)
    event = {**told, "labels": state.labels, "state": orjson.Fragment(text), "artifacts": artifacts_in(state)}
    rebuilt = Rebuilt(state, origin.ir, origin.artifacts)
    return await RunRebuild(backend.store).restore(rebuilt, "run_forked", event, now)


def _first_event(origin: Origin, digest: str, asked: ForkRequest, by: str, retention_ms: int) -> dict[str, Any]:
    state = origin.state
    fields = {"retention_ms": str(retention_ms)}
    if timeout_ms := (state.started.get("fields") or {}).get("timeout_ms"):
        fields["timeout_ms"] = timeout_ms
    value = {"stored_input": state.input.text} if isinstance(state.input, Reference) else {"input": state.input}
    told = {
        "workflow_id": state.workflow_id, "version": state.version, "priority": state.priority, "request": digest,
        "revision": 1, "digest": state.digest, "by": by, "fields": fields,
        "forked_from": {"run_id": state.run_id, "seq": state.seq}, **value,
    }  # fmt: skip
    return told | ({"description": asked.description} if asked.description else {})
