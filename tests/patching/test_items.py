"""Patches while maps run: items follow in slices, and nobody can tell it from a switch at one moment."""

import orjson
import pytest

from lua.patching import PatchRefused
from schemas.messages import CompletionSignal, Failure
from tests.patching.flight import BY, Flight, add, flow, map_of, remove, set_to
from tests.scripts.workflows import cel, edges, task

MAP = "run_1.1"
NODES, EDGES = "/nodes/each/config/nodes", "/nodes/each/config/edges"
AB = map_of(task("a"), task("b"), edges=edges("a > b"), max_parallel=5)
WITHOUT_A = [remove(f"{NODES}/a"), set_to(EDGES, [])]
INSERT = [add(f"{NODES}/-", task("between")), set_to(EDGES, edges("a > between > b"))]


def by_item(task, started):
    return {"node": task.node_id, "item": orjson.loads(started.item) if started.item else None}


async def begun(redis, each=AB, xs=range(8), *, answer=by_item, **fields):
    play = Flight(redis, flow(each, task("end"), edges=edges("each > end")), answer)
    await play.start(input={"xs": list(xs)}, **fields)
    await play.settle()
    return play


async def failed(redis):
    """A map that has failed by its second item, and is not routed yet."""
    play = await begun(redis, xs=range(3), answer=lambda task, started: Failure("permanent", "no", False)
                       if started.item == "1" else by_item(task, started))  # fmt: skip
    for one in await play.tasks():
        if one.scope == "1-1":
            await play.execute(one)
    await play.route(await play.signals())  # fail_item: the map has its outcome
    assert ("each", "answered") in await play.states()
    return play


async def finished(play):
    """Go on to the end; the paths of the items, by index."""
    await play.finish_all()
    paths = {}
    for one, _ in play.executed:
        if one.scope and "." not in one.scope:
            paths.setdefault(int(one.scope.rpartition("-")[2]), []).append(one.node_id)
    return paths


async def restored(play):
    """All that was held goes on again, and has followed."""
    while await play.redis.exists("held:run_1/1") or await play.field("adopting"):
        await play.tick()
        await play.skip(500)


@pytest.mark.parametrize("turn", ["timers first", "timers last"])
async def test_a_node_is_inserted_while_items_run(any_redis, turn):
    play = await begun(any_redis)
    for _ in range(2):
        await play.execute((await play.tasks())[0])
        await play.settle()
    await play.patch(*INSERT)
    assert await play.wrong() == []
    if turn == "timers first":
        await play.tick()
        assert await play.field("adopting") == ""
    else:
        for one in await play.tasks():
            await play.execute(one)
            await play.settle()
            assert await play.wrong() == []
    paths = await finished(play)
    assert [paths[i] for i in (0, 1)] == [["a", "b"]] * 2
    assert [paths[i] for i in range(2, 8)] == [["a", "between", "b"]] * 6


async def test_an_item_follows_before_its_next_step(any_redis):
    """Its completion, which was decided on the old graph, is decided again."""
    play = await begun(any_redis)
    await play.execute(await play.task_on("a"))
    play.just_before("advance", lambda: play.patch(*INSERT))
    await play.settle()
    assert len(await play.in_state("between", "queued")) == 1
    assert [e.data["indexes"] for e in await play.events() if e.type == "items_patched"] == [[0]]
    assert await play.wrong() == []
    assert len((await finished(play))[0]) == 3


