"""Comparisons: of two runs or two batches, a fork and its origin, a batch's items with its patch and without."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from history.dropped_events import EventsDropped
from history.events import NotRecorded
from history.pairs import By
from orchestrator_api.bodies import JsonResponse, QueryShape
from orchestrator_api.openapi import answers
from orchestrator_api.problems import Refusal, invalid, not_found
from orchestrator_api.requests import Name
from orchestrator_api.run_states import SHOWN_BYTES, whole
from orchestrator_api.services import Backend, Services
from schemas.batch_comparison import BatchComparison, ItemSide, Pair
from schemas.comparison import RunSide, compare_runs
from schemas.errors import Problem
from schemas.events import STARTS, Event
from schemas.fold import BrokenHistory
from schemas.run_state import Reference, RunState, run_output
from schemas.way import Way, parting

router = APIRouter(tags=["events"])

PAGE = 1_000
ANCESTORS = 50
"""Forks of forks whose ways are followed back."""
GONE = (EventsDropped, NotRecorded, BrokenHistory)
"""What is raised where events of a run are not kept any more, or were lost."""
WAYS_SHOWN = 50
"""Items of a batch that differ of which it is said where their ways part."""
ARTIFACTS_AT_ONCE = 20
ARTIFACTS_LOADED = 2_000
"""Large outputs of a batch that are loaded to say what differs in them; of the others only that they do."""


class ComparisonFilter(QueryShape):
    """GET /compare"""

    a: Name = Field(description="id of a run or a batch")
    b: Name | None = Field(None, description="another one; without it a is a fork, compared with its origin")
    canary: bool = Field(False, description="of one batch: its items without its newest patch, and those with it")
    limit: int = Field(20, ge=1, le=1_000, description="items of a batch that are shown")


@router.get(
    "/compare",
    summary="What differs between two runs, two batches, or the items of a batch with and without its patch",
    responses=answers(
        {"kind": "runs", "same": False, "output": {"count": 1, "changes": [{"path": "$.score", "before": 71}]}},
        404,
        422,
    ),
)
async def get_comparison(query: Annotated[ComparisonFilter, Query()], backend: Backend) -> Response:
    """From `a` to `b`; of a fork alone from the run that it was forked from to the fork. Batches are matched by the
    keys of their items, or by position where those have none and the inputs are equal. Long values are shortened."""
    if await backend.history.batches.get(query.a) is not None:
        async with backend.comparing:
            return JsonResponse(await _batches(query, backend))
    a = await _state(query.a, backend)
    if query.canary:
        raise _bad("canary", f"{query.a} is no batch; canary is for one batch.")
    b = query.b or _origin(query.a, a)
    if await backend.history.batches.get(b) is not None:
        raise _bad("b", f"{query.a} is a run and {b} a batch; give two runs or two batches.")
    left, right = await _run(query.a, a, backend), await _run(b, await _state(b, backend), backend)
    if query.b is None:  # from what it was forked from to the fork
        left, right = right, left
    found = await asyncio.to_thread(compare_runs, left, right)
    return JsonResponse({"kind": "runs", "fork": query.b is None, **found})


def _origin(run_id: str, state: RunState | None) -> str:
    if state is None:
        raise not_found("run or batch with events", run_id)
    origin = state.started.get("forked_from")
    if not origin:
        raise _bad("b", f"{run_id} is no fork: name the run to compare it with.")
    return str(origin["run_id"])


def _bad(name: str, message: str) -> Refusal:
    return invalid([Problem(f"/query/{name}", "bad-value", message)], message)


async def _state(run_id: str, backend: Services) -> RunState | None:
    """None where its events are not kept any more, too."""
    try:
        return await backend.log.state(run_id)
    except GONE:
        return None


# -- runs --------------------------------------------------------------------------------------------


async def _run(run_id: str, state: RunState | None, backend: Services) -> RunSide:
    """Of its events, or where they are not kept any more of what is left of it. Raises Refusal (404)."""
    if state is None:
        return await _projected(run_id, backend)
    outputs = state.outputs.get("", {})
    packed = await backend.states.packed(run_id, [state.input, *outputs.values()])
    shown = {node: whole(value, packed) for node, value in outputs.items()}
    output = run_output(replace(state, outputs={"": shown}))
    return RunSide(
        run_id, state.status, state.workflow_id, state.version, state.revision, state.batch_id, state.key,
        whole(state.input, packed), shown, output, state.error,
        state.ended_at - state.created_at if state.ended_at else None, asdict(state.usage), await _way(run_id, backend),
    )  # fmt: skip


async def _projected(run_id: str, backend: Services) -> RunSide:
    row = await backend.history.runs.get(run_id)
    if row is None:
        raise not_found("run", run_id)
    duration = row["ended_at"] - row["created_at"] if row["ended_at"] else None
    names = ("status", "workflow_id", "version", "revision", "batch_id", "key", "input", "output", "error")
    return RunSide(
        run_id,
        **{name: row[name] for name in names},
        outputs=row["outputs"] or {},
        duration_ms=duration,
        usage=row["usage"] or {},
    )


async def _way(run_id: str, backend: Services) -> Way | None:
    """All that led to where the run is; None where events of it or of an ancestor are not kept any more."""
    way = Way()
    try:
        for ancestor, last in reversed(await _ancestry(run_id, backend)):
            await _go(way, ancestor, last, backend)
    except GONE:
        return None
    return way


async def _go(way: Way, run_id: str, last: int | None, backend: Services) -> None:
    """On with a run's events up to `last`. Raises one of GONE."""
    seq = 0
    while (last is None or seq < last) and (events := await backend.log.after(run_id, seq, PAGE)):
        for event in events:
            if event.seq != seq + 1:
                raise BrokenHistory(f"events of {run_id} after {seq} are not there")
            seq = event.seq
            if last is None or seq <= last:
                way.add(event)


