"""A runner that stops: what runs ends, what does not is another runner's, and nothing of it stays behind."""

import asyncio
import dataclasses
from typing import Any

import pytest

from lua.run_store import RunStore
from tests.runner.conftest import FAST, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.gate import Gate
from tests.runner.workflows import STREAM, agent, function, make_ir, noop, start


async def test_stop_lets_running_tasks_end_and_hands_the_others_back(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    gate = Gate()
    one_slot = dataclasses.replace(FAST, slots=1)
    leaving = serve("leaving", one_slot, handlers=[gate.handler])
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    await start(store, "run_2", make_ir(function("a", "held")))
    fetched = await leaving.runner.streams.read([STREAM], 1)
    leaving.runner._take_in(fetched)  # fetched ahead, its slot is taken
    stopping = asyncio.create_task(leaving.stop())
    while not leaving.runner._stopping.is_set():
        await asyncio.sleep(0)
    gate.opened.set()
    await stopping
    (signal,) = await signals(1)
    assert signal["run_id"] == "run_1"
    assert await store.redis.exists(store.keys.runner("leaving")) == 0
    assert await store.redis.zrange(store.keys.runners, 0, -1) == []
    # The outcome that nobody has routed yet is pending too, and the runner is not there any more.
    consumers = await store.redis.xinfo_consumers(STREAM, "runners")
    assert [(c["name"], c["pending"]) for c in consumers] == [(b"~returned", 2)]
    # At the first look of another runner, long before its idle limit.
    serve("other", handlers=[gate.handler])
    _, second = await signals(2)
    assert (second["run_id"], second["attempt"]) == ("run_2", 1)


async def test_a_consumer_with_something_pending_stays(
    store: RunStore, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, it would take the entry with it: here one came to the next process of the same id."""
    leaving = serve("r1", handlers=[noop])
    await leaving.runner.streams.ensure([STREAM])
    drop = store.drop_consumer

    async def late(stream: str, runner_id: str) -> list[str]:
        if stream == STREAM:
            await store.redis.xadd(STREAM, {"x": "y"})
            await store.redis.xreadgroup("runners", "r1", {STREAM: ">"})
        return await drop(stream, runner_id)

    monkeypatch.setattr(store, "drop_consumer", late)
    await leaving.stop()
    (consumer,) = await store.redis.xinfo_consumers(STREAM, "runners")
    assert (consumer["name"], consumer["pending"]) == (b"r1", 1)


async def test_what_does_not_end_within_the_drain_is_handed_back(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    gate = Gate()
    leaving = serve("leaving", dataclasses.replace(FAST, drain_ms=20), handlers=[gate.handler])
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    await leaving.stop()
    gate.opened.set()
    serve("other", handlers=[gate.handler])
    (signal,) = await signals(1)
    assert (signal["attempt"], signal["result_data"]) == (2, "through")


async def test_stop_while_the_engine_is_away(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> None:
    engine = ScriptedEngine()
    engine.away = True
    leaving = serve("leaving", dataclasses.replace(FAST, drain_ms=60_000), engine=engine)
    await start(store, "run_1", make_ir(agent("a")))
    await wait_until(lambda: leaving.runner.description.state == "held")
    await asyncio.wait_for(leaving.stop(), 10)  # nothing to drain: it would wait for the engine
    assert await store.redis.llen(store.keys.signals) == 0
    serve("other", engine=ScriptedEngine())
    (signal,) = await signals(1)
    assert signal["status"] == "completed"
