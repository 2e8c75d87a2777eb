from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_entries_are_on_their_streams_and_the_run_is_there(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.start(input={"text": "hi"}, batch="batch_1") == "started"

    (task,) = await play.tasks()
    assert (task.node_id, task.stream, task.digest) == ("a", "wf.tasks.function", play.ir.digest)
    assert await play.states() == [("a", "queued")]
    assert await play.status() == "RUNNING"
    assert await play.field("live") == "1"
    assert await any_redis.get("ir:run_1") == play.ir.text.encode()
    assert await any_redis.hget("batch:batch_1", "running") == b"1"
    assert await any_redis.zscore("live_runs", "run_1")

    (event,) = await play.events()
    assert (event.type, event.seq, event.data["input"]) == ("run_started", 1, {"text": "hi"})
    assert list(event.data["tokens"]) == [task.token_id]


async def test_the_same_request_again_changes_nothing_and_another_one_is_a_conflict(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(request="one")
    assert await play.start(request="one") == "exists"
    assert await play.start(request="two") == "conflict"
    assert len(await play.events()) == 1
    assert len(await play.tasks()) == 1


async def test_an_entry_that_is_no_task_is_put_before_the_coordinator(any_redis):
    workflow = {
        "id": "w",
        "nodes": [{"id": "t", "type": "transform", "config": {"set": {"twice": "input.n * 2"}}}],
        "edges": [],
    }
    play = Play(any_redis, workflow)
    await play.start(input={"n": 21})
    assert await play.states() == [("t", "deciding")]
    await play.settle()
    assert await play.status() == "COMPLETED"
    assert await play.outputs() == {"t": {"twice": 42}}


async def test_a_run_timeout_is_a_timer(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(timeout_ms="5000")
    ((member, due),) = await any_redis.zrange("timers", 0, -1, withscores=True)
    assert member == b"run run_1 - 0"
    assert due == int(await play.field("created_at")) + 5000
