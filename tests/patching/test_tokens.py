"""What a patch does to a token in each of its states."""

import orjson
import pytest

from lua.patching import PatchRefused
from schemas.messages import CompletionSignal, Failure
from tests.choreography.test_children import CHILD
from tests.patching.flight import BY, Flight, add, agent, edge, flow, remove, set_to
from tests.scripts.workflows import CHAIN, DIAMOND, edges, task

OPENED = {
    "asked": {"type": "human", "config": {"prompt": "old?", "remind_ms": 5_000}},
    "timed": {"type": "wait", "config": {"for_ms": 60_000}},
    "listening": {"type": "wait", "config": {"event": "paid", "key": "old"}},
    "calling": {"type": "workflow", "config": {"document": CHILD, "input": {"n": "old"}}},
}
EDITS = {
    "asked": set_to("/nodes/x/config/prompt", "new?"),
    "timed": set_to("/nodes/x/config/for_ms", 90_000),
    "listening": set_to("/nodes/x/config/key", "new"),
    "calling": set_to("/nodes/x/config/input", {"n": "new"}),
}
STARTED = ("running", *OPENED)
UNSTARTED = ("queued", "delayed", "deciding", "parked", "waiting")
X = "run_1.1"


def node_in(state):
    return {"id": "x", **OPENED.get(state, {"type": "function", "config": {"handler": "h"}})}


async def brought(redis, state, **fields):
    """A run whose one token on x is in this state; `end` follows."""
    play = Flight(redis, flow(node_in(state), task("end"), edges=edges("x > end")))
    if state == "waiting":
        play = Flight(redis, flow(node_in(state), task("end"), task("p"), task("q"),
                                  edges=edges("p > x", "q > x", "x > end")))  # fmt: skip
    if state == "deciding":
        play = Flight(redis, flow({"id": "x", "type": "transform", "config": {"set": {"n": "1"}}}, task("end"),
                                  edges=edges("x > end")))  # fmt: skip
    await play.start(**fields)
    if state == "delayed":
        play.answer = lambda task, _: Failure("timeout", "slow", retryable=True)
    if state == "delayed" or state == "waiting":
        await play.execute(await play.task_on("p" if state == "waiting" else "x"))
    if state == "running":
        await play.claim(await play.task_on("x"))
    if state == "parked":
        await play.store.pause_run("run_1", BY)
        await play.claim(await play.task_on("x"))
    play.answer = lambda task, _: {"node": task.node_id}
    if state != "deciding":
        await play.settle()
    assert ("x", state) in await play.states(), await play.states()
    return play


async def go_on(play, state):
    """Let the token's work end as it began."""
    if state == "running":
        (token_id,) = await play.in_state("x", "running")
        signal = CompletionSignal(token_id, "run_1", "x", 1, "completed", {"n": 1})
        await play.store.answer_task("run_1", token_id, signal, BY, ("running",))
    if state in ("asked", "listening"):
        signal = CompletionSignal(X, "run_1", "x", None, "completed", {"n": 1})
        assert await play.store.answer_task("run_1", X, signal, BY, (state,)) == ["answered"]
    if state == "timed":
        await play.skip(100_000)
    if state == "parked":
        await play.store.resume_run("run_1", BY)


# -- kept -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", OPENED)
async def test_what_has_begun_goes_on_as_it_began(any_redis, state):
    play = await brought(any_redis, state)
    before = await play.raw(X)
    await play.patch(EDITS[state], add("/nodes/-", task("more")), edge("x", "more"))
    assert {**await play.raw(X), "carries": None} == {**before, "carries": None}
    assert await play.wrong() == []
    if state == "asked":
        assert b"old?" in (await any_redis.hgetall("approvals"))[X.encode()]
    if state == "listening":
        assert await any_redis.hgetall("listeners:paid") == {X.encode(): b"old"}
    await go_on(play, state)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert {"end", "more"} <= set(play.path())
    if state == "calling":
        assert play.executed[0][1].input == '{"n":"old"}'


