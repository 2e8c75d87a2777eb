"""Questions that people ask of what is recorded: what is missing, what it cost, what errs, is slow, fails; a search."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from history.questions.criteria import MAX_CRITERIA, Criterion, InvalidCriterion, read_criterion
from history.questions.missing import UnknownNode, by_reason
from history.questions.moments import read_moment
from history.questions.scope import Scope, TooMuch, page_of, place, read_place
from history.questions.search import Search
from orchestrator_api.bodies import JsonResponse
from orchestrator_api.openapi import answers
from orchestrator_api.problems import invalid, not_found
from orchestrator_api.requests import LABEL_NAME, Line, Name, Page, WorkflowName
from orchestrator_api.services import Backend, Services
from schemas.errors import Problem
from schemas.ids import NODE_ID
from schemas.limits import LIMITS
from schemas.prices import NO_PRICES

router = APIRouter(tags=["questions"])

DEFAULT_SINCE = "7d"
"""Where neither a time nor a batch is named."""
QUESTIONS = {
    "missing": "which items of a batch have no output of a node, and where they are now",
    "cost": "what tasks took: tokens, seconds, GPU seconds, loads, money",
    "conditions": "which conditions are in error, and so count as false",
    "slowest": "how long tasks ran and waited, the slowest first",
    "failures": "what failed, and what came of it",
    "search": "runs by label, input, output, error text or status",
}
_ASKED = {"since": 1760000000000, "until": None, "batch_id": None, "workflow_id": "screening", "dropped": None}
_RUN = {"run_id": "run_0193f2a4", "workflow_id": "screening", "status": "FAILED", "key": "17"}


class _Scoped(Page):
    """What every question can be bounded by."""

    since: str | None = Field(None, max_length=64, description="7d, 12h, an ISO date or time; 7d if no batch is named")
    until: str | None = Field(None, max_length=64, description="likewise")
    batch_id: Name | None = None
    workflow_id: WorkflowName | None = None


class MissingQuery(Page):
    """GET /ask/missing"""

    node: str = Field(pattern=NODE_ID.pattern, description="whose output they should have")
    batch_id: Name


class CostQuery(_Scoped):
    """GET /ask/cost"""

    by: str = Field("model", max_length=80, description="model, node, workflow, batch, day or label=NAME")
    model: Line | None = Field(None, description="of this model alone")


class SlowestQuery(_Scoped):
    """GET /ask/slowest"""

    by: Literal["node", "model"] = "node"


class FailuresQuery(_Scoped):
    """GET /ask/failures"""

    by: Literal["class", "node", "model", "runner"] = "class"


class SearchQuery(_Scoped):
    """GET /ask/search"""

    status: Literal["RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"] | None = None
    label: list[str] = Field(default_factory=list, max_length=LIMITS.labels, description="NAME=VALUE")
    input: list[str] = Field(
        default_factory=list, max_length=MAX_CRITERIA, description="PATH=VALUE, PATH~TEXT, PATH<N, PATH>N ..."
    )
    output: list[str] = Field(default_factory=list, max_length=MAX_CRITERIA, description="NODE.PATH=VALUE and so on")
    error: str | None = Field(None, min_length=1, max_length=500, description="a part of the error's class or message")


@router.get(
    "/ask",
    summary="The questions that can be asked",
    responses=answers({"questions": [{"question": "cost", "path": "/ask/cost", "answers": QUESTIONS["cost"]}]}),
)
async def list_questions() -> Response:
    """Each is a GET of its own, of what Postgres has recorded; docs/questions.md."""
    return JsonResponse({
        "questions": [
            {"question": name, "path": f"/ask/{name}", "answers": said} for name, said in QUESTIONS.items()
        ]
    })  # fmt: skip


@router.get(
    "/ask/missing",
    summary="Items of a batch without an output of a node",
    responses=answers(
        {"node": "grade", "batch_id": "batch_0193f2a4", "total": 200, "missing": 1, "next_cursor": None,
         "reasons": [{"reason": "failed", "node": "extract", "detail": "timeout", "items": 1, "since": None}],
         "items": [{"key": "17", "run_id": "run_0193f2a4", "status": "FAILED", "reason": "failed"}]},
        404, 422,
    ),
)  # fmt: skip
async def ask_missing(backend: Backend, query: Annotated[MissingQuery, Query()]) -> Response:
    """`reasons` counts all of them; `items` is a page, in the order of the items. `dropped`: what retention took of the
    batch's events; of a run without them it is not known where it went, nor what it had in a map (`not kept`)."""
    with _bounded():
        answer = await backend.history.questions.missing(query.batch_id, query.node)
    if answer is None:
        raise not_found("batch", query.batch_id)
    found, total = answer
    with _bounded():
        dropped = await backend.history.questions.dropped(Scope(batch_id=query.batch_id))
    # By their positions: what is done between two pages moves nothing.
    first = read_place(query.cursor)
    following = [one for one in found if one.position >= first]
    page = following[: query.limit]
    cursor = place(page[-1].position + 1) if len(following) > query.limit else None
    items = [
        {"position": one.position, "key": one.key, "run_id": one.run_id, "status": one.status, **asdict(one.place)}
        for one in page
    ]
    return JsonResponse({
        "node": query.node, "batch_id": query.batch_id, "total": total, "missing": len(found),
        "reasons": by_reason(found), "items": items, "next_cursor": cursor,
        "dropped": dropped,
    })  # fmt: skip


