import dataclasses

from schemas.messages import Failure
from tests.play import Play, outcome_signal
from tests.scripts.workflows import retrying

FAILURE = Failure("timeout", "too slow", retryable=True)


async def test_a_failed_task_waits_and_is_queued_again(any_redis):
    results = iter([FAILURE, {"ok": True}])
    play = Play(any_redis, retrying(), lambda task, _: next(results))
    await play.start()
    await play.execute(next(t for t in await play.tasks() if t.node_id == "a"))
    await play.settle()
    ((token_id, token),) = [(i, t) for i, t in (await play.tokens()).items() if t.node == "a"]
    assert (token.state, token.failures, token.entry) == ("delayed", 1, None)
    assert await any_redis.zrange("timers", 0, -1) == [f"retry run_1 {token_id} 1".encode()]
    event = (await play.events())[-1]
    assert event.type == "task_retried"
    assert event.data["error"]["class"] == "timeout"
    assert 1_000 <= event.data["delay_ms"] <= 1_100

    assert await play.store.queue_task("run_1", token_id, 1) == ["queued"]
    assert await any_redis.zcard("timers") == 0
    assert await play.store.queue_task("run_1", token_id, 1) == ["gone"]
    task = next(t for t in await play.tasks() if t.node_id == "a")
    await play.execute(task)
    await play.settle()
    assert (await play.outputs())["a"] == {"ok": True}
    assert [e.type for e in await play.events() if e.node_id == "a"] == [
        "task_started", "task_retried", "task_queued", "task_started", "node_completed",
    ]  # fmt: skip


async def test_a_failure_that_says_no_attempt_counts_once_for_a_claimed_task(any_redis):
    play = Play(any_redis, retrying(backoff_ms=0))
    await play.start()
    task = next(t for t in await play.tasks() if t.node_id == "a")
    started = await play.claim(task)
    signal, _ = outcome_signal(task, started, FAILURE)
    raw = dataclasses.replace(signal, attempt=None).to_json().encode()
    for _ in range(3):
        await play.route([raw])
    assert [e.type for e in await play.events()].count("task_retried") == 1
    assert await play.counter("duplicate") == 2


async def test_the_usage_of_an_attempt_that_failed_is_kept(any_redis):
    play = Play(any_redis, retrying(backoff_ms=0))
    await play.start()
    task = next(t for t in await play.tasks() if t.node_id == "a")
    signal, _ = outcome_signal(task, await play.claim(task), FAILURE)
    metadata = {**signal.metadata, "prompt_tokens": 100, "raw": "no json"}
    await play.route([dataclasses.replace(signal, metadata=metadata).to_json().encode()])
    event = (await play.events())[-1]
    assert (event.type, event.data["usage"], event.data["raw"]) == ("task_retried", {"prompt_tokens": 100}, "no json")


async def test_without_a_backoff_it_is_queued_at_once(any_redis):
    results = iter([FAILURE, {"ok": True}])
    play = Play(any_redis, retrying(backoff_ms=0), lambda task, _: next(results))
    await play.start()
    await play.execute(next(t for t in await play.tasks() if t.node_id == "a"))
    await play.settle()
    assert ("a", "queued") in await play.states()


async def test_the_last_attempt_fails_the_run(any_redis):
    play = Play(any_redis, retrying(attempts=2), lambda task, _: FAILURE)
    await play.start()
    await play.run_to_end()
    assert play.path().count("a") == 2 or play.path().count("sorry") == 2
    assert await play.status() == "FAILED"


async def test_an_ended_run_queues_nothing(any_redis):
    play = Play(any_redis, retrying(), lambda task, _: FAILURE)
    await play.start()
    task = next(t for t in await play.tasks() if t.node_id == "a")
    await play.execute(task)
    await play.settle()
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await play.store.queue_task("run_1", task.token_id, 1) == ["gone"]
    assert await any_redis.zcard("timers") == 0