@pytest.mark.parametrize("state", OPENED)
async def test_what_has_begun_begins_anew(any_redis, state):
    play = await brought(any_redis, state)
    before = await play.raw(X)
    done = await play.patch(EDITS[state], restart=True)
    assert done.restarted == ("x",)
    after = await play.raw(X)
    assert (after["state"], after["attempt"]) == ("deciding", 1)
    assert not await any_redis.exists("approvals", "listeners:paid")
    members = [m.decode() for m in await any_redis.zrange("timers", 0, -1)]
    assert {m for m in members if m.split(" ")[1] == "run_1"} == {f"signal run_1 {X} 1"}
    await play.settle()
    assert (await play.raw(X))["state"] == state
    assert await play.wrong() == []
    if state == "asked":
        assert b"new?" in (await any_redis.hgetall("approvals"))[X.encode()]
    if state == "listening":
        assert await any_redis.hgetall("listeners:paid") == {X.encode(): b"new"}
    if state == "timed":
        assert (await play.raw(X))["due"] > before["due"] + 20_000
    await go_on(play, state)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    if state == "calling":
        assert [s.input for t, s in play.executed if t.node_id == "c"] == ['{"n":"new"}']
        assert await play.status(before["child"]) == "CANCELLED"
    assert await any_redis.zcard("timers") == 0 and not await any_redis.exists("approvals", "live_runs")


@pytest.mark.parametrize("restart", [False, True])
async def test_what_is_not_redefined_does_not_begin_anew(any_redis, restart):
    play = await brought(any_redis, "running")
    done = await play.patch(add("/nodes/x/retry", {"max_attempts": 7}), add("/nodes/x/description", "says more"),
                            restart=restart)  # fmt: skip
    assert done.restarted == ()
    assert await play.states() == [("x", "running")]
    assert done.difference.changed == ("x",) and done.difference.redefined == frozenset()


async def test_an_answer_that_is_stored_counts(any_redis):
    play = await brought(any_redis, "asked")
    await go_on(play, "asked")
    await play.patch(EDITS["asked"], restart=True)
    await play.finish_all()
    assert (await play.outputs())["x"] == {"n": 1}


# -- another type -----------------------------------------------------------------------------------
TYPES = {
    "function": {"type": "function", "config": {"handler": "other"}},
    "agent": {"type": "agent", "config": {"model": "m1", "prompt": "p"}},
    "transform": {"type": "transform", "config": {"set": {"n": "2"}}},
    "human": {"type": "human", "config": {}},
    "wait": {"type": "wait", "config": {"for_ms": 1}},
    "workflow": {"type": "workflow", "config": {"document": CHILD}},
    "map": {"type": "map", "config": {"items": "[1, 2]", "nodes": [task("inside")]}},
}


@pytest.mark.parametrize("new", TYPES)
@pytest.mark.parametrize("state", [*UNSTARTED, *STARTED])
async def test_another_type(redis, state, new):
    play = await brought(redis, state)
    old = play.ir.nodes["x"].type
    if old == TYPES[new]["type"]:
        return
    change = set_to("/nodes/x", {"id": "x", **TYPES[new]})
    if state in STARTED:
        before = await play.dump()
        with pytest.raises(PatchRefused) as info:
            await play.patch(change)
        assert (info.value.reason, info.value.tokens) == ("retyped", ((X, "x", state),))
        assert await play.dump() == before
        assert (await play.patch(change, restart=True)).restarted == ("x",)
    else:
        await play.patch(change)
    assert await play.wrong() == []
    if state == "parked":
        await play.store.resume_run("run_1", BY)
    await play.run_to_end()
    if new == "human":
        (token_id,) = await play.in_state("x", "asked")
        signal = CompletionSignal(token_id, "run_1", "x", None, "completed", {"n": 1})
        await play.store.answer_task("run_1", token_id, signal, BY, ("asked",))
    await play.skip(5)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    expected = {"function": {"node": "x"}, "agent": {"node": "x"}, "transform": {"n": 2}, "human": {"n": 1},
                "workflow": {"node": "c"}, "map": [{"node": "inside"}] * 2}  # fmt: skip
    if new in expected:
        assert (await play.outputs())["x"] == expected[new]
    assert sum(e.type == "node_completed" and e.node_id == "x" for e in await play.events()) == 1
    assert await redis.zcard("timers") == 0 and not await redis.exists("approvals", "live_runs")
    assert await play.wrong() == []


