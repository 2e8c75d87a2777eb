"""More of it: tests/choreography/test_maps.py."""

from schemas.plan import start_plan
from tests.play import Play
from tests.scripts.workflows import mapped


async def mapping(redis, xs):
    """A map that knows its items, none of them started."""
    play = Play(redis, mapped())
    await play.start(input={"xs": xs})
    await play.route(await play.signals())
    return play


def slice_of(play, *texts):
    plan = start_plan(play.ir, "each")
    plan.items += texts
    return plan


async def test_only_from_the_cursor_on(any_redis):
    play = await mapping(any_redis, ["x", "y"])
    start = play.store.start_items
    assert await start("run_1", "run_1.1", play.ir, 1, slice_of(play, '"y"'), b"{}") == ["duplicate"]
    assert await start("run_1", "run_1.1", play.ir, 0, slice_of(play, '"x"', '"y"'), b"{}") == ["started", "2"]
    assert await start("run_1", "run_1.1", play.ir, 0, slice_of(play, '"x"'), b"{}") == ["duplicate"]
    assert await any_redis.hget("scope:run_1/1-1", "item") == b'"y"'
    assert await any_redis.smembers("items:run_1/1") == {b"0", b"1"}


async def test_a_paused_run_starts_none_until_it_is_resumed(any_redis):
    play = await mapping(any_redis, ["x"])
    await play.store.pause_run("run_1", {})
    assert await play.store.start_items("run_1", "run_1.1", play.ir, 0, slice_of(play, '"x"'), b"{}") == ["parked"]
    await play.store.resume_run("run_1", {})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_none_of_a_run_that_is_over(any_redis):
    play = await mapping(any_redis, ["x"])
    await play.store.end_run("run_1", "CANCELLED", {})
    answer = await play.store.start_items("run_1", "run_1.1", play.ir, 0, slice_of(play, '"x"'), b"{}")
    assert answer == ["over", "CANCELLED"]
