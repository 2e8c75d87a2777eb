"""What got lost between two steps is found."""

from coordinator.supervisor import Supervisor
from schemas.keys import RUNNERS_GROUP
from tests.play import Play
from tests.scripts.workflows import CHAIN


async def claimed(redis):
    """A task that a runner holds as it would: pending on its stream."""
    play = Play(redis, CHAIN)
    await play.start()
    await redis.xgroup_create("wf.tasks.function", RUNNERS_GROUP, id="0")
    await redis.xreadgroup(RUNNERS_GROUP, "runner-1", {"wf.tasks.function": ">"})
    return play, (await play.tasks())[0]


async def test_an_outcome_whose_signal_was_lost_is_routed_after_all(redis, wait_until):
    play, task = await claimed(redis)
    await play.execute(task)
    assert await play.signals()  # a coordinator popped it and died
    supervisor = Supervisor(play.store, idle_ms=1)
    assert await wait_until(supervisor.resignal_idle) == 1
    await play.settle()
    assert await play.states() == [("b", "queued")]


async def test_what_was_signalled_again_is_not_idle_any_more(redis):
    play, task = await claimed(redis)
    await play.execute(task)
    await redis.xclaim("wf.tasks.function", RUNNERS_GROUP, "runner-1", 0, [task.entry], idle=100_000, justid=True)
    supervisor = Supervisor(play.store, idle_ms=50_000)
    assert await supervisor.resignal_idle() == 1
    assert await supervisor.resignal_idle() == 0
    assert len(await play.signals()) == 2


async def test_while_signals_wait_in_great_number_nothing_is_lost(redis):
    play, task = await claimed(redis)
    await play.execute(task)
    await redis.rpush("completion_signals", *[b"x"] * 1_000)
    assert await Supervisor(play.store, idle_ms=0).resignal_idle() == 0


async def test_what_was_claimed_lately_and_what_still_runs_is_left_alone(redis, wait_until):
    play, task = await claimed(redis)
    assert await Supervisor(play.store, idle_ms=60_000).resignal_idle() == 0
    await play.claim(task)
    assert await Supervisor(play.store, idle_ms=0).resignal_idle() == 0
    assert await play.signals() == []


async def test_a_run_that_counts_wrong_is_reported(redis):
    play = Play(redis, CHAIN)
    await play.start()
    supervisor = Supervisor(play.store)
    await supervisor.check_runs()
    assert await redis.xlen("wf.dead_letters") == 0
    await redis.hset("run:run_1", "live", 7)
    await supervisor.check_runs()
    await supervisor.check_runs()  # said once
    ((_, letter),) = await redis.xrange("wf.dead_letters")
    assert (letter[b"reason"], letter[b"detail"]) == (b"broken_run", b"1 tokens but live=7")


async def test_a_run_whose_keys_are_gone_leaves_the_list(redis):
    play = Play(redis, CHAIN)
    await redis.zadd("live_runs", {"run_gone": 1})
    await Supervisor(play.store).check_runs()
    assert await redis.zcard("live_runs") == 0
