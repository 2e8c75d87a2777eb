"""More of it: tests/patching."""

import orjson
import pytest

from lua.run_store import PatchStep
from schemas.events import STATUS_OF
from schemas.plan import places
from schemas.revision import revise
from tests.patching.flight import Flight, add, agent, edge, flow, map_of, remove, set_to
from tests.scripts.workflows import CHAIN, LOOP, edges, task

ADD_C = [add("/nodes/-", task("c")), edge("b", "c")]


def step_of(play, operations, revision=1, **change):
    new = revise(play.ir, list(operations))
    full = {
        "gone": dict.fromkeys(new.difference.gone, True),
        "retyped": dict.fromkeys(new.difference.retyped, True),
        "redefined": {},
        "loops": list(new.difference.loops),
        "inside": False,
        "cancel": False,
        "restart": False,
        "unranked": False,
        "all_loops": " ".join(new.ir.loops),
        "streams": ["wf.tasks.function"],
    }
    full |= change
    body = orjson.dumps({"revision": revision + 1, "digest": new.ir.digest, "operations": list(operations)})
    return PatchStep(
        "run_1", revision, new.ir.digest, new.ir.text, orjson.dumps(full), orjson.dumps(places(new.ir)), body
    )


async def patched(play, operations, **more):
    return (await play.store.patch_run([step_of(play, operations, **more)]))[0]


async def begun(redis, workflow=CHAIN, **fields):
    play = Flight(redis, workflow)
    await play.start(**fields)
    return play


async def test_the_run_has_another_ir_from_now_on(any_redis):
    play = await begun(any_redis)
    word, status, text = await patched(play, ADD_C)
    assert (word, status) == ("patched", "RUNNING")
    view = orjson.loads(text)
    assert (view["nodes"], len(view["open"]), view["whole"]) == ({"a": {"queued": 1}}, 0, True)
    new = revise(play.ir, ADD_C).ir
    assert await play.store.ir_text("run_1") == new.text
    assert (await any_redis.get("first_ir:run_1")).decode() == play.ir.text
    assert (await play.field("digest"), await play.field("revision")) == (new.digest, "2")
    event = (await play.events())[-1]
    assert (event.type, event.seq, event.data["revision"]) == ("run_patched", 2, 2)
    assert (event.data["tokens"], event.data["live"], event.data.get("gone", [])) == ({}, 1, [])
    await play.read_ir()
    await play.finish_all()
    assert play.path() == ["a", "b", "c"]


async def test_a_patch_on_another_revision_is_stale(any_redis):
    play = await begun(any_redis)
    before = await play.dump()
    assert await patched(play, ADD_C, revision=2) == ["stale", "1"]
    assert await play.dump() == before
    assert (await patched(play, ADD_C))[0] == "patched"
    assert await patched(play, ADD_C) == ["stale", "2"]


async def test_what_has_ended_or_is_unknown_takes_none(any_redis):
    play = await begun(any_redis)
    await play.store.end_run("run_1", "CANCELLED", {})
    before = await play.dump()
    assert await patched(play, ADD_C) == ["over", "CANCELLED"]
    assert await play.dump() == before
    await any_redis.flushdb()
    assert await patched(play, ADD_C) == ["unknown"]
    assert await play.dump() == {}


async def test_live_tokens_stand_in_the_way_of_a_removal(any_redis):
    play = await begun(any_redis)
    operations = [remove("/nodes/a"), remove("/edges/0")]
    before = await play.dump()
    word, tokens = await patched(play, operations)
    assert (word, orjson.loads(tokens)) == ("live_tokens", [["run_1.1", "a", "queued"]])
    assert await play.dump() == before


async def test_a_run_in_which_nothing_is_left_ends(any_redis):
    play = await begun(any_redis, batch="b1")
    operations = [remove("/nodes/a"), remove("/edges/0")]
    word, status, _ = await patched(play, operations, cancel=True)
    assert (word, status) == ("patched", "COMPLETED")
    assert await play.status() == "COMPLETED"
    patch, end = (await play.events())[-2:]
    assert (patch.type, patch.data["gone"], patch.data["live"], end.type) == (
        "run_patched", ["run_1.1"], 0, "run_completed",
    )  # fmt: skip
    assert end.type in STATUS_OF
    await play.read_ir()
    assert await play.wrong() == []
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {b"done": 1}
    for name in ("first_ir", "ir", "run"):
        assert await any_redis.pttl(f"{name}:run_1") > 0


async def test_another_type_stands_in_the_way_of_what_has_begun(any_redis):
    play = await begun(any_redis)
    await play.claim(await play.task_on("a"))
    operations = [set_to("/nodes/a", {"id": "a", "type": "join"})]
    word, tokens = await patched(play, operations)
    assert (word, orjson.loads(tokens)) == ("retyped", [["run_1.1", "a", "running"]])
    assert (await patched(play, operations, restart=True))[0] == "patched"
    assert await play.states() == [("a", "deciding")]
    await play.read_ir()
    await play.finish_all()
    assert play.path() == ["b"]


