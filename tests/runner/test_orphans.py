"""Tasks that no counter tells of, and entries that tell nothing: what a runner makes of the streams as they lie."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from agent_runner.claims import Claims
from agent_runner.engines.engine import LoadReply
from agent_runner.orphans import Orphans
from agent_runner.streams import Streams
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.ir import IR
from schemas.keys import FAST_LANE, agent_stream
from tests.runner.conftest import FAST, Completed, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, function, make_ir, start

IDLE_MS = 100
SETTINGS = dataclasses.replace(FAST, reclaim_idle_ms=IDLE_MS, heartbeat_ms=20)


async def held_by_the_dead(store: RunStore, *streams: str) -> None:
    """All entries of these streams, for long enough."""
    await Streams(store, "dead").read(streams, 100)
    for key in map(store.keys.stream, streams):
        entries = [one["message_id"] for one in await store.redis.xpending_range(key, "runners", "-", "+", 100)]
        await store.redis.xclaim(key, "runners", "dead", 0, entries, idle=2 * IDLE_MS)


async def test_each_lane_counts_its_own(store: RunStore) -> None:
    await start(store, "run_1", make_ir(agent("a"), agent("b")))
    await start(store, "run_2", make_ir(agent("a")), priority="interactive")
    await held_by_the_dead(store, agent_stream("m"), agent_stream("m") + FAST_LANE)
    orphans = Orphans(store, Streams(store, "r1"), SETTINGS)
    assert await orphans.find()
    assert (list(orphans), orphans.count("m", fast=False), orphans.count("m", fast=True)) == (["m"], 2, 1)
    first, second = await orphans.adopt("m", 2)
    assert (first.task.run_id, second.task.run_id) == ("run_2", "run_1")
    assert not list(orphans)


async def test_what_was_executed_waits_for_the_coordinator_and_needs_no_model(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    """Else its model would be loaded again, and the signal sent again, for as long as no coordinator routes it."""
    first = serve("r1", SETTINGS, engine=ScriptedEngine())
    await start(store, "run_1", make_ir(agent("a"), agent("b")))
    await signals(2)
    await first.stop()
    await start(store, "run_2", make_ir(agent("a")))
    await held_by_the_dead(store, agent_stream("m"))
    orphans = Orphans(store, Streams(store, "r2"), SETTINGS)
    assert await orphans.find()
    assert orphans.count("m", fast=False) == 1


async def test_an_entry_that_somebody_wrote_by_hand_is_found(store: RunStore) -> None:
    await store.redis.sadd(store.keys.streams, agent_stream("m"), "wf.tasks.function")
    orphans = Orphans(store, Streams(store, "r1"), SETTINGS)
    assert not await orphans.find()  # there is no stream yet
    await store.redis.xadd(store.keys.stream(agent_stream("m")), {"x": "y"})
    assert await orphans.find()
    assert list(orphans) == ["m"]


def with_options(prompt: str) -> IR:
    config = {"model": "m", "prompt": prompt, "options": {"num_ctx": 99}}
    return compile_workflow({"id": "one", "nodes": [{"id": "a", "type": "agent", "config": config}]}).ir


@pytest.mark.parametrize("fault", ["no task", "no run", "no IR"])
async def test_a_bad_entry_hides_nothing_behind_it(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any, fault: str
) -> None:
    """The options that a model is loaded with are read from the tasks that wait for it."""
    ir = with_options("good")
    pool = ir.nodes["a"].analysis.pool
    assert pool is not None and pool.startswith("m#")
    if fault == "no task":
        await store.redis.xadd(store.keys.stream(agent_stream(pool)), {"x": "y"})
    else:
        await start(store, "run_bad", with_options("bad"))
        await store.redis.set(store.keys.ir("run_bad"), "no IR")
        if fault == "no run":
            await store.redis.delete(store.keys.run("run_bad"), store.keys.ir("run_bad"))
    await start(store, "run_1", ir)
    await start(store, "run_2", make_ir(agent("a", model="n")))
    engine, loaded = ScriptedEngine(), {}
    load = engine.load

    async def noted(model: str, options: Mapping[str, Any]) -> LoadReply:
        loaded[model] = options
        return await load(model, options)

    engine.load = noted  # type: ignore[method-assign]
    serve(engine=engine)
    await asyncio.gather(completed("run_1"), completed("run_2"))
    assert loaded == {"m": {"num_ctx": 99}, "n": {}}


PATIENT = dataclasses.replace(FAST, reclaim_idle_ms=600_000)


@pytest.mark.parametrize("kind", ["agent", "function"])
async def test_who_comes_back_under_its_id_goes_on_at_once(
    store: RunStore, serve: Serve, completed: Completed, kind: str
) -> None:
    """With what a process before it had read, and with what that had begun. What others hold is theirs."""
    node = agent("a") if kind == "agent" else function("a", "fn")
    stream = agent_stream("m") if kind == "agent" else "wf.tasks.function"
    for run_id in ("run_read", "run_begun", "run_theirs"):
        await start(store, run_id, make_ir(node))
    _, begun = await Streams(store, "r1").read([stream], 2)
    assert (await Claims(store, "r1", frozenset([kind]), 1_000).start([begun])).work
    assert len(await Streams(store, "r2").read([stream], 1)) == 1
    about = {"engine": ScriptedEngine()} if kind == "agent" else {"handlers": [fn]}
    serving = serve("r1", PATIENT, **about)
    for run_id in ("run_read", "run_begun"):
        await completed(run_id)
    assert serving.runner.executions.ended == 2
    pending = await store.redis.xpending_range(stream, "runners", "-", "+", 10)
    assert [one["consumer"] for one in pending] == [b"r2"]


async def fn() -> str:
    return "ok"
