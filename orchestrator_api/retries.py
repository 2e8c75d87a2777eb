"""Retries: failed runs go on, one or many."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator_api.forgotten import rebuild
from orchestrator_api.services import Services
from schemas.ids import NAME

AT_ONCE = 50
"""Runs that are changed side by side."""

Outcome = Literal["retried", "live", "refused", "gone", "child", "unknown"]


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of a retry: `retried`; `live` (it was before, and goes on); `refused` (it has not failed); `gone`
    (Redis has let it go, and what it would be rebuilt from is not there any more); `child` (another run called it, and
    is to be retried); `unknown`."""

    outcome: Outcome
    status: str | None  # of the run now
    parent: str = ""


async def retry_run(backend: Services, run_id: str, event: Mapping[str, Any], *, paused: bool = False) -> Retried:
    """Let a failed run go on, or be PAUSED first; `event` says who asks."""
    if not NAME.fullmatch(run_id):  # a dead letter may name anything
        return Retried("unknown", None)
    store = backend.store
    parent, epoch = await store.redis.hmget(store.keys.run(run_id), "parent", "epoch")
    if parent:
        return Retried("child", await backend.states.status(run_id), parent.decode())
    answer, *rest = await store.retry_run(run_id, event, paused=paused)
    if answer == "retried":
        return Retried("retried", "PAUSED" if paused else "RUNNING")
    if answer == "live" and epoch:
        return Retried("live", rest[0])
    if answer != "unknown":
        return Retried("refused", rest[0])
    return await _retry_forgotten(backend, run_id, event, paused)


async def _retry_forgotten(backend: Services, run_id: str, event: Mapping[str, Any], paused: bool) -> Retried:
    """A run that Redis has let go, from its events."""
    status = await backend.states.status(run_id)
    if status != "FAILED":
        return Retried("refused" if status else "unknown", status)
    if parent := await backend.history.families.parent(run_id):
        return Retried("child", status, parent)
    if not await rebuild(backend, run_id):
        return Retried("gone", status)
    answer, *rest = await backend.store.retry_run(run_id, event, paused=paused)
    if answer == "retried":
        return Retried("retried", "PAUSED" if paused else "RUNNING")
    return Retried("live" if answer == "live" else "gone", rest[0] if rest else status)


async def retry_runs(backend: Services, run_ids: Sequence[str], event: Mapping[str, Any]) -> Counter[Outcome]:
    """Many runs, a slice at a time; how many came to which outcome."""
    outcomes: Counter[Outcome] = Counter()
    for first in range(0, len(run_ids), AT_ONCE):
        slice_ = run_ids[first : first + AT_ONCE]
        outcomes.update(
            answer.outcome for answer in await asyncio.gather(*(retry_run(backend, r, event) for r in slice_))
        )
    return outcomes
