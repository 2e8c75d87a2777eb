"""What is due is done once, whoever looks, and what is void is removed."""

import asyncio

import pytest

from coordinator.timers import Timers, read_timer
from schemas.messages import Failure
from tests.patching.flight import Flight, flow, map_of, set_to
from tests.play import Play
from tests.scripts.workflows import CHAIN, retrying


async def far(play):
    return await play.skip(10_000_000)


async def test_a_backoff_that_is_over_queues_the_task(redis):
    play = Play(redis, retrying(), lambda task, _: Failure("timeout", "slow", retryable=True))
    await play.start()
    first = next(t for t in await play.tasks() if t.node_id == "a")
    await play.execute(first)
    await play.settle()
    timers = Timers(play.store)
    await timers.handle_due()
    assert ("a", "delayed") in await play.states()
    await timers.handle_due(await far(play))
    assert ("a", "queued") in await play.states()
    assert await redis.zcard("timers") == 0


async def test_an_execution_over_its_deadline_fails_as_timeout(redis):
    play = Play(redis, retrying(timeout_ms=1_000))
    await play.start()
    first = next(t for t in await play.tasks() if t.node_id == "a")
    await play.claim(first)
    await Timers(play.store).handle_due(await far(play))
    await play.settle()
    event = (await play.events())[-1]
    assert (event.type, event.data["error"]["class"]) == ("task_retried", "timeout")


async def test_a_deadline_of_an_older_attempt_is_void(redis):
    play = Play(redis, retrying(timeout_ms=1_000))
    await play.start()
    first = next(t for t in await play.tasks() if t.node_id == "a")
    await play.claim(first)
    await redis.zadd("timers", {f"timeout run_1 {first.token_id} 0": 1})
    await Timers(play.store).handle_due(2)
    assert await play.signals() == []
    assert await redis.zrange("timers", 0, -1) == [f"timeout run_1 {first.token_id} 1".encode()]


async def test_a_run_over_its_time_is_ended(redis):
    play = Play(redis, CHAIN)
    await play.start(timeout_ms="5000")
    await play.claim((await play.tasks())[0])
    await Timers(play.store).handle_due(await far(play))
    assert await play.status() == "TIMED_OUT"
    assert await redis.zcard("timers") == 0
    assert (await play.events())[-1].data["error"]["class"] == "timeout"


async def test_a_run_over_its_time_that_waits_for_a_model_is_asked_again_later(redis):
    play = Play(redis, CHAIN)
    await play.start(timeout_ms="5000")
    await Timers(play.store).handle_due(await far(play))
    assert await play.status() == "RUNNING"
    ((member, due),) = await redis.zrange("timers", 0, -1, withscores=True)
    assert member == b"run run_1 - 0"
    assert due > await play.store.now()


async def test_a_timer_that_cannot_be_handled_is_dropped_and_the_others_go_on(redis):
    play = Play(redis, CHAIN)
    await play.start(timeout_ms="5000")
    task = (await play.tasks())[0]
    await play.claim(task)
    await redis.hset("tokens:run_2", "run_2.1", "no json")
    await redis.zadd("timers", {"timeout run_2 run_2.1 1": 1})
    await Timers(play.store).handle_due(await far(play))
    assert await play.status() == "TIMED_OUT"
    assert await play.counter("failed_timer") == 1
    assert await redis.zcard("timers") == 0


async def test_a_deciding_token_is_signalled_again(redis):
    workflow = {"id": "w", "nodes": [{"id": "t", "type": "transform", "config": {"set": {"x": "1"}}}], "edges": []}
    play = Play(redis, workflow)
    await play.start()
    await play.signals()  # lost with a coordinator
    await Timers(play.store).handle_due(await far(play))
    await play.settle()
    assert await play.status() == "COMPLETED"


async def test_what_nobody_of_us_wrote_is_a_dead_letter(redis):
    play = Play(redis, CHAIN)
    await redis.zadd("timers", {"what is this": 1, "dance run_1 run_1.1 0": 1})
    await Timers(play.store).handle_due(2)
    assert await redis.zcard("timers") == 0
    assert await play.counter("malformed_timer") == 2