@router.get(
    "/ask/cost",
    summary="What tasks took, by model, node, workflow, batch, day or label",
    responses=answers(
        {**_ASKED, "by": "model", "total": {"tasks": 722, "gpu_s": 37.3}, "next_cursor": None, "rows": [
            {"name": "qwen2.5:7b", "tasks": 286, "failed": 0, "prompt_tokens": 27138, "completion_tokens": 7044,
             "execution_s": 20.6, "gpu_s": 20.6, "failed_gpu_s": 0, "loads": 2, "load_s": 6.1}]},
        404, 422,
    ),
)  # fmt: skip
async def ask_cost(backend: Backend, query: Annotated[CostQuery, Query()]) -> Response:
    """Failed attempts cost too, and are counted. `money` is there where the operator has set prices, and null where a
    model has none. `whole` is false where there were over 10,000 groups."""
    by, label = _group(query.by)
    scope = await _scope(backend, query)
    prices = backend.options.prices
    with _bounded():
        rows, total, cut = await backend.history.questions.costs(
            scope, by, model=query.model, label=label, price=None if prices == NO_PRICES else prices.cost
        )
    return await _answer(backend, query, scope, rows, by=query.by, model=query.model, total=total, whole=not cut)


@router.get(
    "/ask/conditions",
    summary="Conditions that were in error",
    responses=answers(
        {**_ASKED, "next_cursor": None, "rows": [
            {"workflow_id": "screening", "node": "quality", "rule": "0", "expression": "output.score >= 80",
             "code": "no-such-field", "message": "output has no field 'score'", "count": 3, "runs": 3,
             "first_at": 1760000000000, "last_at": 1760000000000, "examples": ["run_0193f2a4"]}]},
        404, 422,
    ),
)  # fmt: skip
async def ask_conditions(backend: Backend, query: Annotated[_Scoped, Query()]) -> Response:
    """A condition in error counts as false, so a run goes on, another way."""
    scope = await _scope(backend, query)
    with _bounded():
        rows = await backend.history.questions.conditions(scope)
    return await _answer(backend, query, scope, rows)


@router.get(
    "/ask/slowest",
    summary="How long tasks ran and waited",
    responses=answers(
        {**_ASKED, "by": "node", "next_cursor": None, "rows": [
            {"name": "grade", "workflow_id": "screening", "tasks": 150, "total_s": 10.1, "examples": ["run_0193f2a4"],
             "execution_s": {"p50": 0.06, "p95": 0.13, "max": 0.22},
             "waiting_s": {"p50": 1.45, "p95": 1.57, "max": 1.6}}]},
        404, 422,
    ),
)  # fmt: skip
async def ask_slowest(backend: Backend, query: Annotated[SlowestQuery, Query()]) -> Response:
    """The highest 95th percentile of execution first. Waiting is from queued to started."""
    scope = await _scope(backend, query)
    with _bounded():
        rows = await backend.history.questions.durations(scope, query.by)
    return await _answer(backend, query, scope, rows, by=query.by)


@router.get(
    "/ask/failures",
    summary="What failed, by class, node, model or runner",
    responses=answers(
        {**_ASKED, "by": "class", "next_cursor": None, "rows": [
            {"name": "timeout", "attempts": 7, "tasks": 5, "recovered": 3, "taken_over": 1, "open": 0, "final": 1,
             "first_at": 1760000000000, "last_at": 1760000000000, "examples": ["run_0193f2a4"],
             "newest": {"class": "timeout", "message": "no result in 60 s", "run_id": "run_1", "node": "grade"}}]},
        404, 422,
    ),
)  # fmt: skip
async def ask_failures(backend: Backend, query: Annotated[FailuresQuery, Query()]) -> Response:
    """`attempts` that failed; of the `tasks` that they belong to, how many were `recovered` by another attempt,
    `taken_over` by on_error or as a map's result, are `open`, or `final`."""
    scope = await _scope(backend, query)
    with _bounded():
        rows = await backend.history.questions.failures(scope, query.by)
    return await _answer(backend, query, scope, rows, by=query.by)


