"""More of it: tests/patching."""

import orjson

from schemas.fold import fold
from schemas.messages import Failure
from tests.patching.flight import Flight, flow, map_of, remove, set_to
from tests.scripts.workflows import edges, task

OTHER = set_to("/nodes/each/config/nodes/a/config/handler", "other")
WITHOUT_A = [remove("/nodes/each/config/nodes/a"), remove("/nodes/each/config/edges/0")]
MAP = "run_1.1"
EARLY = flow(map_of(task("a"), task("h"), task("b", join="any"), edges=edges("a > b", "h > b")))
"""The last node of an item has an output while `a` is alive."""


async def begun(redis, xs, workflow=None, answer=None, **fields):
    """A map of `a`, then `b`: every item is at `a`."""
    play = Flight(redis, workflow or flow(map_of(task("a"), task("b"), edges=edges("a > b"))))
    play.answer = answer or play.answer
    await play.start(input={"xs": xs}, **fields)
    await play.settle()
    return play


async def adopt(play, index="", token=MAP):
    return await play.store.adopt_items("run_1", token, play.ir, [index] if index else [])


def is_adopted(play, index):
    return play.redis.hget(f"scope:run_1/1-{index}", "adopted")


async def test_slice_by_slice(redis):
    """A set of more than 512 numbers is scanned in slices."""
    play = await begun(redis, list(range(600)))
    await play.patch(OTHER)
    answers = [(await adopt(play))[0]]
    assert answers == ["more"] and int(await redis.hget("map:run_1/1", "adopt")) > 0
    assert await redis.zscore("timers", f"adopt run_1 {MAP} 0") <= await play.store.now()
    while answers[-1] == "more":
        answers.append((await adopt(play))[0])
    assert answers[-1] == "done" and len(answers) > 3
    patched = [event for event in await play.events() if event.type == "items_patched"]
    assert sorted(index for event in patched for index in event.data["indexes"]) == list(range(600))
    assert not await redis.exists("adopting:run_1") and await play.field("adopting") == ""
    assert await redis.zcard("timers") == 0
    assert await play.wrong() == []
    assert await adopt(play) == ["done"]


async def test_one_item_once(any_redis):
    play = await begun(any_redis, [1, 2, 3])
    await play.patch(OTHER)
    assert await adopt(play, "1") == ["more"]
    assert [await is_adopted(play, index) for index in range(3)] == [None, play.ir.digest.encode(), None]
    event = (await play.events())[-1]
    assert (event.type, event.token_id, event.node_id) == ("items_patched", MAP, "each")
    assert event.data["indexes"] == [1]
    assert await adopt(play, "1") == ["more"]
    assert (await play.events())[-1] == event
    assert await adopt(play) == ["done"]
    assert (await play.events())[-1].data["indexes"] == [0, 2]
    assert await adopt(play, "1") == ["done"]
    assert await play.wrong() == []


async def test_under_another_graph_than_the_newest_it_is_stale(any_redis):
    play = await begun(any_redis, [1])
    await play.patch(OTHER)
    before = await play.dump()
    assert await play.store.adopt_items("run_1", MAP, play.first) == ["stale", play.ir.digest]
    assert await play.dump() == before


async def test_an_item_in_which_nothing_is_left_ends(any_redis):
    play = await begun(any_redis, [1, 2], EARLY, lambda task, started: task.node_id + str(started.item or ""))
    for node in ("h", "b"):
        await play.execute(await play.task_on(node))
        await play.settle()
    await play.patch(*WITHOUT_A, cancel=True)
    assert await adopt(play) == ["done"]
    patched, ended = (await play.events())[-2:]
    assert (patched.type, sorted(patched.data["indexes"]), len(patched.data["gone"])) == ("items_patched", [0, 1], 2)
    assert (ended.type, ended.data["index"], ended.data["result"]) == ("item_completed", 0, "b1")
    assert await any_redis.keys("*:run_1/1-0") == []
    assert await play.wrong() == []
    await play.finish_all()
    assert (await play.outputs())["each"] == ["b1", "b2"]


async def test_the_last_item_in_which_nothing_is_left_ends_the_map(any_redis):
    play = await begun(any_redis, [1, 2])
    await play.patch(*WITHOUT_A, cancel=True)
    assert await adopt(play) == ["done"]
    assert [event.type for event in await play.events()][-3:] == ["items_patched", "item_completed", "item_completed"]
    assert await play.states() == [("each", "deciding")]
    await play.finish_all()
    assert (await play.outputs())["each"] == [None, None]
    assert play.path() == []


