from tests.play import Play
from tests.scripts.workflows import CHAIN


def wide(width):
    nodes = [{"id": f"n{i}", "type": "function", "config": {"handler": "h"}} for i in range(width)]
    return {"id": "wide", "nodes": nodes, "edges": []}


async def parked(play):
    await play.start()
    await play.store.pause_run("run_1", {})
    for task in await play.tasks():
        await play.claim(task)


async def test_a_slice_at_a_time(any_redis):
    play = Play(any_redis, wide(250))
    await parked(play)
    await play.store.resume_run("run_1", {})
    assert await play.store.unpark_run("run_1") == ["more"]
    assert len(await play.tasks()) == 200
    assert await play.store.unpark_run("run_1") == ["done"]
    assert len(await play.tasks()) == 250
    assert await any_redis.zcard("timers") == 0


async def test_a_run_that_is_paused_again_keeps_what_is_parked(any_redis):
    play = Play(any_redis, CHAIN)
    await parked(play)
    await play.store.resume_run("run_1", {})
    await play.store.pause_run("run_1", {})
    assert await play.store.unpark_run("run_1") == ["gone"]
    assert await any_redis.llen("parked:run_1") == 1
