"""More of it: tests/choreography/test_children.py."""

from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_a_child_does_as_its_parent_is_now(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.follow_parent("run_2", {}) == ["unknown"]
    await play.start()
    assert await play.store.follow_parent("run_1", {}) == ["unknown"]  # nobody's child
    await play.start("run_2", parent="run_1")
    await play.store.pause_run("run_1", {})
    assert await play.store.follow_parent("run_2", {"by": "parent"}) == ["paused"]
    assert await play.store.follow_parent("run_2", {"by": "parent"}) == ["already"]
    await play.store.resume_run("run_1", {})
    assert await play.store.follow_parent("run_2", {"by": "parent"}) == ["resumed"]
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.follow_parent("run_2", {"by": "parent"}) == ["orphaned"]


async def test_a_child_that_starts_under_a_cancelled_parent_is_cancelled(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await play.store.end_run("run_1", "CANCELLED", {})
    await play.start("run_2", parent="run_1")
    await play.tick()
    assert await play.status("run_2") == "CANCELLED"
    assert await any_redis.keys("children:*") == []


async def test_a_child_that_starts_under_a_paused_parent_follows_it(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await play.store.pause_run("run_1", {})
    await play.start("run_2", parent="run_1")
    await play.tick()
    assert await play.status("run_2") == "PAUSED"