async def test_the_signal_of_what_was_to_be_decided_is_no_outcome_of_a_task(any_redis):
    play = await brought(any_redis, "deciding")
    raws = await play.signals()  # a coordinator has it in its hands
    await play.patch(set_to("/nodes/x", {"id": "x", **TYPES["function"]}))
    await play.route(raws)
    assert await play.states() == [("x", "queued")]
    await play.finish_all()
    assert play.path() == ["x", "end"]


async def test_a_running_map_keeps_its_type(any_redis):
    play = Flight(any_redis, flow({"id": "x", **TYPES["map"]}))
    await play.start()
    await play.settle()
    with pytest.raises(PatchRefused) as info:
        await play.patch(set_to("/nodes/x", {"id": "x", **TYPES["function"]}), cancel=True, restart=True)
    assert (info.value.reason, info.value.tokens) == ("retyped", ((X, "x", "mapping"),))


# -- gone -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [*UNSTARTED, *STARTED])
async def test_cancelled(redis, state):
    """Nothing is left of it: no task, timer, approval, listener, child or parked token."""
    play = await brought(redis, state)
    inputs = [n for n in play.ir.nodes if n in ("p", "q")]
    rest = [set_to("/edges", []), remove("/nodes/x")]
    with pytest.raises(PatchRefused) as info:
        await play.patch(*rest)
    assert info.value.reason == "live_tokens"
    assert [token[1:] for token in info.value.tokens] == [("x", state)]
    done = await play.patch(*rest, cancel=True)
    assert done.status == ("RUNNING" if inputs else "COMPLETED")
    if inputs:
        await play.finish_all()
        assert "x" not in play.path()
        return
    await play.tick()
    assert await play.wrong(over=True) == [] or state == "calling"
    assert not await redis.exists("timers", "approvals", "listeners:paid", "live_runs")
    if state == "parked":
        assert await redis.pttl("parked:run_1") != -1


async def test_a_parked_token_that_is_cancelled_is_passed_over(any_redis):
    play = Flight(any_redis, flow(task("x"), task("y")))
    await play.start()
    await play.store.pause_run("run_1", BY)
    for one in await play.tasks():
        await play.claim(one)
    await play.patch(remove("/nodes/x"), cancel=True)
    assert await any_redis.llen("parked:run_1") == 2
    await play.store.resume_run("run_1", BY)
    await play.tick()
    assert await play.states() == [("y", "queued")]
    await play.finish_all()
    assert play.path() == ["y"]


async def test_moved_into_a_map_it_is_another_node(any_redis):
    inside = {"id": "m", "type": "map", "config": {"items": "[1]", "nodes": [task("y")]}}
    play = Flight(any_redis, flow(task("x"), inside, edges=edges("x > m")))
    await play.start()
    await play.settle()
    move = [{"op": "move", "from": "/nodes/x", "path": "/nodes/m/config/nodes/0"}, remove("/edges/0"),
            add("/nodes/m/config/edges", edges("x > y")), add("/nodes/-", task("s")), edge("s", "m")]  # fmt: skip
    with pytest.raises(PatchRefused):
        await play.patch(*move)
    done = await play.patch(*move, cancel=True)
    assert done.difference.gone == {"x"} and "x" in done.difference.changed
    assert await play.status() == "COMPLETED"
    assert await play.wrong(over=True) == []


# -- the edges of a patch ---------------------------------------------------------------------------
@pytest.mark.parametrize("state", [*UNSTARTED, *STARTED])
async def test_a_dry_run_writes_nothing_and_says_the_same(redis, state):
    play = await brought(redis, state)
    change = [set_to("/nodes/x", {"id": "x", **TYPES["agent"]}), add("/nodes/-", task("more")), edge("x", "more")]
    before = await play.dump()
    dry = await play.patch(*change, restart=True, dry=True)
    assert await play.dump() == before
    wet = await play.patch(*change, restart=True)
    assert dry == wet


