"""More of it: tests/choreography/test_control.py."""

from tests.play import Play
from tests.scripts.workflows import CHAIN


async def test_answers(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.resume_run("run_1", {}) == ["unknown"]
    await play.start()
    assert await play.store.resume_run("run_1", {}) == ["already"]
    await play.store.pause_run("run_1", {})
    assert await play.store.resume_run("run_1", {}) == ["resumed"]
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.resume_run("run_1", {}) == ["over", "CANCELLED"]


async def test_the_time_of_the_pause_is_kept(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    for _ in range(2):
        await play.store.pause_run("run_1", {})
        await play.skip(1_000)
        await play.store.resume_run("run_1", {})
    assert 2_000 <= int(await play.field("paused_ms")) < 3_000
    assert await play.field("paused_at") == ""
