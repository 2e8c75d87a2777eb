"""A run that Redis has lost, and what it is rebuilt from."""

from __future__ import annotations

from typing import Any

from lua.run_image import Rebuilt
from lua.run_rebuild import RunRebuild
from schemas.events import Event
from schemas.fold import fold
from schemas.ir import IR
from schemas.run_state import RunState
from schemas.snapshot import artifacts_in
from tests.play import Play


async def recorded(play: Play, run_id: str = "run_1") -> Rebuilt:
    """What is recorded of a run by now."""
    state = fold(await play.events(run_id))
    names = [text.removeprefix("artifact://") for text in artifacts_in(state)]
    artifacts = {name: await play.store.artifact(run_id, name) or b"" for name in names}
    text, first = await play.store.ir_text(run_id), await play.redis.get(play.keys.first_ir(run_id))
    assert text
    return Rebuilt(state, IR.from_json(text), artifacts, first.decode() if first else "")


async def lose(play: Play) -> None:
    """Redis is emptied; events are in Postgres, and here where they were."""
    entries = await play.redis.xrange(play.keys.events)
    await play.redis.flushdb()
    for entry, fields in entries:
        await play.redis.xadd(play.keys.events, fields, id=entry)


async def rebuild(play: Play, run: Rebuilt) -> bool:
    now = await play.store.now()
    run.state.paused_ms += now - run.state.last_at
    event: dict[str, Any] = {"from_seq": run.state.seq, "reason": "a test", "by": "me"}
    return await RunRebuild(play.store).restore(run, "run_recovered", event, now)


async def lose_and_rebuild(play: Play, *run_ids: str, skip_ms: int = 0) -> None:
    runs = [await recorded(play, run_id) for run_id in run_ids or ("run_1",)]
    await lose(play)
    await play.skip(skip_ms)
    for run in runs:
        assert await rebuild(play, run)


async def state(play: Play, run_id: str = "run_1") -> RunState:
    return fold(await play.events(run_id))


async def last(play: Play, run_id: str = "run_1") -> Event:
    return (await play.events(run_id))[-1]
