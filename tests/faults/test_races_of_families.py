"""Races between a run and its children."""

from contextlib import nullcontext

import pytest
from psycopg import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from schemas.compiler.compiler import compile_workflow
from schemas.messages import Failure
from tests.choreography.test_children import CHILD, Family, parent
from tests.choreography.test_maps import mapped, node
from tests.faults.steps import BY, bad, task_of
from tests.play import Play


async def test_a_child_whose_parent_was_cancelled_before_it_was_called(redis):
    play = Family(redis, parent())
    await play.start(input={"n": 7})
    raws = await play.signals()
    opened = play.store.open_task

    async def cancelled_first(step):
        await play.store.end_run("run_1", "CANCELLED", BY)
        return await opened(step)

    play.store.open_task = cancelled_first
    await play.route(raws)
    await play.tick()
    await play.settle()
    assert await play.status("run_1:1") == "CANCELLED"


async def test_a_child_whose_parent_was_cancelled_and_whose_coordinator_died(redis):
    play = Family(redis, parent())
    await play.start(input={"n": 7})
    raws = await play.signals()

    async def dies(step):
        raise ConnectionError

    play.store.open_task = dies
    with pytest.raises(ConnectionError):
        await play.route(raws)
    await play.store.end_run("run_1", "CANCELLED", BY)
    await play.tick()
    await play.settle()
    assert await play.status("run_1:1") == "CANCELLED"


async def test_a_child_that_is_called_while_its_parent_is_paused(redis):
    play = Family(redis, parent())
    await play.start(input={"n": 7})
    raws = await play.signals()
    opened = play.store.open_task

    async def paused_first(step):
        await play.store.pause_run("run_1", BY)
        return await opened(step)

    play.store.open_task = paused_first
    await play.route(raws)
    await play.tick()
    assert await play.status("run_1:1") == "PAUSED"
    await play.store.resume_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_late_pause_does_not_stop_the_child_of_a_run_that_goes_on(redis):
    """Two coordinators read what is due; one is slow."""
    play = Family(redis, parent())
    await play.start(input={"n": 7})
    await play.settle()
    await play.store.pause_run("run_1", BY)
    (pause,) = [m for m in await redis.zrange("timers", 0, -1) if m.startswith(b"follow")]
    await play.tick()
    await play.store.resume_run("run_1", BY)
    await play.tick()
    await redis.zadd("timers", {pause: 1})  # handled once more
    await play.tick()
    assert await play.status("run_1:1") == "RUNNING"


async def test_children_of_a_run_that_failed_while_it_was_paused_go_on_with_it(redis):
    workflow = parent()
    workflow["nodes"].append(node("side"))
    play = Family(redis, workflow, lambda task, _: {})
    await play.start(input={"n": 7})
    await play.settle()
    side = await task_of(play, "side")
    started = await play.claim(side)
    await play.store.pause_run("run_1", BY)
    await play.tick()
    await play.finish(side, started, Failure("permanent", "no", False))
    await play.settle()
    await play.tick()
    assert await play.status() == "FAILED"
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_child_that_is_started_for_a_run_that_is_over(redis):
    play = Family(redis, parent())
    await play.start(input={"n": 7})
    raws = await play.signals()
    start = play.store.start_run

    async def cancelled_first(*args, **kwargs):
        await play.store.end_run("run_1", "CANCELLED", BY)
        return await start(*args, **kwargs)

    play.store.start_run = cancelled_first
    await play.route(raws)
    await play.tick()
    await play.settle()
    assert await play.status("run_1:1") == "CANCELLED"
    assert await redis.keys("children:*") == []


async def test_a_workflow_that_can_not_be_looked_up_now_holds_nobody_up(redis):
    """Postgres is away: the run that names a registered workflow waits, the others go on."""
    play = Family(redis, parent({"workflow_id": "child"}))

    async def away(workflow_id, version):
        raise OperationalError("away")

    async def there(workflow_id, version):
        return compile_workflow(CHILD).ir, 1

    play.batch.children.workflows = away
    other = Play(redis, {"id": "o", "nodes": [node("a"), node("b")], "edges": [{"from": "a", "to": "b"}]})
    await other.start("run_2")
    await play.start(input={"n": 7})
    await other.execute(next(task for task in await other.tasks() if task.run_id == "run_2"))
    await play.route()
    assert [task.node_id for task in await other.tasks() if task.run_id == "run_2"] == ["b"]
    assert await play.states() == [("call", "deciding")]
    play.batch.children.workflows = there
    await play.skip(20_000)
    await play.tick()
    await play.settle()
    assert await play.states() == [("call", "calling")]


@pytest.mark.parametrize("dies", [False, True], ids=["", "and its coordinator dies"])
async def test_a_child_that_is_started_for_an_item_that_is_over(redis, dies):
    """Before the token waits for it, the item ends: nobody would know of the child."""
    call = {"id": "call", "type": "workflow", "config": {"document": CHILD}}
    both = [node("a"), call, {"id": "z", "type": "join"}]
    edges = [{"from": "a", "to": "z"}, {"from": "call", "to": "z"}]
    play = Family(redis, mapped(both, edges, on_item_error="collect"), bad())
    await play.start(input={"xs": [1]})

    opening = play.store.open_task

    async def item_ends_first(step):
        if dies:
            raise RedisConnectionError("dies")
        await end_item()
        return await opening(step)

    async def end_item():
        await play.execute(await task_of(play, "a"))
        await play.route(await play.signals())

    with pytest.MonkeyPatch.context() as during, pytest.raises(RedisConnectionError) if dies else nullcontext():
        during.setattr(play.store, "open_task", item_ends_first)
        await play.settle()
    if dies:
        await end_item()
        await play.settle()
    await play.execute(await task_of(play, "end"))
    await play.settle()
    assert await play.status() == "COMPLETED"
    await play.tick()
    assert await play.status("run_1:1-0.3") == "CANCELLED"
    assert await redis.xlen("wf.tasks.function") == 0