STEPS = {
    "retry_task": Failure("timeout", "slow", retryable=True),
    "fail_item": Failure("permanent", "no", retryable=False),
    "end_item": Failure("permanent", "no", retryable=False),
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_failure_of_what_a_patch_cancels_is_none(any_redis, step):
    """The token is in an item that does not follow yet."""
    play = await begun(any_redis, map_of(*AB["config"]["nodes"], edges=edges("a > b"),
                                         on_item_error="collect" if step == "end_item" else "fail"))  # fmt: skip
    work = await play.task_on("a")
    started = await play.claim(work)
    play.just_before(step, lambda: play.patch(*WITHOUT_A, cancel=True))
    await play.finish(work, started, STEPS[step])
    await play.settle()
    assert not {"node_failed", "task_retried"} & {e.type for e in await play.events()}
    await play.finish_all()
    assert (await play.outputs())["each"] == [None] * 8


async def test_an_outcome_that_comes_after_the_patch_and_before_its_item_follows(any_redis):
    """Begun anew by the patch, it says nothing."""
    play = await begun(any_redis, xs=[1])
    work = await play.task_on("a")
    started = await play.claim(work)
    await play.patch(set_to(f"{NODES}/a/config/handler", "other"), restart=True)
    assert await play.finish(work, started, {"late": True}) == "fenced"
    await play.tick()
    assert await play.states() == [("a", "queued"), ("each", "mapping")]
    assert (await finished(play))[0] == ["a", "b"]
    assert [s.attempt for t, s in play.executed if t.node_id == "a"] == [2]


async def test_the_answer_that_comes_before_the_patch_counts(any_redis):
    play = await begun(any_redis, xs=[1])
    await play.execute(await play.task_on("a"))
    await play.patch(set_to(f"{NODES}/a/config/handler", "other"), restart=True)
    await play.finish_all()
    assert play.path() == ["a", "b", "end"]


@pytest.mark.parametrize("parallel", [2, 12])
async def test_how_many_at_once(any_redis, parallel):
    play = await begun(any_redis, xs=range(20))
    assert len(await play.tasks()) == 5
    await play.patch(set_to("/nodes/each/config/max_parallel", parallel))
    await play.settle()
    assert len(await play.tasks()) == max(5, parallel)
    most = 0
    while await play.status() == "RUNNING":
        done = sum(e.type == "item_completed" for e in await play.events())
        running = int(await any_redis.hget("map:run_1/1", "running") or 0)
        most = max(most, running) if done >= 5 else most
        await play.execute((await play.tasks())[0])
        await play.settle()
    assert most == parallel
    await play.tick()
    assert await play.wrong(over=True) == []


async def test_items_fail_as_the_patch_says(any_redis):
    play = await begun(any_redis, xs=[1, 2], answer=lambda task, _: Failure("permanent", "no", False)
                       if task.node_id == "a" else {})  # fmt: skip
    await play.patch(add("/nodes/each/config/on_item_error", "collect"))
    await play.finish_all()
    assert [result["error"]["node"] for result in (await play.outputs())["each"]] == ["a", "a"]


async def test_a_whole_map_is_removed(any_redis):
    play = await begun(any_redis, batch="b1")
    await play.claim(await play.task_on("a"))
    change = [remove("/edges/0"), remove("/nodes/each")]
    with pytest.raises(PatchRefused) as info:
        await play.patch(*change)
    assert info.value.reason == "live_tokens"
    assert sorted({(node, state) for _, node, state in info.value.tokens}) == [
        ("a", "queued"), ("a", "running"), ("each", "mapping"),
    ]  # fmt: skip
    assert (await play.patch(*change, cancel=True)).status == "COMPLETED"
    await play.tick()
    assert [key for key in await any_redis.keys("*") if b"/" in key] == []
    assert not await any_redis.exists("timers", "adopting:run_1")
    assert await any_redis.xlen("wf.tasks.function") == 0
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {b"done": 1}


NESTED = map_of(map_of(task("a"), task("b"), edges=edges("a > b"), node_id="inner", items="item"), task("after"),
                edges=edges("inner > after"))  # fmt: skip
INNER = f"{NODES}/inner/config"


@pytest.mark.parametrize("turn", ["timers first", "timers last"])
async def test_nested_maps(any_redis, turn):
    play = await begun(any_redis, NESTED, [[1, 2], [3], []])
    await play.patch(add(f"{INNER}/nodes/-", task("between")), set_to(f"{INNER}/edges", edges("a > between > b")))
    if turn == "timers first":
        await play.tick()
    assert await play.wrong() == []
    await play.finish_all()
    assert sorted(play.path()) == sorted(["a", "between", "b"] * 3 + ["after"] * 3 + ["end"])


@pytest.mark.parametrize("asks", ["runner", "coordinator"])
async def test_an_item_in_an_item_follows_after_it(any_redis, asks):
    """The inner map is gone: what its items do is nothing any more, although nothing has followed yet."""
    play = await begun(any_redis, NESTED, [[1, 2], [3]])
    work = await play.task_on("a")
    if asks == "coordinator":
        await play.execute(work)
    await play.patch(remove(f"{NODES}/inner"), set_to(EDGES, []), cancel=True)
    if asks == "runner":
        assert (await play.claim(work)).state == "gone"
    await play.settle()
    patched = [(e.token_id, e.data["indexes"]) for e in await play.events() if e.type == "items_patched"]
    assert patched == [(MAP, [int(work.scope.partition(".")[0].rpartition("-")[2])])]
    await play.tick()
    await play.finish_all()
    assert (await play.outputs())["each"] == [None, None]


async def test_an_inner_map_that_starts_items_while_its_item_is_behind(any_redis):
    inner = map_of(task("a"), node_id="inner", items="item", max_parallel=1)
    play = await begun(any_redis, map_of(inner), [[1, 2], [3]])
    await play.execute(await play.task_on("a"))
    await play.patch(add(f"{INNER}/nodes/-", task("more")), add(f"{INNER}/edges", edges("a > more")))
    await play.settle()
    assert await play.wrong() == []
    await play.finish_all()
    assert sorted(play.path()) == ["a", "a", "a", "end", "more", "more", "more"]


@pytest.mark.parametrize("when", ["before", "in the middle"])
async def test_a_run_fails_while_items_follow_and_is_retried(any_redis, when):
    side = {"id": "side", "type": "function", "config": {"handler": "h"}}
    each = map_of(task("a"), task("b"), edges=edges("a > b"))
    play = Flight(any_redis, flow(each, side), by_item)
    await play.start(input={"xs": list(range(6))})
    await play.settle()
    work = await play.task_on("a")
    running = await play.claim(work)
    play.answer = lambda task, _: Failure("permanent", "no", False)
    await play.patch(*INSERT)
    if when == "in the middle":
        await play.store.adopt_items("run_1", MAP, play.ir, ["0"])
    await play.execute(await play.task_on("side"))
    await play.route()
    assert await play.status() == "FAILED"
    await play.tick()
    assert await any_redis.zcard("timers") == 0
    assert await play.finish(work, running, {"late": 1}) == "held"
    play.answer = by_item
    await play.store.retry_run("run_1", BY)
    await restored(play)
    assert await play.field("adopting") == ""
    assert await play.wrong() == []
    await play.finish_all()
    assert play.path().count("between") == 6 and play.path().count("side") == 2


async def test_a_map_that_has_failed_as_it_is_patched_and_retried(any_redis):
    """Its items are held with the old graph's nodes, and follow as they are restored."""
    play = await failed(any_redis)
    await play.patch(*WITHOUT_A, add(f"{NODES}/-", task("z")), add(f"{EDGES}/-", edges("b > z")[0]), cancel=True)
    assert await play.wrong() == []
    await play.route()
    assert await play.status() == "FAILED"
    await play.tick()
    play.answer = by_item
    await play.store.retry_run("run_1", BY)
    await restored(play)
    await play.finish_all()
    assert (await play.outputs())["each"] == [None] * 3
    assert play.path() == ["a", "end"]


async def test_a_map_that_has_failed_becomes_something_else(any_redis):
    """Begun anew as a task: its items are swept away, and then it may even be a map again."""
    play = await failed(any_redis)
    await play.patch(set_to("/nodes/each", task("each")), restart=True, cancel=True)
    await play.patch(set_to("/nodes/each", map_of(task("new"), items="[7, 8]")))
    await play.settle()
    assert ("each", "deciding") in await play.states()  # not before the old items are gone
    await play.tick()
    assert [key for key in await any_redis.keys("*") if b"/" in key] == []
    await play.skip(20_000)
    await play.finish_all()
    assert play.path() == ["a", "new", "new", "end"]


async def test_a_patch_while_the_run_is_paused(any_redis):
    play = await begun(any_redis, xs=range(4))
    await play.store.pause_run("run_1", BY)
    for one in (await play.tasks())[:2]:
        assert (await play.claim(one)).state == "parked"
    await play.patch(*INSERT, set_to(f"{NODES}/a", {"id": "a", "type": "transform", "config": {"set": {"n": "index"}}}))
    await play.tick()
    assert {state for node, state in await play.states() if node == "a"} == {"parked"}
    assert await play.wrong() == []
    await play.store.resume_run("run_1", BY)
    await play.finish_all()
    assert play.path().count("between") == 4 and "a" not in play.path()


async def test_a_loop_in_an_item_is_begun_anew(any_redis):
    again = {"condition": cel("iteration < 3"), "loop_back_to": "a", "max_iterations": 9, "break_path": ["b"]}
    loop = {"id": "again", "type": "loop", "config": again}
    play = await begun(any_redis, map_of(task("a"), loop, task("b"), edges=edges("a > again")), [1])
    await play.execute(await play.task_on("a"))
    await play.settle()
    assert await any_redis.hget("loop:run_1/1-0:again", "current_iteration") == b"1"
    await play.patch(remove(f"{NODES}/again"), set_to(f"{EDGES}/0/to", "b"))
    await play.tick()
    await play.patch(add(f"{NODES}/1", loop), set_to(f"{EDGES}/0/to", "again"))
    await play.finish_all()
    assert play.path() == ["a", "a", "a", "a", "b", "end"] or play.path().count("a") == 4


async def test_a_node_moves_out_of_its_map(any_redis):
    """Its tokens are gone with the item's part of it: outside it is another node."""
    play = await begun(any_redis, xs=[1, 2])
    move = [{"op": "move", "from": f"{NODES}/a", "path": "/nodes/-"}, set_to(EDGES, []),
            add("/edges/-", {"from": "end", "to": "a"})]  # fmt: skip
    with pytest.raises(PatchRefused) as info:
        await play.patch(*move)
    assert info.value.reason == "live_tokens"
    await play.patch(*move, cancel=True)
    await play.finish_all()
    assert play.path() == ["end", "a"]
    assert (await play.outputs())["each"] == [None, None]


async def test_the_second_patch_waits_for_the_items_of_the_first(any_redis, monkeypatch):
    play = await begun(any_redis)
    await play.patch(*INSERT)
    monkeypatch.setattr("lua.patching.FOLLOW_S", 0.1)
    with pytest.raises(PatchRefused) as info:
        await play.patch(set_to(f"{NODES}/b/config/handler", "h2"))
    assert (info.value.reason, info.value.revision) == ("following", 2)
    monkeypatch.undo()
    play.when_read(2, play.tick)
    assert (await play.patch(set_to(f"{NODES}/b/config/handler", "h2"))).revision == 3
    await play.tick()
    await play.finish_all()


async def test_a_person_answers_in_an_item_that_is_behind(any_redis):
    human = {"id": "h", "type": "human", "config": {"prompt": "old?"}}
    play = await begun(any_redis, map_of(human, task("b"), edges=edges("h > b")), [1, 2])
    first = sorted(await any_redis.hkeys("approvals"))[0].decode()
    await play.patch(set_to(f"{NODES}/h/config/prompt", "new?"), add(f"{NODES}/-", task("z")),
                     add(f"{EDGES}/-", edges("b > z")[0]))  # fmt: skip
    signal = CompletionSignal(first, "run_1", "h", None, "completed", {"ok": 1})
    assert await play.store.answer_task("run_1", first, signal, BY, ("asked",)) == ["answered"]
    await play.settle()
    assert await play.wrong() == []
    await play.tick()
    (second,) = await any_redis.hkeys("approvals")
    assert b"old?" in (await any_redis.hgetall("approvals"))[second]
    signal = CompletionSignal(second.decode(), "run_1", "h", None, "completed", {"ok": 2})
    await play.store.answer_task("run_1", second.decode(), signal, BY, ("asked",))
    await play.finish_all()
    assert play.path().count("z") == 2