async def test_several_revisions_later(any_redis):
    """Keys and events of a run that was patched often; what is done stays done."""
    play = Flight(any_redis, DIAMOND)
    await play.start()
    for number in range(5):
        await play.patch(add("/nodes/-", task(f"n{number}")), edge("a", f"n{number}"))
        if work := await play.tasks():
            await play.execute(work[0])
            await play.settle()
        assert await play.wrong() == []
    await play.run_to_end()
    assert await play.field("revision") == "6"
    assert play.path().count("a") == 1
    for key in await any_redis.keys("*:run_1*"):
        assert await any_redis.pttl(key) > 0, key


async def test_a_queue_timeout_that_a_patch_sets_holds_for_what_is_not_queued_yet(any_redis):
    play = Flight(any_redis, flow(agent("a"), agent("b"), edges=edges("a > b")))
    await play.start()
    await play.store.pause_run("run_1", BY)
    await play.claim(await play.task_on("a"))
    await play.patch(set_to("/nodes/a/config/model", "m2"), add("/nodes/a/queue_timeout_ms", 1_000))
    await play.store.resume_run("run_1", BY)
    await play.tick()
    assert await any_redis.zscore("timers", f"queue run_1 {X} {(await play.raw(X))['attempt']}") is not None


@pytest.mark.parametrize("state", ["queued", "delayed", "parked"])
@pytest.mark.parametrize(("before", "after"), [(600_000, 10_000), (None, 10_000), (10_000, 600_000), (600_000, None)])
async def test_what_is_not_executed_yet_waits_for_as_long_as_the_patch_says(any_redis, state, before, after):
    play = await brought(any_redis, state)
    for queue_ms in (before, after):
        await play.skip(1_000)
        await play.patch(set_to("/nodes/x", task("x", **({"queue_timeout_ms": queue_ms} if queue_ms else {}))))
    if state == "parked":
        await go_on(play, state)
    if state == "delayed":
        await play.skip(60_000)
    await play.tick()
    token = await play.raw(X)
    due = token["since"] + after if after else None
    assert (token["state"], token.get("due")) == ("queued", due), "from the time at which it was queued"
    assert await any_redis.zscore("timers", f"queue run_1 {X} {token['attempt']}") == due
    if after:
        await play.skip(due - await play.store.now() - 500)
        await play.tick()
        assert await play.in_state("x", "queued") == [X]
        await play.skip(1_000)
        await play.tick()
    assert await play.in_state("x", "queued") == ([] if after else [X])


async def test_pauses_before_it_was_queued_are_not_given_to_it(any_redis):
    play = await brought(any_redis, "running")
    await play.store.pause_run("run_1", BY)
    await play.skip(60_000)
    await play.store.resume_run("run_1", BY)
    await go_on(play, "running")
    await play.settle()
    await play.patch(add("/nodes/end/queue_timeout_ms", 10_000))
    await play.skip(11_000)
    await play.tick()
    assert await play.in_state("end", "queued") == []


async def test_what_is_queued_has_not_waited_while_its_run_was_paused(any_redis):
    """Also if it had no queue_timeout_ms then, and nobody wrote down how long the run had been paused before."""
    play = await brought(any_redis, "queued")
    await play.store.pause_run("run_1", BY)
    await play.skip(60_000)
    await play.store.resume_run("run_1", BY)
    await play.patch(add("/nodes/x/queue_timeout_ms", 10_000))
    await play.tick()
    assert await play.in_state("x", "queued") == [X]
    await play.skip(11_000)
    await play.tick()
    assert await play.in_state("x", "queued") == []


async def test_arrivals_stay_what_they_were(any_redis):
    """p is executed again, in a loop that the patch makes, before what it gave has been read."""
    play = Flight(any_redis, CHAIN, lambda task, _: {"n": len(play.executed)})
    await play.start()
    await play.execute(await play.task_on("a"))
    await play.settle()
    given = (await play.outputs())["a"]
    await play.patch(set_to("/edges", []), add("/nodes/-", task("c")))
    await any_redis.hset("context:run_1", "a", orjson.dumps("another"))
    await play.execute(await play.task_on("b"))
    assert orjson.loads(play.executed[-1][1].arrived["a"]) == given
