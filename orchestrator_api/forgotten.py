"""Forgotten runs: failed ones whose keys Redis has let go, rebuilt from their events so that they can be retried."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import orjson

from history.dropped_events import EventsDropped
from lua.patching import change_between
from lua.run_image import Rebuilt
from lua.run_rebuild import RunRebuild
from orchestrator_api.services import Services
from schemas.ir import IR
from schemas.run_state import RunState
from schemas.snapshot import artifacts_in
from schemas.values import ARTIFACT

LIVE = ("RUNNING", "PAUSED")


async def rebuild(backend: Services, run_id: str) -> bool:
    """Write a run that has failed into Redis as it is recorded, with the child runs that have ended before it, for its
    retention; False where its events, an IR or an artifact of it are not there any more."""
    try:
        state = await backend.log.state(run_id)
    except EventsDropped:
        return False
    if state is None or state.status in LIVE:
        return False
    for child in [str(record["child"]) for record in state.tokens.values() if record.get("child")]:
        if not await backend.store.redis.exists(backend.store.keys.run(child)):
            await rebuild(backend, child)
    rebuilt = await _rebuilt(backend, state)
    if rebuilt is not None:
        await RunRebuild(backend.store).keep(rebuilt)
    return rebuilt is not None


async def _rebuilt(backend: Services, state: RunState) -> Rebuilt | None:
    """All that the run's keys are made of; None where something is gone."""
    behind = {digest for digest in state.adopted.values() if digest != state.digest}
    first = (await backend.revisions.events(state.run_id, 0, 1))[0].data["digest"]
    digests = [state.digest, first, *behind]
    irs = {digest: await _ir(backend, state.run_id, digest) for digest in dict.fromkeys(digests)}
    names = [reference.removeprefix(ARTIFACT) for reference in artifacts_in(state)]
    artifacts = await packed(backend, state.run_id, names)
    ir, first_ir = irs[state.digest], irs[first]
    if ir is None or first_ir is None or None in irs.values() or len(artifacts) < len(names):
        return None
    before = irs[behind.pop()] if behind else None
    change = orjson.dumps(change_between(before, ir)) if before else b""
    return Rebuilt(state, ir, artifacts, first_ir.text if state.revision > 1 else "", change)


async def _ir(backend: Services, run_id: str, digest: str) -> IR | None:
    text = await backend.revisions.ir(run_id, digest)
    return await asyncio.to_thread(IR.from_json, text) if text else None


async def packed(backend: Services, run_id: str, names: Sequence[str]) -> Mapping[str, bytes]:
    """Those of a run's artifacts that Redis or Postgres has."""
    if not names:
        return {}
    live = await backend.store.redis.hmget(backend.store.keys.artifacts(run_id), list(names))
    found = {name: one for name, one in zip(names, live, strict=True) if one is not None}
    if missing := [name for name in names if name not in found]:
        found |= await backend.history.artifacts.get_many(missing)
    return found
