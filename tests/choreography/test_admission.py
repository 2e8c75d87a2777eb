"""Items become runs: a bounded number in flight, each once, whatever dies in between."""

import asyncio
from types import SimpleNamespace

import pytest
from psycopg_pool import AsyncConnectionPool

from coordinator.admission import Admission
from coordinator.gpus import Gpus
from history.batch_patches import Asked
from history.batches import NewBatch, NewItem
from history.history import History
from schemas.batch_mark import BatchMark
from schemas.compiler.compiler import compile_workflow
from schemas.values import encode_value
from tests.play import Play
from tests.scripts.workflows import CHAIN


@pytest.fixture
async def pool(database_url):
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        await History(pool).migrate()
        yield pool


async def batch_of(play, pool, values):
    history = History(pool)
    await history.workflows.add_ir(play.ir)
    items = []
    for number, value in enumerate(values):
        text, artifact = encode_value(value)
        items.append(NewItem(f"run_{number}", f"key {number}", text, artifact))
    await history.batches.create(NewBatch("b1", "chain", None, play.ir.digest, items, await play.store.now()))
    return history


async def test_items_start_as_runs_up_to_the_bound(redis, pool):
    play = Play(redis, CHAIN)
    history = await batch_of(play, pool, [{"n": n} for n in range(10)])
    admission = Admission(play.store, pool, per_gpu=4)
    assert await admission.admit() == 4
    assert await admission.admit() == 0
    assert await redis.hget("batch:b1", "running") == b"4"
    assert (await history.batches.get("b1"))["pending"] == 6
    assert await play.field("batch", "run_3") == "b1"
    assert await play.field("key", "run_3") == "key 3"

    await play.run_to_end()
    assert await admission.admit() == 4
    await play.run_to_end()
    assert await admission.admit() == 2
    await play.run_to_end()
    assert await admission.admit() == 0
    assert await redis.hget("batch:b1", "done") == b"10"
    assert sorted(play.path()) == ["a"] * 10 + ["b"] * 10


async def heartbeat(redis, runner_id, **fields):
    await redis.zadd("runners", {runner_id: 1})
    if fields:
        await redis.hset(f"runner:{runner_id}", mapping=fields)


async def test_the_bound_grows_with_the_live_agent_runners(redis, pool):
    play = Play(redis, CHAIN)
    await batch_of(play, pool, [{"n": n} for n in range(10)])
    await heartbeat(redis, "gpu-1", engine="ollama", state="working")
    await heartbeat(redis, "gpu-2", engine="ollama", state="held")
    await heartbeat(redis, "gpu-3", engine="ollama", state="waiting")  # for the engine that gpu-2 drives
    await heartbeat(redis, "tasks", state="working")
    await heartbeat(redis, "lost")
    admission = Admission(play.store, pool, per_gpu=3)
    assert [await admission.admit(), await admission.admit()] == [6, 0]


async def test_heartbeats_are_looked_at_once_a_second(redis, monkeypatch):
    now = 100.0
    monkeypatch.setattr("coordinator.gpus.time", SimpleNamespace(monotonic=lambda: now))
    gpus = Gpus(Play(redis, CHAIN).store)
    assert await gpus.count() == 0
    await heartbeat(redis, "gpu-1", engine="ollama", state="idle")
    assert await gpus.count() == 0
    now += 1.0
    assert await gpus.count() == 1


async def test_two_admissions_share_a_batch(redis, pool):
    play = Play(redis, CHAIN)
    await batch_of(play, pool, [{"n": n} for n in range(30)])
    admissions = [Admission(play.store, pool, per_gpu=100) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*(admission.admit() for admission in admissions))
    assert await redis.zcard("live_runs") == 30
    assert len(await play.tasks()) == 30


async def test_an_admission_that_dies_before_its_mark_starts_nothing_twice(redis, pool):
    play = Play(redis, CHAIN)
    await batch_of(play, pool, [{"n": n} for n in range(5)])

    class Dying(Admission):
        async def _start_runs(self, starts):
            await super()._start_runs(starts)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await Dying(play.store, pool).admit()
    assert await redis.zcard("live_runs") == 5
    assert await Admission(play.store, pool).admit() == 5
    assert len(await play.tasks()) == 5
    assert [event.type for event in await play.events(None)] == ["run_started"] * 5
    assert await redis.hget("batch:b1", "running") == b"5"


async def test_an_item_whose_run_id_is_taken_fails_and_the_batch_goes_on(redis, pool):
    play = Play(redis, CHAIN)
    await play.start("run_1", request="somebody else's")
    history = await batch_of(play, pool, [{"n": n} for n in range(3)])
    await Admission(play.store, pool).admit()
    batch = await history.batches.get("b1")
    assert (batch["failed"], batch["running"]) == (1, 2)
    ((_, letter),) = await redis.xrange("wf.dead_letters")
    assert letter[b"reason"] == b"run_id_taken"


async def test_large_inputs_come_along(redis, pool):
    play = Play(redis, CHAIN)
    await batch_of(play, pool, [{"text": "x" * 20_000}])
    await Admission(play.store, pool).admit()
    reference = await play.field("input", "run_0")
    assert reference.startswith("artifact://sha256-")
    assert await redis.hexists("artifacts:run_0", reference.removeprefix("artifact://"))


async def test_nothing_is_admitted_while_postgres_does_not_follow(redis, pool):
    play = Play(redis, CHAIN)
    await batch_of(play, pool, [{}])
    await redis.xadd("events", {"x": "y"})
    assert await Admission(play.store, pool, waiting_events=0).admit() == 0
    assert await Admission(play.store, pool, waiting_events=1).admit() == 1


async def test_items_begin_with_the_batch_as_it_is_patched(redis, pool):
    """A canary's items with one workflow, those after it with another, in one slice; the run's hash says which."""
    play = Play(redis, CHAIN)
    history = await batch_of(play, pool, [{"n": n} for n in range(3)])
    short = compile_workflow({**CHAIN, "nodes": CHAIN["nodes"][:1], "edges": []}).ir
    asked = Asked("ada", None, [], {"canary": {"first": 2}}, 1, play.ir.digest, short)
    await history.batch_patches.start("b1", asked)
    assert await Admission(play.store, pool).admit() == 3
    assert [await play.field("digest", f"run_{n}") for n in range(3)] == [short.digest, short.digest, play.ir.digest]
    marks = [await play.field("batch_patch", f"run_{n}") for n in range(3)]
    assert marks == [str(BatchMark("1", 1, play.ir.digest))] * 2 + [""]
    started = [event.data.get("batch_patch") for event in await play.events(None)]
    assert started == [1, 1, None]


async def test_items_whose_workflow_is_not_there_wait(redis, pool):
    play = Play(redis, CHAIN)
    history = await batch_of(play, pool, [{"n": n} for n in range(2)])
    async with pool.connection() as connection:
        await connection.execute("DELETE FROM irs")
    assert await Admission(play.store, pool).admit() == 0
    assert (await history.batches.get("b1"))["pending"] == 2
    ((_, letter),) = await redis.xrange("wf.dead_letters")
    assert letter[b"reason"] == b"unknown_ir"
