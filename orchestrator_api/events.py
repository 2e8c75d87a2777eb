"""Events of a run: as JSON, live as server-sent events, and folded to the state at any of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from redis.exceptions import RedisError
from starlette.responses import Response, StreamingResponse

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import invalid, not_found
from orchestrator_api.requests import RunId
from orchestrator_api.services import Backend, Services
from orchestrator_api.token_views import live_tokens
from schemas.errors import Problem
from schemas.events import STATUS_OF, Event
from schemas.fold import Reference, RunState, run_output

router = APIRouter(tags=["events"])

log = logging.getLogger("pavane.api")

LIVE = "text/event-stream"
MAX_SEQ = 2**31 - 1


class EventFilter(QueryShape):
    """GET /runs/{run_id}/events"""

    after: int = Query(0, ge=0, le=MAX_SEQ, description="events with larger numbers only")
    limit: int = Query(1_000, ge=1, le=10_000)


class StateFilter(QueryShape):
    """GET /runs/{run_id}/state"""

    at: int | None = Query(None, ge=1, le=MAX_SEQ, description="number of the event; the last by default")


@router.get(
    "/runs/{run_id}/events",
    summary="What happened in a run; live with Accept: text/event-stream",
    responses=answers(
        {"events": [{"run_id": "run_0193f2a4", "seq": 1, "type": "run_started"}], "next_after": None}, 404, 422
    ),
)
async def get_events(
    run_id: RunId, query: Annotated[EventFilter, Query()], request: Request, backend: Backend
) -> Response:
    """In order, without gaps, each once; recorded or not. `next_after`: where the next page goes on, null at the end.

    Live: one message an event with its number as id, until the run has ended. A client that was cut off says
    `Last-Event-ID` and misses nothing; where nothing can follow any more it gets 204, so that browsers stop asking.
    """
    if LIVE in request.headers.get("accept", ""):
        return await _live(run_id, _last_seen(request, query.after), backend)
    events = await backend.log.after(run_id, query.after, query.limit)
    if not events:
        await _expect_run(backend, run_id)
    more = len(events) == query.limit
    return JsonResponse(
        {"events": [event.as_dict() for event in events], "next_after": events[-1].seq if more else None}
    )


def _last_seen(request: Request, after: int) -> int:
    given = request.headers.get("last-event-id", "").strip()
    if not given:
        return after
    if not given.isascii() or not given.isdigit() or int(given[:12]) > MAX_SEQ:
        raise invalid([Problem("/header/Last-Event-ID", "bad-value", "Last-Event-ID is the number of an event.")])
    return int(given)


async def _live(run_id: str, seq: int, backend: Services) -> Response:
    status = await _expect_run(backend, run_id)
    if status in STATUS_OF.values() and not await backend.log.after(run_id, seq, 1):
        return Response(status_code=204)
    return StreamingResponse(_messages(run_id, seq, backend), media_type=LIVE, headers={"X-Accel-Buffering": "no"})


async def _messages(run_id: str, seq: int, backend: Services) -> AsyncIterator[bytes]:
    """Server-sent events (WHATWG HTML, section 9.2)."""
    yield b"retry: 1000\n\n"
    try:
        async for event in backend.tail.follow(run_id, seq, backend.options.stream_ping_s):
            yield b": still there\n\n" if event is None else message(event)
    except RedisError as error:  # the client comes again, and goes on where it was
        log.warning("a live stream of %s ends: %s", run_id, error)


def message(event: Event) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (event.seq, orjson.dumps(event.as_dict()))


@router.get(
    "/runs/{run_id}/state",
    summary="The run as it was after any of its events",
    responses=answers({"run_id": "run_0193f2a4", "seq": 3, "status": "RUNNING", "outputs": {}}, 404, 422),
)
async def get_state(run_id: RunId, query: Annotated[StateFilter, Query()], backend: Backend) -> Response:
    """Folded from its events. Large values are shown as `artifact://sha256-...`."""
    state = await backend.log.state(run_id, query.at)
    if state is None:
        raise not_found("run", run_id)
    if query.at is not None and state.seq < query.at:
        raise not_found(f"event {query.at} of the run", run_id)
    return JsonResponse(_shown(state))


def _shown(state: RunState) -> dict[str, Any]:
    return {
        "run_id": state.run_id,
        "seq": state.seq,
        "status": state.status,
        "workflow_id": state.workflow_id,
        "version": state.version,
        "revision": state.revision,
        "digest": state.digest,
        "batch_id": state.batch_id,
        "key": state.key,
        "labels": state.labels,
        "priority": state.priority,
        "input": _named(state.input),
        "outputs": _root(state.outputs),
        "output": _named(run_output(state)),
        "ends": sorted(state.ends.get("", ())),
        "passes": state.passes.get("", {}),
        "error": state.error,
        "live_tokens": live_tokens(state.tokens),
        "waiting": state.waiting.get("", {}),
        "counter": state.live,
        "created_at": state.created_at,
        "ended_at": state.ended_at,
        "usage": asdict(state.usage),
    }


def _root(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {node: _named(value) for node, value in outputs.get("", {}).items()}


def _named(value: Any) -> Any:
    if isinstance(value, Reference):
        return value.text
    if isinstance(value, dict):  # a run's output of several ends; plain values hold no references
        return {name: inner.text if isinstance(inner, Reference) else inner for name, inner in value.items()}
    return value


async def _expect_run(backend: Services, run_id: str) -> str:
    """The run's status. Raises Refusal (404)."""
    status = await backend.states.status(run_id)
    if status is None:
        raise not_found("run", run_id)
    return status
