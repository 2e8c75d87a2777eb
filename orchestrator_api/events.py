"""Events of a run: as JSON, and live as server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from redis.exceptions import RedisError
from starlette.responses import Response, StreamingResponse

from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import invalid, not_found
from orchestrator_api.requests import RunId
from orchestrator_api.services import Backend, Services
from schemas.errors import Problem
from schemas.events import STATUS_OF, Event

router = APIRouter(tags=["events"])

log = logging.getLogger("pavane.api")

LIVE = "text/event-stream"
MAX_SEQ = 2**31 - 1


class EventFilter(QueryShape):
    """GET /runs/{run_id}/events"""

    after: int = Query(0, ge=0, le=MAX_SEQ, description="events with larger numbers only")
    limit: int = Query(1_000, ge=1, le=10_000)


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


async def _expect_run(backend: Services, run_id: str) -> str:
    """The run's status. Raises Refusal (404)."""
    status = await backend.states.status(run_id)
    if status is None:
        raise not_found("run", run_id)
    return status
