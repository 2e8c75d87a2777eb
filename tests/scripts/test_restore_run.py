"""More of it: tests/routing/test_rebuilt.py, tests/api/test_recovery.py, tests/faults/test_recovery.py."""

from collections import Counter
from dataclasses import replace

import orjson
import pytest

from lua.patching import change_between
from lua.run_image import ITEM_MS, MADE_APART
from lua.run_reading import read_run
from lua.run_rebuild import RunRebuild
from schemas.messages import Failure
from tests.choreography.test_children import Family, parent
from tests.choreography.test_waits import begin, said, waiting
from tests.patching.test_items import INSERT, begun, finished
from tests.play import Play
from tests.scripts.rebuilding import last, lose, lose_and_rebuild, rebuild, recorded, state
from tests.scripts.workflows import CHAIN, DIAMOND, LOOP, mapped, retrying

AGENT = {
    "id": "w",
    "nodes": [{"id": "a", "type": "agent", "config": {"model": "m", "prompt": "x"}, "queue_timeout_ms": 5_000}],
    "edges": [],
}


async def timers(redis):
    return {name.decode(): int(due) for name, due in await redis.zrange("timers", 0, -1, withscores=True)}


async def test_answers_and_its_event(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    run = await recorded(play)
    assert await rebuild(play, run) is False, "it is there"
    await lose(play)
    assert await rebuild(play, run) is True
    assert await rebuild(play, run) is False
    event = await last(play)
    assert (event.type, event.seq, event.data["from_seq"], event.data["by"]) == ("run_recovered", 2, 1, "me")
    assert [(one.node_id, one.token_id) for one in await play.tasks()] == [("a", "run_1.1")]
    assert int(await play.field("made")) == 1 + MADE_APART, "what was made and not recorded is never met again"
    await play.run_to_end()
    assert (await play.status(), play.path()) == ("COMPLETED", ["a", "b"])


async def test_no_key_of_it_has_a_ttl(any_redis):
    """Nor has any of the items of its maps, once they are restored."""
    play = Play(any_redis, mapped())
    await play.start(input={"xs": [1, 2, 3]})
    await play.settle()
    await play.execute((await play.tasks())[0])
    await play.settle()
    before = {key for key in await any_redis.keys("*:run_1*") if b"outcomes" not in key}
    await lose_and_rebuild(play)
    await play.settle()
    await play.tick()
    after = set(await any_redis.keys("*:run_1*"))
    assert before <= after
    for key in after:
        assert await any_redis.pttl(key) == -1, key
    await play.run_to_end()
    assert (await play.status(), len(play.executed)) == ("COMPLETED", 3)


async def test_the_time_that_it_was_lost_does_not_count(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(timeout_ms="60000")
    due = (await timers(any_redis))["run run_1 - 0"]
    await lose_and_rebuild(play, skip_ms=500_000)
    assert (await timers(any_redis))["run run_1 - 0"] - due == int(await play.field("paused_ms")) >= 500_000
    assert (await state(play)).paused_ms == int(await play.field("paused_ms"))
    assert await play.store.end_run("run_1", "TIMED_OUT", {}) == ["waiting"]


async def test_lanes_models_and_batches_count_it_again(any_redis):
    play = Play(any_redis, AGENT)
    await play.start(priority="interactive", batch="b1")
    run = await recorded(play)
    run.state.priority, run.state.batch_id = "interactive", "b1"
    await lose(play)
    await play.skip(60_000)
    assert await rebuild(play, run)
    assert await any_redis.xlen("wf.tasks.agent.m:interactive") == 1
    assert await any_redis.hgetall("backlog") == {b"m:interactive": b"1"}
    assert await any_redis.hget("model:m", "queued") == b"1"
    assert await any_redis.hgetall("batch:b1") == {b"running": b"1", b"a|queued": b"1"}
    token = (await play.tokens())["run_1.1"]
    due = (await timers(any_redis))[f"queue run_1 run_1.1 {token.attempt}"]
    assert due == token.since + 5_000, "it waits for a runner anew"
    await play.execute((await play.tasks())[0])
    await play.settle()
    assert await play.status() == "COMPLETED"
    assert await any_redis.hgetall("backlog") == {}
    assert await any_redis.hget("model:m", "queued") == b"0"


async def test_an_execution_that_was_not_recorded_is_fenced(any_redis):
    play = Play(any_redis, retrying())
    await play.start()
    one = next(task for task in await play.tasks() if task.node_id == "a")
    run = await recorded(play)
    started = await play.claim(one)
    await lose(play)
    assert await rebuild(play, run)
    assert await play.finish(one, started, {"late": True}) != "stored"
    await play.settle()
    assert await play.states() == [("a", "queued"), ("sorry", "queued")]
    play.answer = lambda one, _: Failure("timeout", "slow", retryable=True) if one.node_id == "a" else {}
    await play.run_to_end()
    assert (await play.status(), play.path().count("a")) == ("FAILED", 3), "it has all its attempts"


async def test_a_paused_run_stays_paused(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.store.pause_run("run_1", {})
    await play.settle()
    await lose_and_rebuild(play)
    assert (await play.status(), await play.tasks()) == ("PAUSED", [])
    assert {found for _, found in await play.states()} == {"parked"}
    await play.store.resume_run("run_1", {})
    await play.run_to_end()
    assert (await play.status(), sorted(play.path())) == ("COMPLETED", ["a", "b", "c", "d"])


async def test_people_go_on_being_asked(any_redis):
    """With the same form, choices and deadline."""
    config = {"prompt": "Go, {{ input.who }}?", "choices": ["yes", "no"], "remind_ms": 3_000, "deadline_ms": 90_000}
    config |= {"form": {"type": "object", "properties": {"choice": {"type": "string"}}}, "assignee": "bob"}
    play = await begin(any_redis, waiting("human", config))
    asked, due = await any_redis.hgetall("approvals"), await timers(any_redis)
    await lose_and_rebuild(play, skip_ms=1_000)
    again, left = await any_redis.hgetall("approvals"), await timers(any_redis)
    views = [{**orjson.loads(found[b"run_1.2"]), "since": 0} for found in (asked, again)]
    assert views[0] == views[1]
    assert left["deadline run_1 run_1.2 0"] == due["deadline run_1 run_1.2 0"]
    assert left["remind run_1 run_1.2 0"] > due["remind run_1 run_1.2 0"]
    assert [name async for name in any_redis.hscan_iter("run:run_1", match="asked *")] == []
    assert (await play.store.answer_task("run_1", "run_1.2", said("yes"), {}, ["asked"]))[0] == "answered"
    await play.run_to_end()
    assert play.path() == ["a", "end", "late"]


@pytest.mark.parametrize(
    "config", [{"for_ms": 50_000}, {"event": "paid", "key": "{{ input.who }}", "deadline_ms": 90_000}]
)
async def test_waits_go_on(any_redis, config):
    play = await begin(any_redis, waiting("wait", config))
    before, listens = await timers(any_redis), await any_redis.hgetall("listeners:paid")
    await lose_and_rebuild(play, skip_ms=1_000)
    assert await timers(any_redis) == before
    assert await any_redis.hgetall("listeners:paid") == listens


async def test_an_answer_that_waits_to_be_routed_is_routed(any_redis):
    play = await begin(any_redis, waiting("human", {"prompt": "Go?"}))
    await play.store.answer_task("run_1", "run_1.2", said({"n": 7}), {}, ["asked"])
    await lose_and_rebuild(play)
    await play.run_to_end()
    assert (await play.outputs())["wait"] == {"n": 7}


async def test_passes_of_loops_are_kept(any_redis):
    play = Play(any_redis, LOOP, lambda *_: {"n": len(play.executed)})
    await play.start()
    for _ in range(2):
        await play.execute((await play.tasks())[0])
        await play.settle()
    await lose_and_rebuild(play)
    assert (await read_run(play.store, "run_1")).passes == (await state(play)).passes != {}
    await play.run_to_end()
    assert (await play.status(), play.path()) == ("COMPLETED", ["work"] * 3 + ["last"])


async def calling(redis):
    play = Family(redis, parent())
    await play.start(input={"n": 1})
    await play.settle()
    return play


async def test_a_child_is_not_taken_for_an_orphan_while_its_parent_is_still_to_come(any_redis):
    play = await calling(any_redis)
    run, child = await recorded(play), await recorded(play, "run_1:1")
    await lose(play)
    assert await rebuild(play, child)
    await play.tick()
    assert await play.status("run_1:1") == "RUNNING"
    await play.store.pause_run("run_1:1", {})
    assert await rebuild(play, run)
    await play.tick()
    assert await play.status("run_1:1") == "RUNNING", "it follows its parent, which goes on"
    await play.run_to_end()
    assert (await play.status(), await play.status("run_1:1"), play.path()) == ("COMPLETED", "COMPLETED", ["c", "end"])


async def test_an_orphan_is_cancelled_in_the_end(any_redis):
    play = await calling(any_redis)
    await lose_and_rebuild(play, "run_1:1")
    await play.skip(600_001)
    await play.tick()
    assert await play.status("run_1:1") == "CANCELLED"


async def test_a_child_that_has_ended_is_there_for_its_parent(any_redis):
    play = await calling(any_redis)
    await play.execute((await play.tasks())[0])
    await play.route([raw for raw in await play.signals() if b'"run_1:1"' in raw])
    assert await play.status("run_1:1") == "COMPLETED"
    run, child = await recorded(play), await recorded(play, "run_1:1")
    await lose(play)
    assert await RunRebuild(play.store).keep(child)
    assert 0 < await any_redis.pttl("run:run_1:1") < ITEM_MS
    assert await rebuild(play, run)
    await play.run_to_end()
    assert (await play.status(), play.path()) == ("COMPLETED", ["c", "end"])


async def test_a_failed_run_is_kept_and_retried(any_redis):
    """Its streams are known again, its keys go by themselves, and people are asked anew."""
    play = Play(any_redis, mapped(), lambda *_: Failure("permanent", "no", retryable=False))
    await play.start(input={"xs": [1, 2]})
    await play.run_to_end()
    run = await recorded(play)
    await lose(play)
    assert await RunRebuild(play.store).keep(run)
    for key in await any_redis.keys("*:run_1*"):
        assert await any_redis.pttl(key) > 0, key
    play.answer = lambda one, _: one.scope
    assert await play.store.retry_run("run_1", {}) == ["retried"]
    await play.run_to_end()
    assert (await play.status(), (await state(play)).status) == ("COMPLETED", "COMPLETED")
    assert (await play.outputs())["each"] == ["1-0", "1-1"]


async def test_large_values_are_there(any_redis):
    play = Play(any_redis, CHAIN, lambda one, _: {"text": one.node_id * 20_000})
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    await lose_and_rebuild(play)
    assert await any_redis.hlen("artifacts:run_1") == 1
    assert await any_redis.pttl("artifacts:run_1") == -1
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_items_that_have_yet_to_follow_a_patch_follow_it(any_redis):
    play = await begun(any_redis)
    await play.execute((await play.tasks())[0])
    await play.settle()
    before = play.ir
    await play.patch(*INSERT)
    run = await recorded(play)
    assert set(run.state.adopted.values()) == {before.digest}
    change = orjson.dumps(change_between(before, run.ir))
    await lose(play)
    assert await rebuild(play, replace(run, change=change))
    assert await any_redis.smembers("adopting:run_1") == {b"run_1.1"}
    paths = await finished(play)
    assert await play.field("adopting") == ""
    assert await play.status() == "COMPLETED"
    assert Counter(map(tuple, paths.values())) == {("a", "b"): 1, ("a", "between", "b"): 7}
    assert (await state(play)).adopted == {}


async def test_a_signal_of_the_redis_that_is_gone_is_no_fault(any_redis, monkeypatch):
    """Its large values went while a coordinator looked for them."""
    play = Play(any_redis, CHAIN, lambda *_: {"text": "x" * 20_000})
    await play.start()
    await play.execute((await play.tasks())[0])
    signals, load = await play.signals(), play.store.load_tokens

    async def loading(wanted):
        loaded = await load(wanted)
        await any_redis.flushdb()
        return loaded

    monkeypatch.setattr(play.store, "load_tokens", loading)
    await play.route(signals)
    assert await any_redis.xlen("wf.dead_letters") == 0
