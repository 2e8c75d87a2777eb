"""The application: routes, the guard before them, and every failure as a problem document."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import redis.exceptions
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg import DataError, OperationalError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from history.artifact_store import StoreAway
from history.dropped_events import EventsDropped
from history.events import NotRecorded
from history.history import History
from history.named_connections import NamedConnections
from history.runs import InvalidCursor
from lua.run_store import RunStore
from orchestrator_api import (
    approvals,
    audit,
    batch_actions,
    batch_patches,
    batches,
    comparisons,
    completions,
    control,
    dead_letters,
    events,
    explanations,
    forks,
    health,
    metrics,
    models,
    past_states,
    patches,
    questions,
    results,
    revisions,
    runners,
    runs,
    whatif,
    workflows,
)
from orchestrator_api.bodies import refuse, shape_problems
from orchestrator_api.dashboard import page
from orchestrator_api.guard import Guard
from orchestrator_api.options import ApiOptions
from orchestrator_api.problems import Refusal, invalid, problem_response, unavailable
from orchestrator_api.services import Services
from orchestrator_api.whatif import WhatIf
from schemas.errors import InvalidDocument, Problem
from schemas.fold import BrokenHistory

log = logging.getLogger("pavane.api")

ROUTERS = (
    workflows, runs, control, patches, revisions, events, explanations, past_states, forks, comparisons, batches,
    batch_actions, batch_patches, whatif, results, audit, questions, approvals, completions, models, runners,
    dead_letters, health, metrics, page,
)  # fmt: skip
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    OperationalError,
)
"""What a server that is away, or full, makes of a request: not the client's fault, and over some time later."""


def create_app(
    store: RunStore, history: History, options: ApiOptions, connections: NamedConnections | None = None,
    what_if: WhatIf | None = None,
) -> FastAPI:  # fmt: skip
    """The ASGI application of one API process. The connections belong to the caller.

    Live event streams last as long as their runs: who stops a server calls `app.state.services.tail.close()` first.
    """
    app = FastAPI(
        title="Pavane",
        summary="Runs items through multi-step, multi-model LLM workflows on a few GPUs.",
        description="Times are ms since the epoch, errors RFC 9457 documents; every route is also under /api/v1.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = Services(store, history, options, connections or NamedConnections({}), what_if)
    app.add_middleware(Guard, options=options)
    for module in ROUTERS:
        app.include_router(module.router)
    for error, handler in _handlers(options).items():
        app.add_exception_handler(error, handler)
    return app


def _handlers(options: ApiOptions) -> dict[Any, Callable[[Request, Any], Response]]:
    """Failures by class. Whatever is none of these is a fault of ours: logged, and answered without any detail."""

    def away(_: Request, error: Exception) -> Response:
        name = "Postgres" if isinstance(error, OperationalError) else "Redis"
        name = "The artifact store" if isinstance(error, StoreAway) else name
        log.warning("%s is away: %s", name, error)
        return unavailable(f"{name} does not answer just now.", options.retry_after_s).response()

    handlers: dict[Any, Callable[[Request, Any], Response]] = {
        Refusal: lambda _, error: error.response(),
        InvalidDocument: lambda _, error: refuse(error).response(),
        RequestValidationError: lambda _, error: invalid(shape_problems(error.errors())).response(),
        InvalidCursor: lambda _, error: invalid([Problem("/query/cursor", "bad-value", str(error))]).response(),
        DataError: lambda _, error: invalid([], "The request holds text that Postgres does not keep.").response(),
        BrokenHistory: _broken,
        EventsDropped: _dropped,
        NotRecorded: _not_recorded,
        HTTPException: _http,
        Exception: _fault,
    }
    return handlers | dict.fromkeys(AWAY, away)


def _http(_: Request, error: HTTPException) -> Response:
    details = {404: "There is no such route.", 405: "This route does not know the method."}
    detail = details.get(error.status_code, str(error.detail))
    return problem_response(error.status_code, detail, headers=error.headers)


def _broken(_: Request, error: BrokenHistory) -> Response:
    log.error("a run's events are not whole: %s", error)
    return unavailable("The run's recorded events are not whole.", 60).response()


def _dropped(_: Request, error: EventsDropped) -> Response:
    seq, at, file = error.dropped
    return problem_response(410, str(error), extra={"dropped_seq": seq, "dropped_at": at, "export": file})


def _not_recorded(_: Request, error: NotRecorded) -> Response:
    return problem_response(
        409, f"{str(error)[0].upper()}{str(error)[1:]}.", extra={"first": error.first, "last": error.last}
    )


def _fault(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(500, "A fault of this service; its log says why.")