@router.get(
    "/ask/search",
    summary="Runs by label, input, output, error text or status",
    responses=answers(
        {**_ASKED, "runs": [_RUN], "looked_at": 20000, "whole": False, "next_cursor": "MTc2",
         "not_searched": {"inputs": 2, "outputs": 0, "unfinished": 0}},
        404, 422,
    ),
)  # fmt: skip
async def ask_search(backend: Backend, query: Annotated[SearchQuery, Query()]) -> Response:
    """All that is asked must hold. One page looks into at most 20,000 runs; where `whole` is false, `next_cursor` goes
    on behind them, even from an empty page. What is over 16 KB is not looked into: `not_searched` counts it."""
    wanted = Search(
        query.status, _labels(query.label), _criteria("input", query.input),
        [_of_node(c) for c in _criteria("output", query.output)], query.error,
    )  # fmt: skip
    if query.error is not None and "\0" in query.error:
        raise _bad("error", "The text holds U+0000, which no error has.")
    scope = await _scope(backend, query, default=None)
    with _bounded():
        found = await backend.history.questions.search(scope, wanted, limit=query.limit, cursor=query.cursor)
    return JsonResponse(asdict(scope) | found)


async def _answer(backend: Services, query: _Scoped, scope: Scope, rows: list[dict[str, Any]], **more: Any) -> Response:
    """With what was dropped of the events that it is made of."""
    page, cursor = page_of(rows, query.limit, query.cursor)
    with _bounded():
        more["dropped"] = await backend.history.questions.dropped(scope)
    return JsonResponse({**asdict(scope), **more, "groups": len(rows), "rows": page, "next_cursor": cursor})


@contextmanager
def _bounded() -> Iterator[None]:
    try:
        yield
    except TooMuch as error:
        raise invalid([Problem("/query/since", "too-much", str(error))]) from None
    except UnknownNode as error:
        raise invalid([Problem("/query/node", "unknown-node", str(error))]) from None


async def _scope(backend: Services, query: _Scoped, default: str | None = DEFAULT_SINCE) -> Scope:
    now = int(time.time() * 1_000)
    since = query.since or (default if query.batch_id is None else None)
    times: dict[str, int | None] = {}
    for name, text in (("since", since), ("until", query.until)):
        try:
            times[name] = None if text is None else read_moment(text, now)
        except ValueError as error:
            raise _bad(name, str(error)) from None
    if times["since"] is not None and times["until"] is not None and times["since"] >= times["until"]:
        raise _bad("until", "`until` must lie after `since`.")
    if query.batch_id is not None and await backend.history.batches.get(query.batch_id) is None:
        raise not_found("batch", query.batch_id)
    return Scope(times["since"], times["until"], query.batch_id, query.workflow_id)


def _group(by: str) -> tuple[str, str | None]:
    name, equals, label = by.partition("=")
    if name == "label" and equals and LABEL_NAME.fullmatch(label):
        return name, label
    if equals or name not in ("model", "node", "workflow", "batch", "day"):
        raise _bad("by", "Ask by model, node, workflow, batch, day or label=NAME.")
    return name, None


def _labels(asked: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in asked:
        name, equals, value = text.partition("=")
        if not equals or not name or "\0" in text:
            raise _bad("label", "Ask for a label as NAME=VALUE.")
        labels[name] = value
    return labels


def _criteria(name: str, asked: list[str]) -> list[Criterion]:
    try:
        return [read_criterion(text) for text in asked]
    except InvalidCriterion as error:
        raise _bad(name, f"{error}.") from None


def _of_node(criterion: Criterion) -> tuple[str, Criterion]:
    """An output's criterion begins with its node."""
    if not criterion.path or not NODE_ID.fullmatch(criterion.path[0]):
        raise _bad("output", "Begin the path of an output with its node: NODE.PATH=VALUE.")
    return criterion.path[0], Criterion(criterion.path[1:], criterion.operator, criterion.value)


def _bad(name: str, message: str) -> Exception:
    return invalid([Problem(f"/query/{name}", "bad-value", message)])
