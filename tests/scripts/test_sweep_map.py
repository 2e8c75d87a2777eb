"""More of it: tests/choreography/test_maps.py."""

from schemas.messages import Failure
from tests.play import Play
from tests.scripts.workflows import mapped


def failing(task, _):
    return Failure("permanent", "no", retryable=False)


async def test_a_slice_at_a_time_and_it_may_be_repeated(any_redis):
    play = Play(any_redis, mapped())
    await play.start(input={"xs": list(range(120))})
    await play.settle()
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.sweep_map("run_1", "run_1.1") == ["more"]
    assert await any_redis.scard("items:run_1/1") == 50 + 20
    assert await play.store.sweep_map("run_1", "run_1.1") == ["more"]
    assert await play.store.sweep_map("run_1", "run_1.1") == ["done"]
    assert await play.store.sweep_map("run_1", "run_1.1") == ["done"]
    assert [key for key in await any_redis.keys("*") if b"/" in key] == []
    assert await any_redis.zcard("timers") == 0
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_a_retry_in_the_middle_of_a_sweep(any_redis):
    play = Play(any_redis, mapped(), failing)
    await play.start(input={"xs": list(range(120))})
    await play.settle()
    await play.execute((await play.tasks())[0])
    await play.route(await play.signals())  # the item fails
    await play.route(await play.signals())  # and its map, and the run
    assert await play.status() == "FAILED"
    assert await play.store.sweep_map("run_1", "run_1.1") == ["more"]
    play.answer = lambda task, _: task.scope
    await play.store.retry_run("run_1", {})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert (await play.outputs())["each"] == [f"1-{index}" for index in range(120)]


async def test_nothing_to_do_for_a_map_that_goes_on(any_redis):
    play = Play(any_redis, mapped())
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    assert await play.store.sweep_map("run_1", "run_1.1") == ["done"]
    assert await any_redis.scard("items:run_1/1") == 2
