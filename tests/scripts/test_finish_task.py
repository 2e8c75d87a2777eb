from schemas.messages import Failure, read_signal
from tests.play import Play
from tests.scripts.workflows import CHAIN, DIAMOND


async def claimed(redis, workflow=CHAIN):
    play = Play(redis, workflow)
    await play.start()
    task = (await play.tasks())[0]
    return play, task, await play.claim(task)


async def test_the_outcome_is_stored_and_signalled_and_the_entry_stays(any_redis):
    play, task, started = await claimed(any_redis)
    assert await play.finish(task, started, {"n": 1}) == "finished"
    (raw,) = await play.signals()
    signal = read_signal(raw)
    assert (signal.token_id, signal.attempt, signal.result) == (task.token_id, 1, {"n": 1})
    assert await any_redis.hget("outcomes:run_1", task.token_id) == raw
    assert await any_redis.xlen("wf.tasks.function") == 1


async def test_a_second_outcome_changes_nothing(any_redis):
    play, task, started = await claimed(any_redis)
    await play.finish(task, started, {"n": 1})
    assert await play.finish(task, started, {"n": 2}) == "fenced"
    await play.settle()
    assert (await play.outputs())["a"] == {"n": 1}


async def test_a_large_result_lies_beside_the_signal(any_redis):
    play, task, started = await claimed(any_redis)
    await play.finish(task, started, {"text": "x" * 20_000})
    signal = read_signal((await play.signals())[0])
    name = signal.result_ref.removeprefix("artifact://")
    assert signal.result is None
    assert await any_redis.hexists("artifacts:run_1", name)
    await play.route([signal.raw])
    assert await any_redis.hget("context:run_1", "a") == signal.result_ref.encode()
    assert (await play.events())[-1].data["stored"] == {"a": signal.result_ref}


async def test_after_the_end_an_outcome_is_dropped_with_its_entry(any_redis):
    play, task, started = await claimed(any_redis)
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.finish(task, started, {}) == "over"
    assert await play.signals() == []
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_a_given_up_attempt_leaves_no_outcome_with_a_held_token(any_redis):
    play = Play(any_redis, {**DIAMOND, "defaults": {"retry": {"max_attempts": 3, "backoff_ms": 0}}})
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, c = await play.tasks()
    zombie, failing = await play.claim(b), await play.claim(c)
    late = Failure("timeout", "slow", retryable=True)
    await play.finish(b, zombie, late)
    await play.settle()  # b is queued again
    await play.finish(c, failing, Failure("permanent", "no", retryable=False))
    await play.settle()
    assert await play.states() == [("b", "held"), ("c", "dead")]
    assert await play.finish(b, zombie, {"late": 1}) == "over"
    assert await any_redis.hgetall("outcomes:run_1") == {}


async def test_a_held_token_keeps_its_outcome_and_is_not_routed(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, c = await play.tasks()
    started_b, started_c = await play.claim(b), await play.claim(c)
    await play.finish(b, started_b, Failure("permanent", "no", retryable=False))
    await play.settle()
    assert await play.status() == "FAILED"
    assert await play.finish(c, started_c, {"late": 1}) == "held"
    assert await play.signals() == []
    assert await any_redis.hexists("outcomes:run_1", c.token_id)
    assert await play.states() == [("b", "dead"), ("c", "held")]
