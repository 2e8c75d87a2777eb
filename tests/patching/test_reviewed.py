"""What a review of patching found."""

import asyncio
import time

import pytest

from lua.patching import Patch
from orchestrator_api.bodies import read_json
from orchestrator_api.problems import Refusal
from schemas.messages import Failure
from schemas.revision import revise
from tests.patching.flight import BY, Flight, add, agent, flow, map_of, remove, set_to
from tests.patching.test_agent_patch import add as add_node
from tests.patching.test_agent_patch import flow as agent_flow
from tests.patching.test_agent_patch import once, patching, put, refused
from tests.patching.test_items import INSERT, MAP, begun, failed
from tests.scripts.workflows import cel, edges, task


def test_a_key_said_twice_after_many_others():
    """Looked for in one pass: a request must not hold the event loop."""
    raw = b"{" + b",".join(b'"%d":0' % n for n in range(40_000)) + b',"x":0,"x":0}'
    began = time.monotonic()
    with pytest.raises(Refusal):
        read_json(raw, unique=True)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("way", ["retry", "backoff", "runner died", "run failed", "pause"])
async def test_the_next_attempt_is_on_the_stream_of_the_new_model(any_redis, way):
    retry = {"max_attempts": 1 if way == "run failed" else 3, "backoff_ms": 1_000 if way == "backoff" else 0}
    play = Flight(any_redis, flow(agent("a", retry=retry), agent("b"), edges=edges("a > b")))
    await play.start()
    work = await play.task_on("a")
    started = await play.claim(work)
    await play.patch(set_to("/nodes/a/config/model", "m2"))
    assert await play.wrong() == []
    if way in ("runner died", "pause"):
        if way == "pause":
            await play.store.pause_run("run_1", BY)
        await play.claim(work, "runner-2", reclaimed=True)
        if way == "pause":
            await play.store.resume_run("run_1", BY)
            await play.tick()
    else:
        await play.finish(work, started, Failure("timeout", "slow", retryable=True))
        await play.settle()
        if way == "run failed":
            assert await play.status() == "FAILED"
            await play.store.retry_run("run_1", BY)
        await play.skip(2_000)
        await play.tick()
    assert await play.wrong() == []
    (again,) = await play.tasks()
    assert again.stream == "wf.tasks.agent.m2"
    await play.finish_all()


async def test_loops_of_an_item_that_is_swept_after_another_patch(any_redis):
    again = {"condition": cel("iteration < 3"), "loop_back_to": "a", "max_iterations": 9, "break_path": ["b"]}
    loop = {"id": "again", "type": "loop", "config": again}
    each = map_of(task("a"), loop, task("b"), edges=edges("a > again"))
    play = Flight(any_redis, flow(each, task("side"), task("end"), edges=edges("each > end", "side > end")))
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    for one in await play.tasks():
        if one.node_id == "a":
            await play.execute(one)
    await play.settle()
    assert await any_redis.keys("loop:*")
    await play.patch(remove("/nodes/each"), remove("/edges/0"), cancel=True)
    await play.patch(add("/description", "x"))
    await play.finish_all()
    assert await any_redis.keys("loop:*") == []


async def held(redis):
    """A run that failed while items followed a patch, and is retried: two items are restored, the others not yet."""
    side = {"id": "side", "type": "function", "config": {"handler": "h"}}
    play = Flight(redis, flow(map_of(task("a"), task("b"), edges=edges("a > b")), side))
    await play.start(input={"xs": list(range(60))})
    await play.settle()
    await play.patch(*INSERT)
    play.answer = lambda task, _: Failure("permanent", "no", False)
    await play.execute(await play.task_on("side"))
    await play.route()
    assert await play.status() == "FAILED"
    await play.tick()
    play.answer = lambda task, _: {"node": task.node_id}
    await play.store.retry_run("run_1", BY)
    await play.store.sweep_map("run_1", MAP)
    assert await redis.scard("held:run_1/1") == 10
    return play


async def test_a_restored_item_follows_while_others_are_held(any_redis):
    """Who wants to go on with it must not be told to wait: a runner would drop it, a coordinator turn in circles."""
    play = await held(any_redis)
    one = next(t for t in await play.tasks() if t.node_id == "a")
    assert (await play.store.adopt_scopes("run_1", [one.scope], play.ir))[-1] == ["more"]
    await play.execute(one)
    await play.route()
    assert await any_redis.llen("completion_signals") == 0
    assert await play.wrong() == []
    while await play.redis.exists("held:run_1/1") or await play.field("adopting"):
        await play.tick()
        await play.skip(500)
    await play.finish_all()


async def test_a_failed_map_that_becomes_a_task_folds(any_redis):
    play = await failed(any_redis)
    await play.patch(set_to("/nodes/each", task("each")), restart=True, cancel=True)
    await play.tick()
    assert await play.wrong() == []
    state = await play.books.folded()
    assert state.maps == {}
    assert list(state.tokens) == [MAP]


def test_calls_that_one_agent_makes_less_are_not_given_to_another():
    """It may have been executed, and made them all."""
    big = {**once("big"), "retry": {"max_attempts": 50}}
    document = agent_flow(big, patching(max_model_calls=5), once("b"), edges="big a, a b")
    other = {**once("x"), "retry": {"max_attempts": 49}}
    operations = [put("/nodes/big/retry/max_attempts", 1), *add_node(other, "a x")]
    assert refused(document, operations) == [("/operations", "max-model-calls")]


async def test_a_patch_that_waits_is_compiled_once(redis, wait_until):
    """Items of the patch before still follow: it is asked again fifty times a second."""
    play = await begun(redis)
    await play.patch(*INSERT)
    made, asked, write = [], [], play.store.patch_run

    def make(ir):
        made.append(ir)
        return revise(ir, [add("/description", "x")])

    async def counted(steps):
        asked.append(steps)
        return await write(steps)

    play.store.patch_run = counted
    patching = asyncio.create_task(play.patching.patch("run_1", Patch(make, BY)))
    await wait_until(lambda: len(asked) > 3)
    await play.tick()
    await patching
    assert len(made) == 1
