from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_a_stored_outcome_is_signalled_again(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    task = (await play.tasks())[0]
    await play.execute(task)
    lost = await play.signals()
    assert await play.store.resignal("run_1", task.token_id) == ["signalled"]
    assert await play.signals() == lost


async def test_what_runs_is_not_signalled_and_what_is_gone_neither(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    task = (await play.tasks())[0]
    await play.claim(task, "runner-7")
    assert await play.store.resignal("run_1", task.token_id) == ["running", "runner-7"]
    assert await play.store.resignal("run_1", "run_1.99") == ["gone"]
    assert await play.store.resignal("run_9", "run_9.1") == ["gone"]
    assert await play.signals() == []


async def test_a_deciding_token_is_asked_for_until_it_is_decided(any_redis):
    workflow = {"id": "w", "nodes": [{"id": "t", "type": "transform", "config": {"set": {"x": "1"}}}], "edges": []}
    play = Play(any_redis, workflow)
    await play.start()
    lost = await play.signals()
    assert len(lost) == 1
    (timer,) = await any_redis.zrange("timers", 0, -1)
    kind, run_id, token_id, attempt = timer.decode().split()
    assert kind == "signal"
    assert await play.store.resignal(run_id, token_id, int(attempt)) == ["signalled"]
    await play.settle()
    assert await play.status() == "COMPLETED"
    assert await any_redis.zcard("timers") == 0
