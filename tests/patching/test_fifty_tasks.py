"""Fifty tasks of one node, of a batch's runs or of a map's items, in each state: a patch gives them another model."""

import pytest

from lua.patching import Patch
from schemas.messages import Failure
from schemas.revision import revise
from tests.patching.flight import BY, Flight, agent, flow, map_of, set_to
from tests.scripts.workflows import edges, task

TO_M2 = set_to("/nodes/a/config/model", "m2")


def fifty(kind):
    return agent("a", **({"queue_timeout_ms": 60_000} if kind == "timed" else {}), retry={"backoff_ms": 60_000})


async def _bring(play, run_ids, state):
    """Every task of `a` to this state; what each is, by token."""
    play.answer = lambda task, _: Failure("timeout", "slow", retryable=True)
    claimed = {}
    for one in await play.tasks():
        if state in ("running", "delayed"):
            claimed[one.token_id] = (one, await play.claim(one))
        if state == "delayed":
            await play.finish(*claimed[one.token_id], play.answer(one, None))
    await play.settle()
    if state == "parked":
        for run_id in run_ids:
            await play.store.pause_run(run_id, BY)
        for one in await play.tasks():
            assert (await play.claim(one)).state == "parked"
    play.answer = lambda task, _: "said"
    return claimed


STATES = ("queued", "timed", "running", "delayed", "parked")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("lane", ["normal", "interactive"])
async def test_fifty_runs_change_the_model(redis, state, lane):
    play = Flight(redis, flow(fifty(state), task("end"), edges=edges("a > end")))
    run_ids = [f"run_{n}" for n in range(50)]
    for run_id in run_ids:
        await play.start(run_id, batch="b1", priority=lane)
    claimed = await _bring(play, run_ids, state)
    patch = Patch(lambda ir: revise(ir, [TO_M2]), BY)
    done = await play.patching.patch_all(run_ids, patch)
    assert [one.run_id for one in done] == run_ids
    assert {one.revision for one in done} == {2}
    await _is_switched(play, state, lane)
    await _go_on(play, claimed, state, run_ids)
    for run_id in run_ids:
        assert await play.status(run_id) == "COMPLETED"
    counts = {k.decode(): int(v) for k, v in (await redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {"a|done": 50, "end|done": 50, "done": 50}
    assert await _never_negative(redis)
    revisions = {e.data["revision"] for e in await play.events(None) if e.type == "task_started" and e.node_id == "a"}
    assert revisions == {"queued": {2}, "timed": {2}, "running": {1}, "delayed": {1, 2}, "parked": {2}}[state]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("adopted", ["in slices", "one by one"])
async def test_fifty_items_change_the_model(redis, state, adopted):
    workflow = flow(map_of(fifty(state)), task("end"), edges=edges("each > end"))
    play = Flight(redis, workflow)
    await play.start(input={"xs": list(range(50))}, batch="b1")
    await play.settle()
    claimed = await _bring(play, ["run_1"], state)
    await play.patch(set_to("/nodes/each/config/nodes/a/config/model", "m2"))
    assert await play.wrong() == []
    if adopted == "in slices":
        await play.tick()
        await _is_switched(play, state, "normal")
        assert not await redis.exists("adopting:run_1")
    assert await play.wrong() == []
    await _go_on(play, claimed, state, ["run_1"])
    await play.tick()
    assert await play.status() == "COMPLETED"
    assert (await play.outputs())["each"] == ["said"] * 50
    counts = {k.decode(): int(v) for k, v in (await redis.hgetall("batch:b1")).items() if int(v)}
    assert (counts["a|done"], counts.get("a|queued"), counts.get("a|running")) == (50, None, None)
    assert await _never_negative(redis)
    assert not await redis.exists("adopting:run_1")
    assert sum(e.type == "node_completed" and e.node_id == "a" for e in await play.events()) == 50
    patched = [i for e in await play.events() if e.type == "items_patched" for i in e.data["indexes"]]
    assert len(patched) == len(set(patched))


async def _is_switched(play, state, lane):
    """Nothing is left on the old stream, and the new one has what was queued."""
    suffix = ":interactive" if lane == "interactive" else ""
    old, new = [await play.redis.xlen(f"wf.tasks.agent.{model}{suffix}") for model in ("m1", "m2")]
    expected = {"queued": (0, 50), "timed": (0, 50), "running": (50, 0), "delayed": (0, 0), "parked": (0, 0)}
    assert (old, new) == expected[state]
    assert f"wf.tasks.agent.m2{suffix}".encode() in await play.redis.smembers("streams")
    queued = [int(await play.redis.hget(f"model:{model}", "queued") or 0) for model in ("m1", "m2")]
    assert queued == [0, expected[state][1]]
    if state == "timed":
        timers = [m for m in await play.redis.zrange("timers", 0, -1) if m.startswith(b"queue ")]
        assert len(timers) == 50


async def _go_on(play, claimed, state, run_ids):
    if state == "running":
        for work, started in claimed.values():
            assert await play.finish(work, started, "said") == "finished"
    if state == "parked":
        for run_id in run_ids:
            await play.store.resume_run(run_id, BY)
        await play.tick()
    if state == "delayed":
        await play.skip(200_000)
        await play.tick()
        assert {task.stream.removesuffix(":interactive") for task in await play.tasks()} == {"wf.tasks.agent.m2"}
    await play.run_to_end(limit=10_000)


async def _never_negative(redis):
    counts = [await redis.hgetall(key) for key in [*await redis.keys("model:*"), *await redis.keys("batch:*")]]
    return all(int(n) >= 0 for one in counts for n in one.values())
