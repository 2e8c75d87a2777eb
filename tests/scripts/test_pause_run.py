"""More of it: tests/choreography/test_control.py."""

from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_answers(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.pause_run("run_1", {}) == ["unknown"]
    await play.start()
    assert await play.store.pause_run("run_1", {"by": "me"}) == ["paused"]
    assert await play.store.pause_run("run_1", {"by": "me"}) == ["already"]
    assert await play.status() == "PAUSED"
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.pause_run("run_1", {"by": "me"}) == ["over", "CANCELLED"]
    assert [e.data.get("by") for e in await play.events() if e.type == "run_paused"] == ["me"]


async def test_children_follow_by_timers(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await any_redis.sadd("children:run_1", "run_2")
    await play.store.pause_run("run_1", {})
    assert await any_redis.zrange("timers", 0, -1) == [b"follow run_2 - 0"]
