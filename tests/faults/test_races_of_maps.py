"""Races between the items of a map, their map, people and timers."""

import orjson

from schemas.messages import Failure
from tests.choreography.test_maps import by_index, mapped, node
from tests.faults.steps import BY, task_of
from tests.play import Play


async def test_a_reclaimed_task_of_an_item_whose_outcome_is_stored_is_not_executed_again(redis):
    play = Play(redis, mapped([node("a")]), by_index)
    await play.start(input={"xs": [1]})
    await play.settle()
    task = await task_of(play, "a")
    await play.execute(task)
    await play.signals()  # lost
    assert (await play.claim(task, "runner-2", reclaimed=True)).state == "signalled"


async def test_a_map_that_is_full_when_it_is_asked_does_not_wait_for_a_timer(redis):
    """Two requests for items are on their way; the second finds no room."""
    play = Play(redis, mapped([node("a")], max_parallel=2), by_index)
    await play.start(input={"xs": [1, 2, 3, 4]})
    await play.store.pause_run("run_1", BY)
    await play.settle()
    await play.store.resume_run("run_1", BY)
    await play.tick()
    await play.settle()
    for task in await play.tasks():
        await play.claim(task)
    await play.store.pause_run("run_1", BY)
    await play.store.resume_run("run_1", BY)
    await play.tick()
    map_token = "run_1.1"
    await redis.rpush(
        "completion_signals",
        orjson.dumps(
            {
                "version": "1.0",
                "job_id": map_token,
                "run_id": "run_1",
                "node_id": "each",
                "attempt": 0,
                "status": "completed",
            }
        ),
    )
    await redis.hset("outcomes:run_1", map_token, "{}")
    await play.settle()
    assert not await redis.hexists("outcomes:run_1", map_token)


async def test_a_late_request_to_gather_says_nothing(redis):
    play = Play(redis, mapped([node("a")]), by_index)
    await play.start(input={"xs": [1]})
    await play.settle()
    await play.execute(await task_of(play, "a"))
    await play.route(await play.signals())
    raws = await play.signals()  # the map's token is deciding
    reading = play.store.map_results

    async def cancelled_first(*args):
        await play.store.end_run("run_1", "CANCELLED", BY)
        return await reading(*args)

    play.store.map_results = cancelled_first
    await play.route(raws)
    assert await redis.xlen("wf.dead_letters") == 0


async def test_a_queue_timeout_after_a_pause_that_is_long_over(redis):
    a = {**node("a"), "queue_timeout_ms": 1_000}
    play = Play(redis, {"id": "w", "nodes": [node("b"), a], "edges": [{"from": "b", "to": "a"}]}, by_index)
    await play.start()
    await play.store.pause_run("run_1", BY)
    await play.skip(3_600_000)
    await play.store.resume_run("run_1", BY)
    await play.execute((await play.tasks())[0])
    await play.settle()
    await play.skip(5_000)
    await play.tick()
    await play.settle()
    assert await play.status() == "FAILED"


async def test_an_error_that_is_large_in_json(redis):
    """Of an item, with its cause: control characters take six bytes each."""
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(
        redis,
        mapped([inner], on_item_error="collect"),
        lambda task, _: Failure("permanent", "\x01" * 2_000, False) if task.node_id == "a" else {},
    )
    await play.start(input={"xs": [[1]]})
    await play.run_to_end()
    assert await play.status() == "COMPLETED", (await play.events())[-1].data


async def test_a_map_is_asked_for_items_once_when_its_run_goes_on(redis):
    """Many of its items ended while the run was paused."""
    play = Play(redis, mapped([node("a")], max_parallel=40), by_index)
    await play.start(input={"xs": list(range(200))})
    await play.settle()
    claimed = [(task, await play.claim(task)) for task in await play.tasks()]
    await play.store.pause_run("run_1", BY)
    for task, started in claimed:
        await play.finish(task, started, {})
    await play.settle()
    await play.store.resume_run("run_1", BY)
    await play.tick()
    assert await redis.llen("completion_signals") == 1
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
