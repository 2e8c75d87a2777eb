from tests.choreography.test_children import Family, parent
from tests.choreography.test_waits import begin, waiting
from tests.play import Play
from tests.scripts.rebuilding import rebuild, recorded
from tests.scripts.workflows import CHAIN, mapped


async def test_answers(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.drop_run("run_1") == ["unknown"]
    await play.start()
    assert await play.store.drop_run("run_1", before=1) == ["beyond", "1"]
    assert await play.store.drop_run("run_1", before=2) == ["dropped"]
    await play.start()
    assert await play.store.drop_run("run_1") == ["dropped"]


async def test_nothing_of_it_is_left(any_redis):
    """Of a map with items that run, wait and are done, in a batch."""
    play = Play(any_redis, mapped())
    await play.start(input={"xs": list(range(5))}, batch="b1", timeout_ms="60000")
    await play.settle()
    await play.execute((await play.tasks())[0])
    await play.claim((await play.tasks())[0])
    assert await play.store.drop_run("run_1") == ["dropped"]
    assert await any_redis.keys("*run_1*") == []
    assert await any_redis.zcard("timers") == 0
    assert await any_redis.zcard("live_runs") == 0
    assert await any_redis.xlen("wf.tasks.function") == 0
    assert {name: count for name, count in (await any_redis.hgetall("batch:b1")).items() if int(count)} == {}


async def test_nobody_is_asked_and_nobody_listens(any_redis):
    for kind, config in (("human", {"prompt": "?", "remind_ms": 9_000}), ("wait", {"event": "paid", "key": "1"})):
        play = await begin(any_redis, waiting(kind, config))
        await play.store.drop_run("run_1")
        assert await any_redis.keys("approvals") + await any_redis.keys("listeners:*") == []
        assert await any_redis.zcard("timers") == 0


async def test_its_children_are_there_when_it_is_rebuilt(any_redis):
    play = Family(any_redis, parent())
    await play.start(input={"n": 1})
    await play.settle()
    run = await recorded(play)
    await play.store.drop_run("run_1")
    assert await any_redis.pttl("children:run_1") > 0
    assert await rebuild(play, run)
    assert await any_redis.pttl("children:run_1") == -1
    await play.store.end_run("run_1", "CANCELLED", {})
    await play.tick()
    assert await play.status("run_1:1") == "CANCELLED"
