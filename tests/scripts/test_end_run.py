import pytest

from tests.play import Play
from tests.scripts.workflows import DIAMOND


@pytest.mark.parametrize(("status", "event"), [("CANCELLED", "run_cancelled"), ("TIMED_OUT", "run_timed_out")])
async def test_what_is_not_started_is_withdrawn_and_what_runs_is_fenced(any_redis, status, event):
    play = Play(any_redis, DIAMOND)
    await play.start(batch="b1", timeout_ms="60000")
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, _ = await play.tasks()
    started = await play.claim(b)
    await play.skip(60_000)
    assert await play.store.end_run("run_1", status, {"by": "me"}) == ["ended", status]
    assert await play.status() == status
    assert await play.tokens() == {}
    assert await play.field("live") == "0"
    assert await any_redis.zcard("timers") == 0
    assert await any_redis.zcard("live_runs") == 0
    assert await play.finish(b, started, {}) == "over"
    assert await any_redis.xlen("wf.tasks.function") == 0
    last = (await play.events())[-1]
    assert (last.type, last.data["by"]) == (event, "me")
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {b"a|done": 1, b"failed": 1}


async def test_a_run_ends_once(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.end_run("run_1", "TIMED_OUT", {}) == ["over", "CANCELLED"]
    assert await play.store.end_run("run_2", "CANCELLED", {}) == ["unknown"]
    assert [e.type for e in await play.events()].count("run_cancelled") == 1


async def test_a_signal_after_the_end_is_counted(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.execute((await play.tasks())[0])
    raws = await play.signals()
    await play.store.end_run("run_1", "CANCELLED", {})
    await play.route(raws)
    assert await play.counter("over") == 1


async def test_the_counts_of_a_batch_stay_while_one_of_its_runs_goes_on(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start(batch="b1")
    await play.start("run_2", batch="b1")
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await any_redis.pttl("batch:b1") == -1
    await play.store.end_run("run_2", "CANCELLED", {})
    assert await any_redis.pttl("batch:b1") > 0
