"""More of it: tests/choreography/test_waits.py."""

from schemas.messages import CompletionSignal
from tests.play import Play

HUMAN = {"id": "w", "nodes": [{"id": "h", "type": "human", "config": {"deadline_ms": 1_000}}], "edges": []}


def answer(attempt=None, run_id="run_1"):
    return CompletionSignal(f"{run_id}.1", run_id, "h", attempt, "completed", {"ok": True})


async def asked(redis):
    play = Play(redis, HUMAN)
    await play.start()
    await play.settle()
    return play


async def test_what_may_not_be_answered(any_redis):
    play = await asked(any_redis)
    tell = play.store.answer_task
    assert await tell("run_1", "run_1.1", answer(), {}, ("queued",)) == ["refused", "asked"]
    assert await tell("run_1", "run_1.1", answer(attempt=3), {}, ("asked",)) == ["unknown"]
    assert await tell("run_1", "run_1.9", answer(), {}, ("asked",)) == ["unknown"]
    assert await tell("run_2", "run_2.1", answer(run_id="run_2"), {}, ("asked",)) == ["unknown"]
    assert await tell("run_1", "run_1.1", answer(), {}, ("asked",)) == ["answered"]
    assert await tell("run_1", "run_1.1", answer(), {}, ("asked",)) == ["refused", "answered"]
    await play.settle()
    assert await tell("run_1", "run_1.1", answer(), {}, ("asked",)) == ["over", "COMPLETED"]


async def test_a_timer_that_comes_too_early_is_put_off(any_redis):
    play = await asked(any_redis)
    late = await play.store.answer_task("run_1", "run_1.1", answer(0), {}, ("asked",), timer="deadline")
    assert late == ["waiting"]
    assert await any_redis.zcard("timers") == 1


async def test_a_timer_of_what_is_gone_is_removed(any_redis):
    play = await asked(any_redis)
    await play.store.answer_task("run_1", "run_1.1", answer(), {"by": "ada"}, ("asked",))
    await play.settle()
    await any_redis.zadd("timers", {"deadline run_1 run_1.1 0": 1})
    await play.tick()
    assert await any_redis.zcard("timers") == 0
