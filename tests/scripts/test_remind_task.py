from tests.play import Play

HUMAN = {"id": "w", "nodes": [{"id": "h", "type": "human", "config": {"remind_ms": 1_000}}], "edges": []}


async def test_again_and_again_but_not_while_paused(any_redis):
    play = Play(any_redis, HUMAN)
    await play.start()
    await play.settle()
    assert await play.store.remind_task("run_1", "run_1.1", 0) == ["reminded", "1"]
    assert await play.store.remind_task("run_1", "run_1.1", 0) == ["reminded", "2"]
    await play.store.pause_run("run_1", {})
    assert await play.store.remind_task("run_1", "run_1.1", 0) == ["waiting"]
    assert await any_redis.zcard("timers") == 1
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await any_redis.zcard("timers") == 0
    assert await play.store.remind_task("run_1", "run_1.1", 0) == ["gone"]
