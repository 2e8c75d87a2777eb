from tests.play import Play
from tests.scripts.workflows import CHAIN

STREAM = "wf.tasks.function"


async def consumers(redis):
    return [consumer["name"] for consumer in await redis.xinfo_consumers(STREAM, "runners")]


async def test_a_consumer_goes_when_nothing_is_pending_for_it(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await any_redis.xgroup_create(STREAM, "runners", id="0")
    await any_redis.xreadgroup("runners", "gpu-1", {STREAM: ">"})
    assert await play.store.drop_consumer(STREAM, "gpu-1") == ["pending"]
    assert await consumers(any_redis) == [b"gpu-1"]
    await play.execute((await play.tasks())[0])
    await play.settle()
    assert await play.store.drop_consumer(STREAM, "gpu-1") == ["dropped"]
    assert await consumers(any_redis) == []
