"""Races between a failure, what is under way in the items of maps, the sweep that holds it, and a retry."""

import pytest

from lua.run_store import Finish
from schemas.limits import LIMITS
from schemas.messages import Failure
from tests.choreography.test_maps import by_index, keys_of_items, mapped, node
from tests.faults.steps import BY, bad, beside, fail_side, task_of
from tests.play import Play, outcome_signal


async def test_after_a_retry_a_full_map_goes_on_at_once(redis):
    play = Play(redis, beside([node("a")], max_parallel=2), bad("side"))
    await play.start(input={"xs": [1, 2, 3, 4, 5]})
    await play.settle()
    await play.execute(await task_of(play, "side"))
    await play.settle()
    await play.tick()
    assert await play.status() == "FAILED"
    play.answer = by_index
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


@pytest.mark.parametrize("sweeps", [0, 1])
async def test_a_retry_of_a_map_whose_results_are_too_large(redis, sweeps, monkeypatch):
    play = Play(redis, mapped([node("a")]), lambda task, _: "x" * (LIMITS.output_bytes // 2))
    await play.start(input={"xs": [1, 2]})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    if sweeps:
        await play.tick()
    for key in await keys_of_items(redis):
        assert await redis.pttl(key) > 0, key
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "FAILED"  # again, and not for ever on its way


async def test_a_map_without_items_on_their_way_has_a_ttl_when_its_run_has_failed(redis):
    play = Play(redis, beside([node("a")]), bad("side"))
    await play.start(input={"xs": [1, 2]})
    await play.route(await play.signals())  # start_map, and not start_items
    await play.execute(await task_of(play, "side"))
    await play.settle()
    await play.tick()
    assert await play.status() == "FAILED"
    assert await redis.keys("map:*")
    for key in await keys_of_items(redis):
        assert await redis.pttl(key) > 0, key
    await play.store.retry_run("run_1", BY)
    play.answer = by_index
    await play.settle()
    await play.tick()
    for key in await keys_of_items(redis):
        assert await redis.pttl(key) == -1, key
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert await keys_of_items(redis) == []


async def test_the_items_of_a_nested_map_that_failed_are_held_with_the_run(redis):
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(redis, mapped([inner]), bad("a", 0))
    await play.start(input={"xs": [[1, 2, 3]]})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert await redis.xlen("wf.tasks.function") == 0
    for key in await keys_of_items(redis):
        assert await redis.pttl(key) > 0, key
    play.answer = by_index
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_an_outcome_between_a_failure_and_its_sweep_is_not_lost(redis):
    play = Play(redis, beside([node("a")]), bad("side"))
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    task = await task_of(play, "a")
    started = await play.claim(task)
    await fail_side(play)
    await play.finish(task, started, {"node": "a"})
    await play.store.retry_run("run_1", BY)  # before sweep_map came to the item
    for entry, _ in await redis.xrange("wf.tasks.function"):  # as the supervisor finds it
        fields = dict((await redis.xrange("wf.tasks.function", entry, entry))[0][1])
        await play.store.resignal("run_1", fields[b"token"].decode())
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_backoff_that_ends_between_a_failure_and_its_sweep(redis):
    a = {**node("a"), "retry": {"max_attempts": 2, "backoff_ms": 1}}
    play = Play(redis, beside([a]), lambda task, _: Failure("permanent", "no", task.node_id == "a"))
    await play.start(input={"xs": [1]})
    await play.settle()
    await play.execute(await task_of(play, "a"))
    await play.settle()
    await fail_side(play)
    await play.skip(20)
    for member in await redis.zrange("timers", 0, -1):
        if member.startswith(b"retry"):
            await play.store.queue_task("run_1", member.decode().split(" ")[2], 1)
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    await play.skip(60_000)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_wait_that_ends_between_a_failure_and_its_sweep(redis):
    wait = {"id": "nap", "type": "wait", "config": {"for_ms": 50}}
    play = Play(redis, beside([wait]), bad("side"))
    await play.start(input={"xs": [1]})
    await play.settle()
    await fail_side(play)
    await play.skip(100)
    (sweep,) = [m for m in await redis.zrange("timers", 0, -1) if m.startswith(b"sweep")]
    await redis.zrem("timers", sweep)  # it comes late
    await play.tick()
    await redis.zadd("timers", {sweep: await play.store.now()})
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    await play.skip(60_000)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_deciding_token_that_is_signalled_between_a_failure_and_its_sweep(redis):
    human = {"id": "ask", "type": "human", "config": {}}
    play = Play(redis, beside([human]), bad("side"))
    await play.start(input={"xs": [1]})
    await play.route(await play.signals())
    await play.route(await play.signals())  # items are started; `ask` is to be opened
    await redis.delete("completion_signals")  # the coordinator died with it
    await fail_side(play)
    (sweep,) = [m for m in await redis.zrange("timers", 0, -1) if m.startswith(b"sweep")]
    await redis.zrem("timers", sweep)  # it comes late
    await play.skip(20_000)
    await play.tick()
    await play.settle()
    await redis.zadd("timers", {sweep: await play.store.now()})
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    await play.skip(60_000)
    await play.run_to_end()
    assert ("ask", "asked") in await play.states()


async def test_what_was_parked_when_a_paused_run_failed_is_emitted_after_a_quick_retry(redis):
    play = Play(redis, beside([node("a")]), bad("side"))
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    side = await task_of(play, "side")
    started = await play.claim(side)
    await play.store.pause_run("run_1", BY)
    for task in await play.tasks():
        assert (await play.claim(task)).state == "parked"
    await play.finish(side, started, Failure("permanent", "no", False))
    await play.settle()
    assert await play.status() == "FAILED"
    play.answer = by_index
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_nested_map_whose_sweep_comes_after_the_retry(redis):
    """The inner map is held still, the run goes on again: nothing of its items may go."""
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(redis, beside([inner]), bad("side"))
    await play.start(input={"xs": [[1, 2], [3]]})
    await play.settle()
    await fail_side(play)
    await play.store.sweep_map("run_1", "run_1.1")  # its items are held; what they hold is to be swept
    inner_sweeps = [m for m in await redis.zrange("timers", 0, -1) if m.startswith(b"sweep run_1 run_1.1-")]
    assert len(inner_sweeps) == 2
    await play.store.retry_run("run_1", BY)
    for member in inner_sweeps:
        await play.store.sweep_map("run_1", member.decode().split(" ")[2])
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_an_answer_in_an_item_whose_map_has_failed_and_whose_run_is_retried(redis):
    """The map's failure is not routed yet; what comes from its other items changes nothing, and is not lost."""
    play = Play(redis, mapped([node("a")]), bad())
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    first, second = await play.tasks()
    started = await play.claim(second)
    await play.execute(first)
    await play.route(await play.signals())  # fail_item: the map is answered
    map_failed = await play.signals()
    outcome, _ = outcome_signal(second, started, {"late": True})
    await play.store.finish_task([Finish(second, outcome)])
    await play.store.retry_run("run_1", BY)
    await play.route()  # over
    await play.route(map_failed)
    assert await play.status() == "FAILED"
    play.answer = by_index
    await play.store.retry_run("run_1", BY)
    await play.store.resignal("run_1", second.token_id)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_timers_of_an_item_whose_map_has_failed(redis):
    human = {"id": "ask", "type": "human", "config": {}}
    kind = {"id": "kind", "type": "branch", "config": {
        "rules": [{"condition": {"type": "cel", "expression": "item == 1"}, "next": ["a"]}],
        "default": ["ask"]}}  # fmt: skip
    end = {"id": "z", "type": "join"}
    edges = [{"from": "a", "to": "z"}, {"from": "ask", "to": "z"}]
    play = Play(redis, mapped([kind, node("a"), human, end], edges), bad())
    await play.start(input={"xs": [1, 2]})
    while not await play.tasks():
        await play.route(await play.signals())
    await redis.delete("completion_signals")  # the coordinator died with what was to ask
    await play.execute((await play.tasks())[0])
    await play.route(await play.signals())  # fail_item: the map is answered
    map_failed = await play.signals()
    await play.skip(20_000)
    await play.tick()
    await play.signals()
    await play.route(map_failed)
    assert await play.status() == "FAILED"
    play.answer = by_index
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    await play.skip(60_000)
    await play.run_to_end()
    assert ("ask", "asked") in await play.states()


async def test_the_clock_of_a_run_that_failed_while_it_was_paused(redis):
    play = Play(redis, {"id": "w", "nodes": [node("a")]}, by_index)
    await play.start(timeout_ms="5000")
    (task,) = await play.tasks()
    started = await play.claim(task)
    await play.store.pause_run("run_1", BY)
    await play.skip(60_000)
    await play.finish(task, started, Failure("permanent", "no", False))
    await play.settle()
    assert await play.status() == "FAILED"
    await play.store.retry_run("run_1", BY)
    await play.claim((await play.tasks())[0])
    await play.tick()
    assert await play.status() == "RUNNING"
    await play.skip(6_000)
    await play.tick()
    assert await play.status() == "TIMED_OUT"


async def test_what_was_restored_stays_and_can_be_cancelled(redis):
    inner = {"id": "inner", "type": "map", "config": {"items": "item", "nodes": [node("a")]}}
    play = Play(redis, beside([inner]), bad("side"))
    await play.start(input={"xs": [[1, 2], [3]]}, batch="b1")
    await play.settle()
    await fail_side(play)
    await play.tick()
    assert [await redis.pttl(key) for key in await keys_of_items(redis)].count(-1) == 0
    await play.store.retry_run("run_1", BY)
    await play.tick()
    assert {await redis.pttl(key) for key in await keys_of_items(redis)} == {-1}
    await play.store.end_run("run_1", "CANCELLED", BY)
    await play.tick()
    assert await keys_of_items(redis) == []
    assert await redis.xlen("wf.tasks.function") == 0
    counts = {name: int(count) for name, count in (await redis.hgetall("batch:b1")).items() if int(count)}
    assert counts == {b"failed": 1}