async def _ancestry(run_id: str, backend: Services) -> list[tuple[str, int | None]]:
    """The run, the run that it was forked from, and so on, each with the last event that counts (None: all)."""
    found: list[tuple[str, int | None]] = [(run_id, None)]
    while len(found) <= ANCESTORS:
        first: Sequence[Event] = await backend.log.after(found[-1][0], 0, 1)
        origin = first[0].data.get("forked_from") if first and first[0].type in STARTS else None
        if not origin:
            break
        found.append((origin["run_id"], origin["seq"]))
    return found


# -- batches -----------------------------------------------------------------------------------------


async def _batches(query: ComparisonFilter, backend: Services) -> dict[str, Any]:
    pairs = backend.history.pairs
    by: By = "patch" if query.canary else "position"
    if query.canary:
        if query.b is not None:
            raise _bad("b", "canary is for one batch: leave b out.")
        if await backend.history.batch_patches.newest(query.a) is None:
            raise _bad("canary", f"{query.a} has no patch: there is nothing to compare.")
    elif query.b is None:
        raise _bad("b", f"{query.a} is a batch: name the batch to compare it with, or ask for canary.")
    elif await backend.history.batches.get(query.b) is None:
        raise not_found("batch", query.b)
    else:
        by = await pairs.matched_by(query.a, query.b)
    b = query.b or query.a
    comparison, loading = BatchComparison(query.limit), _Loading(backend)
    async for chunk in pairs.of(query.a, b, by):
        whole_pairs = [await loading.whole(pair) for pair in chunk]
        await asyncio.to_thread(_add, comparison, whole_pairs)
        comparison.add_executions(
            await pairs.executions([pair.a.run_id for pair in chunk if pair.a]),
            await pairs.executions([pair.b.run_id for pair in chunk if pair.b]),
        )
    found = comparison.result()
    for item in found["items"][:WAYS_SHOWN]:
        ways = [await _way(item[side]["run_id"], backend) for side in ("a", "b")]
        item["parted"] = parting(ways[0], ways[1]) if ways[0] and ways[1] else None
    return {"kind": "batches", "a": query.a, "b": b, "matched_by": by, "not_loaded": loading.left_out, **found}


def _add(comparison: BatchComparison, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        comparison.add(pair)


class _Loading:
    """Puts large outputs in where they differ: equal names are equal values."""

    def __init__(self, backend: Services) -> None:
        self._artifacts = backend.history.artifacts
        self._loaded = 0
        self.left_out = 0  # large outputs that differ, and were not looked into

    async def whole(self, pair: Pair) -> Pair:
        if pair.a is None or pair.b is None:
            return pair
        names = _names(pair.a.output) ^ _names(pair.b.output)
        if not names:
            return pair
        if len(names) > ARTIFACTS_AT_ONCE or self._loaded + len(names) > ARTIFACTS_LOADED:
            self.left_out += len(names)
            return pair
        self._loaded += len(names)
        packed = await self._artifacts.get_many(names)
        if sum(map(len, packed.values())) > SHOWN_BYTES:
            self.left_out += len(names)
            return pair
        a, b = (_with(side, packed) for side in (pair.a, pair.b))
        return replace(pair, a=a, b=b)


def _names(output: Any) -> set[str]:
    return {reference.name for reference in _references(output)}


def _references(output: Any) -> Iterator[Reference]:
    """Of an output: itself, or those of several ends."""
    for value in (output, *(output.values() if isinstance(output, dict) else ())):
        if isinstance(value, Reference):
            yield value


def _with(side: ItemSide, packed: Mapping[str, bytes]) -> ItemSide:
    output = side.output
    if isinstance(output, dict):
        return replace(side, output={node: _loaded(value, packed) for node, value in output.items()})
    return replace(side, output=_loaded(output, packed))


def _loaded(value: Any, packed: Mapping[str, bytes]) -> Any:
    return whole(value, packed) if isinstance(value, Reference) and value.name in packed else value