async def test_a_dry_run_writes_nothing(any_redis):
    play = await begun(any_redis)
    before = await play.dump()
    step = step_of(play, ADD_C)
    answer = (await play.store.patch_run([PatchStep(**{**_fields(step), "dry": True})]))[0]
    assert answer[0] == "patched"
    assert await play.dump() == before


def _fields(step):
    return {name: getattr(step, name) for name in step.__slots__}


async def test_a_task_goes_over_to_its_new_stream(any_redis):
    play = await begun(any_redis, flow(agent("a")), batch="b1", priority="interactive")
    streams = ["wf.tasks.agent.m2"]
    assert (await patched(play, [set_to("/nodes/a/config/model", "m2")], streams=streams))[0] == "patched"
    assert await any_redis.xlen("wf.tasks.agent.m1:interactive") == 0
    (entry,) = await any_redis.xrange("wf.tasks.agent.m2:interactive")
    event = (await play.events())[-1]
    record = event.data["tokens"]["run_1.1"]
    assert (record["entry"], record["stream"]) == (entry[0].decode(), "wf.tasks.agent.m2:interactive")
    assert entry[1][b"digest"].decode() == await play.field("digest")
    assert {b"wf.tasks.agent.m2", b"wf.tasks.agent.m2:interactive"} <= await any_redis.smembers("streams")
    await play.read_ir()
    assert await play.wrong() == []


async def test_the_count_of_a_loop_that_is_gone_is_deleted(any_redis):
    play = Flight(any_redis, LOOP, lambda task, _: {"n": 1})
    await play.start()
    await play.execute(await play.task_on("work"))
    await play.settle()
    assert await any_redis.exists("loop:run_1:again") == 1
    operations = [remove("/nodes/again"), set_to("/edges/0/to", "last")]
    assert (await patched(play, operations, all_loops="again"))[0] == "patched"
    assert await any_redis.exists("loop:run_1:again") == 0
    assert await play.field("loops") == "again"


@pytest.mark.parametrize("dry", [False, True])
async def test_items_that_still_follow_hold_the_next_patch_back(any_redis, dry):
    play = await begun(any_redis, flow(map_of(task("a"))), input={"xs": [1, 2]})
    await play.settle()
    await play.patch(set_to("/nodes/each/config/nodes/a/config/handler", "other"))
    assert await any_redis.smembers("adopting:run_1") == {b"run_1.1"}
    assert await any_redis.zscore("timers", "adopt run_1 run_1.1 0") is not None
    before = await play.dump()
    step = step_of(play, ADD_C[:1], revision=2)
    assert (await play.store.patch_run([PatchStep(**{**_fields(step), "dry": dry})]))[0] == ["adopting"]
    assert await play.dump() == before


async def test_more_items_than_can_be_looked_at(any_redis):
    """Only where it matters."""
    inside = map_of(task("a"), task("b"), edges=edges("a > b"))
    play = await begun(any_redis, flow(inside, map_of(task("c"), node_id="more")), input={"xs": list(range(501))})
    await play.settle()
    operations = [remove("/nodes/each/config/nodes/b"), remove("/nodes/each/config/edges/0")]
    assert await patched(play, operations, inside=True) == ["too_many"]
    word, _, view = await patched(play, operations, cancel=True)
    assert (word, orjson.loads(view)["whole"]) == ("patched", False)


async def test_an_agent_whose_attempt_was_given_up_patches_nothing(any_redis):
    play = await begun(any_redis)
    (queued,) = await play.tasks()
    assert await patched(play, ADD_C, author=[queued.token_id, 1]) == ["fenced"], "it is not claimed yet"
    await play.claim(queued)
    assert await patched(play, ADD_C, author=[queued.token_id, 2]) == ["fenced"]
    assert await patched(play, ADD_C, author=["run_1.99", 1]) == ["fenced"]
    assert await play.field("revision") == "1"
    assert (await patched(play, ADD_C, author=[queued.token_id, 1]))[0] == "patched"
    await play.store.pause_run("run_1", {})
    await play.claim(queued, "runner-2", reclaimed=True)
    assert ("a", "parked") in await play.states()
    assert await patched(play, ADD_C[:1], revision=2, author=[queued.token_id, 1]) == ["fenced"], "it was given up"


async def test_one_that_a_batch_has_patched_is_not_patched_again(any_redis):
    play = await begun(any_redis)
    assert (await patched(play, ADD_C, mark="p1"))[0] == "patched"
    assert await patched(play, ADD_C, mark="p1") == ["already", "2"]
    await play.patch(add("/nodes/-", task("d")))
    assert await patched(play, [add("/nodes/-", task("e"))], mark="p1") == ["already", "2"], (
        "the revision that the batch made of it"
    )