async def test_items_that_start_in_between_have_followed(any_redis):
    play = await begun(any_redis, [1, 2, 3], flow(map_of(task("a"), max_parallel=2)))
    await play.patch(OTHER)
    assert await is_adopted(play, 0) is None
    await play.execute(await play.task_on("a"))
    await play.settle()
    assert await is_adopted(play, 2) == play.ir.digest.encode()
    await adopt(play)
    assert [e.data["indexes"] for e in await play.events() if e.type == "items_patched"] == [[0], [1]]
    await play.finish_all()


async def test_items_that_are_held_wait_until_they_are_restored(any_redis):
    """The run fails in the middle of it; no timer turns meanwhile."""
    side = task("side")
    workflow = flow(map_of(task("a"), task("b"), edges=edges("a > b")), side)
    play = await begun(any_redis, [1, 2, 3], workflow)
    play.answer = lambda task, _: Failure("permanent", "no", retryable=False) if task.node_id == "side" else {}
    await play.patch(*WITHOUT_A, cancel=True)
    assert await adopt(play, "0") == ["more"]
    await play.execute(await play.task_on("side"))
    await play.route()
    assert await play.status() == "FAILED"
    assert await adopt(play) == ["later"]
    await play.tick()
    assert await any_redis.zcard("timers") == 0
    assert await any_redis.smembers("adopting:run_1") == {MAP.encode()}
    for key in ("adopting:run_1", "first_ir:run_1"):
        assert await any_redis.pttl(key) > 0
    play.answer = lambda task, _: {}
    await play.store.retry_run("run_1", {})
    assert await any_redis.pttl("adopting:run_1") == -1
    assert await adopt(play) == ["later"]
    await play.store.sweep_map("run_1", MAP)
    assert await adopt(play) == ["done"]
    assert await play.wrong() == []
    await play.finish_all()
    assert play.path() == ["side", "side"]


async def test_nothing_is_left_to_follow(any_redis):
    play = await begun(any_redis, [1])
    await play.patch(OTHER)
    await play.store.end_run("run_1", "CANCELLED", {})
    assert await adopt(play) == ["done"]
    assert await any_redis.zscore("timers", f"adopt run_1 {MAP} 0") is None
    await any_redis.flushdb()
    assert await play.store.adopt_items("run_1", MAP, None) == ["done"]
    assert await any_redis.keys("*") == []


async def test_what_an_item_forgets(any_redis):
    again = {"condition": {"type": "cel", "expression": "iteration < 2"}, "loop_back_to": "a", "max_iterations": 5}
    loop = {"id": "again", "type": "loop", "config": {**again, "break_path": ["b"]}}
    play = await begun(any_redis, [1], flow(map_of(task("a"), loop, task("b"), edges=edges("a > again"))))
    await play.execute(await play.task_on("a"))
    await play.settle()
    assert await any_redis.exists("loop:run_1/1-0:again") == 1
    await play.patch(remove("/nodes/each/config/nodes/again"), set_to("/nodes/each/config/edges/0/to", "b"))
    await adopt(play)
    assert await any_redis.exists("loop:run_1/1-0:again") == 0
    assert (await play.events())[-1].data["loops"] == ["again"]
    assert fold(await play.events()).passes.get("1-0", {}) == {}
    await play.finish_all()


async def test_a_large_result_stays_where_it_is(any_redis):
    play = await begun(any_redis, [1], EARLY, lambda task, _: "x" * 20_000)
    for node in ("h", "b"):
        await play.execute(await play.task_on(node))
        await play.settle()
    await play.patch(*WITHOUT_A, cancel=True)
    await adopt(play)
    ended = (await play.events())[-1]
    assert ended.data["stored_result"].startswith("artifact://")
    assert (await any_redis.hget("results:run_1/1", "0")).decode() == ended.data["stored_result"]


async def test_arrivals_stay_when_their_predecessor_is_gone(any_redis):
    join = {"id": "j", "type": "join"}
    nodes = (task("a"), task("b"), task("d"), join, task("c"))
    inside = map_of(*nodes, edges=edges("a > j", "b > j", "d > j", "j > c"))
    play = await begun(any_redis, [1], flow(inside))
    await play.execute(await play.task_on("a"))
    await play.settle()
    await play.patch(remove("/nodes/each/config/nodes/a"), remove("/nodes/each/config/edges/0"))
    await adopt(play)
    assert orjson.loads(await any_redis.hget("arrivals:run_1/1-0", "run_1.1-0.5/a")) == {"node": "a"}
    await play.finish_all()
    assert sorted(orjson.loads(play.executed[-1][1].arrived["j"])) == ["a", "b", "d"]