def test_members():
    assert read_timer("retry run_1 run_1.2 3").attempt == 3
    assert read_timer("retry run_1 run_1.2") is None
    assert read_timer("retry run_1 run_1.2 x") is None
    assert read_timer("retry run_1 run_1.2 \u00b2") is None
    assert read_timer("retry run_1 run_1.2 " + "9" * 5_000) is None


HUMAN = {"id": "h", "type": "human", "config": {}}
ASKING = {
    "asked": {"id": "w", "nodes": [HUMAN], "edges": []},
    "in an item": {"id": "w", "nodes": [{"id": "m", "type": "map", "config": {"items": "[1, 2]", "nodes": [HUMAN]}}]},
    "in a child": {
        "id": "w",
        "nodes": [{"id": "c", "type": "workflow", "config": {"document": {"id": "v", "nodes": [HUMAN]}}}],
    },
    "an event": {"id": "w", "nodes": [{"id": "e", "type": "wait", "config": {"event": "paid"}}], "edges": []},
}


@pytest.mark.parametrize("where", ASKING)
async def test_a_run_over_its_time_that_waits_for_somebody_goes_on(redis, where):
    play = Play(redis, ASKING[where])
    await play.start(timeout_ms="5000")
    await play.settle()
    await far(play)
    await play.tick()
    assert await play.status() == "RUNNING"


async def test_a_run_over_its_time_of_which_one_item_works_is_ended(redis):
    item = {"id": "a", "type": "function", "config": {"handler": "h"}}
    each = {"id": "m", "type": "map", "config": {"items": "[1, 2]", "nodes": [item]}}
    play = Play(redis, {"id": "w", "nodes": [each], "edges": []})
    await play.start(timeout_ms="5000")
    await play.settle()
    await play.claim((await play.tasks())[0])
    await far(play)
    await play.tick()
    assert await play.status() == "TIMED_OUT"


MAPPED = flow(map_of({"id": "a", "type": "function", "config": {"handler": "h"}}))
OTHER = set_to("/nodes/each/config/nodes/a/config/handler", "other")


async def following(redis, items):
    """A run whose items follow a patch."""
    play = Flight(redis, MAPPED)
    await play.start(input={"xs": list(range(items))})
    await play.settle()
    await play.patch(OTHER)
    return play


async def test_items_follow_a_patch_slice_by_slice_whoever_looks(redis):
    play = await following(redis, 600)
    one, other = Timers(play.store), Timers(play.store)
    looks = 0
    while await redis.exists("adopting:run_1"):
        await asyncio.gather(one.handle_due(await play.store.now()), other.handle_due(await play.store.now()))
        looks += 1
    assert looks > 1
    patched = [index for e in await play.events() if e.type == "items_patched" for index in e.data["indexes"]]
    assert sorted(patched) == list(range(600))
    assert await redis.zcard("timers") == 0
    assert await play.wrong() == []


async def test_a_timer_for_items_that_need_not_follow_is_void(redis):
    play = await following(redis, 2)
    await play.store.end_run("run_1", "CANCELLED", {})
    await redis.zadd("timers", {"adopt run_9 run_9.1 0": 1, "adopt run_1 run_1.1 0": 1})
    await play.tick()
    assert await redis.zcard("timers") == 0
    assert await redis.xlen("wf.dead_letters") == 0


async def test_the_run_is_patched_while_its_items_follow(redis):
    """A coordinator that read the IR before it is asked for the newer one."""
    play = await following(redis, 2)
    timers = Timers(play.store)
    adopt, asked = play.store.adopt_items, []

    async def patched_in_between(run_id, token, ir, index=""):
        answer = await adopt(run_id, token, play.first if not asked else ir, index)
        asked.append(answer[0])
        return answer

    play.store.adopt_items = patched_in_between
    await timers.handle_due(await play.store.now())
    assert asked == ["stale", "done"]
