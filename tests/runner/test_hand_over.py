"""Executions that wait for an engine in vain: somebody else gets them, none is lost, none is done for nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from agent_runner.engine_key import engine_key
from agent_runner.engines.engine import ChatRequest, EngineAway, Resident
from agent_runner.streams import Streams
from lua.run_store import RunStore
from schemas.keys import agent_stream
from schemas.messages import Task
from tests.runner.conftest import FAST, Completed, Serve, Serving
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, make_ir, start

QUICK = dataclasses.replace(FAST, heartbeat_ms=20, reclaim_idle_ms=200)
COUNT = 5


class Engine(ScriptedEngine):
    """At an address of its own. `dies` while it answers the first requests, and is away from then on."""

    def __init__(self, at: str, *, dies: bool = False) -> None:
        super().__init__(self._answer)
        self.url = f"http://gpu{at}"
        self._dies = dies

    async def _answer(self, request: ChatRequest) -> str:
        while self._dies and not self.away:
            await asyncio.sleep(0)
            self.away |= self.at_once == COUNT
        if self.away:
            raise EngineAway("gone")
        return "ok"

    async def residents(self) -> list[Resident]:
        if self.away:
            raise EngineAway("gone")
        return await super().residents()


async def wait_in_vain(store: RunStore, serve: Serve, wait_until: Any) -> Serving:
    """A runner whose engine is away, with all tasks of a run in hand."""
    serving = serve("r1", QUICK, engine=Engine("1", dies=True))
    await start(store, "run_1", make_ir(*(agent(f"a{n}") for n in range(COUNT))))
    await wait_until(lambda: serving.runner.gpu is not None and serving.runner.gpu.waiting == COUNT)
    return serving


async def take_the_engine(store: RunStore) -> None:
    theirs = {"runner": "other", "gpu": "", "kind": "", "models": {}, "expires_at": await store.now() + 60_000}
    await store.redis.hset(store.keys.leases, engine_key("http://gpu1", "here"), json.dumps(theirs))


async def test_an_engine_that_is_away_for_long_keeps_no_tasks_from_another(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    waiting = await wait_in_vain(store, serve, wait_until)
    other = Engine("2")
    serve("r2", QUICK, engine=other)
    await completed("run_1")
    assert len(other.asked) == COUNT
    assert waiting.runner.executions.running == len(waiting.runner.executions) == 0


async def test_what_nobody_else_could_serve_is_kept(store: RunStore, serve: Serve, wait_until: Any) -> None:
    """It waits for the engine where it is; each change of hands would count as one more runner that died."""
    waiting = await wait_in_vain(store, serve, wait_until)
    gpu = waiting.runner.gpu
    assert gpu is not None
    execution = next(iter(waiting.runner.executions))
    await wait_until(lambda: gpu.waited_s(execution.task) > 2 * QUICK.reclaim_idle_ms / 1000)
    assert gpu.waiting == len(waiting.runner.executions) == COUNT


async def test_a_hand_over_that_redis_interrupts(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tasks are nobody's then: not refreshed any more, they are taken over when they have been idle."""
    broken: list[int] = []
    hand_back = Streams.hand_back

    async def once(self: Streams, tasks: Iterable[Task]) -> None:
        if not broken:
            broken.append(len(list(tasks)))
            raise ConnectionError("cut")
        await hand_back(self, tasks)

    monkeypatch.setattr(Streams, "hand_back", once)
    await wait_in_vain(store, serve, wait_until)
    await take_the_engine(store)
    await wait_until(lambda: broken == [COUNT])
    serve("r2", QUICK, engine=Engine("2"))
    await completed("run_1")


async def test_what_another_runner_has_taken_over_is_not_taken_from_it(
    store: RunStore, serve: Serve, wait_until: Any
) -> None:
    waiting = await wait_in_vain(store, serve, wait_until)
    stream = store.keys.stream(agent_stream("m"))
    for execution in waiting.runner.executions:
        execution.doubtful = True  # as after a standstill
        await store.redis.xclaim(stream, "runners", "other", 0, [execution.work.task.entry])
    await take_the_engine(store)
    await wait_until(lambda: len(waiting.runner.executions) == 0)
    pending = await store.redis.xpending_range(stream, "runners", "-", "+", 100)
    assert {one["consumer"] for one in pending} == {b"other"}
