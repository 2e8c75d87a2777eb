"""Races between a patch and what the run does: one is made to happen between the other's read and its write."""

import asyncio

import pytest

from agent_runner.claims import Claims
from agent_runner.work import Fetched
from lua.patching import PatchRefused
from schemas.messages import CompletionSignal, Task
from tests.choreography.test_children import CHILD
from tests.patching.flight import BY, Flight, add, agent, begun, edge, flow, map_of, refused, remove, set_to
from tests.scripts.workflows import CHAIN, DIAMOND, edges, task

B_READS = set_to("/nodes/b/config/handler", "other")
TO_M2 = set_to("/nodes/a/config/model", "m2")


# -- a patch and the completion of the node it edits -----------------------------------------------
@pytest.mark.parametrize("first", ["patch", "completion"])
async def test_a_patch_and_the_completion_of_the_node_that_it_edits(redis, first):
    """Whichever comes first, b starts under the patch, and a's new edge is taken only if the patch did."""
    play = await begun(redis, CHAIN)
    operations = [add("/nodes/-", task("c")), edge("a", "c"), B_READS]
    task_a = await play.task_on("a")
    await play.execute(task_a)
    if first == "patch":
        play.just_before("advance", lambda: play.patch(*operations))
        await play.settle()
        assert await play.states() == [("b", "queued"), ("c", "queued")]
    else:
        play.just_before("patch_run", play.settle)
        await play.patch(*operations)
        assert await play.states() == [("b", "queued")]
    assert await play.wrong() == []
    started = await play.claim(await play.task_on("b"))
    assert (started.revision, play.ir.nodes["b"].config["handler"]) == (2, "other")
    await play.finish(await _running(play, "b"), started, {})
    await play.finish_all()
    assert sorted(play.path()) == (["a", "c"] if first == "patch" else ["a"])


async def _running(play, node):
    """The task of a token that runs."""
    (token_id,) = await play.in_state(node, "running")
    token = await play.token("run_1", token_id)
    return Task("run_1", token_id, node, token.scope, "", token.stream, token.entry)


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("outcome", ["running", "stored", "popped"])
async def test_a_node_is_removed_while_its_completion_is_on_its_way(redis, outcome, cancel):
    play = await begun(redis, DIAMOND)
    await play.execute(await play.task_on("a"))
    await play.settle()
    work = await play.task_on("b")
    started = await play.claim(work)
    raws = []
    if outcome != "running":
        await play.finish(work, started, {"late": True})
    if outcome == "popped":
        raws = await play.signals()
    without_b = [remove("/nodes/b"), set_to("/edges", edges("a > c > d"))]
    if not cancel:
        error = await refused(play.patch(*without_b))
        assert (error.reason, error.tokens) == ("live_tokens", (("run_1.2", "b", "running"),))
        await play.route(raws)
    else:
        await play.patch(*without_b, cancel=True)
        assert await play.wrong() == []
        if outcome == "running":
            assert await play.finish(work, started, {"late": True}) == "fenced"
        await play.route(raws)
    if outcome == "running" and not cancel:
        await play.finish(work, started, {"late": True})
    await play.finish_all()
    assert ("b" in await play.outputs()) is not cancel


@pytest.mark.parametrize("first", ["patch", "claim"])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_patch_and_the_claim_of_the_task_that_it_edits(redis, first, restart):
    """What has started goes on as it began, unless it is to begin anew: then the old attempt is fenced."""
    play = await begun(redis, CHAIN)
    change = set_to("/nodes/a/config/handler", "other")
    work = await play.task_on("a")
    claims = Claims(play.store, "runner-1", frozenset({"function"}), 1_000)

    async def claim():
        play.claimed = (await claims.start([Fetched(work, False)])).work

    if first == "patch":
        play.just_before("start_task", lambda: play.patch(change, restart=restart))
        await claim()
    else:
        play.just_before("patch_run", claim)
        await play.patch(change, restart=restart)
    (mine,) = play.claimed
    began_under = 2 if first == "patch" else 1
    assert mine.started.revision == began_under
    assert mine.node.config["handler"] == ("other" if began_under == 2 else "echo")
    fenced = first == "claim" and restart
    assert await play.finish(work, mine.started, {"n": 1}) == ("fenced" if fenced else "finished")
    if fenced:
        (again,) = await play.tasks()
        started = await play.claim(again)
        assert (started.revision, started.attempt) == (2, 2)
        await play.finish(again, started, {"n": 2})
    await play.finish_all()
    assert (await play.outputs())["a"] == {"n": 2 if fenced else 1}


# -- two patches -----------------------------------------------------------------------------------
@pytest.mark.parametrize("if_match", [None, 1])
async def test_two_patches_at_once(redis, if_match):
    play = await begun(redis)
    other = Flight(redis, CHAIN)
    play.just_before("patch_run", lambda: other.patch(B_READS))
    error = await refused(play.patch(set_to("/nodes/a/config/handler", "mine"), revision=if_match))
    assert (error.reason, error.revision) == ("precondition" if if_match else "conflict", 2)
    await play.read_ir()
    assert [node.config["handler"] for node in play.ir.nodes.values()] == ["echo", "other"]
    assert await play.field("revision") == "2"
    assert (await play.patch(set_to("/nodes/a/config/handler", "mine"), revision=2 if if_match else None)).revision == 3
    await play.finish_all()


async def test_many_patches_at_once_are_one_after_the_other(redis):
    """None is lost: those that are refused are tried again."""
    play = await begun(redis)

    async def insist(name):
        while True:
            try:
                return await play.patch(add("/nodes/-", task(name)))
            except PatchRefused as error:
                assert error.reason == "conflict"

    done = await asyncio.gather(*(insist(f"n{i}") for i in range(8)))
    assert sorted(one.revision for one in done) == list(range(2, 10))
    await play.read_ir()
    assert set(play.ir.nodes) == {"a", "b", *(f"n{i}" for i in range(8))}
    await play.finish_all()


# -- people ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", ["patch", "cancel"])
async def test_a_patch_and_a_cancel(redis, first):
    play = await begun(redis)
    if first == "patch":
        play.just_before("end_run", lambda: play.patch(B_READS))
        assert await play.store.end_run("run_1", "CANCELLED", BY) == ["ended", "CANCELLED"]
    else:
        play.just_before("patch_run", lambda: play.store.end_run("run_1", "CANCELLED", BY))
        error = await refused(play.patch(B_READS))
        assert (error.reason, error.status) == ("over", "CANCELLED")
    assert await play.field("revision") == ("2" if first == "patch" else "1")
    assert await play.wrong(over=True) == []


@pytest.mark.parametrize("first", ["patch", "pause"])
async def test_a_patch_and_a_pause(redis, first):
    play = await begun(redis, flow(agent("a")), answer=lambda task, _: "said")
    if first == "patch":
        play.just_before("pause_run", lambda: play.patch(TO_M2))
        await play.store.pause_run("run_1", BY)
        assert await play.states() == [("a", "queued")]
    else:
        play.just_before("patch_run", lambda: play.store.pause_run("run_1", BY))
        await play.patch(TO_M2)
        assert await play.states() == [("a", "parked")]
    assert await play.wrong() == []
    await play.store.resume_run("run_1", BY)
    await play.tick()
    assert (await play.task_on("a")).stream == "wf.tasks.agent.m2"
    await play.finish_all()


@pytest.mark.parametrize("first", ["patch", "completion"])
async def test_a_patch_and_the_last_completion(redis, first):
    play = await begun(redis, flow(task("a")))
    operations = [add("/nodes/-", task("b")), edge("a", "b")]
    await play.execute(await play.task_on("a"))
    if first == "patch":
        play.just_before("advance", lambda: play.patch(*operations))
        await play.finish_all()
        assert play.path() == ["a", "b"]
    else:
        play.just_before("patch_run", play.settle)
        error = await refused(play.patch(*operations))
        assert (error.reason, error.status) == ("over", "COMPLETED")
        assert await play.wrong(over=True) == []


@pytest.mark.parametrize("first", ["patch", "answer"])
async def test_a_patch_and_the_answer_of_a_person(redis, first):
    """Begun anew, it asks again: an answer to the old question says nothing."""
    human = {"id": "h", "type": "human", "config": {"prompt": "old?"}}
    play = await begun(redis, flow(human, task("end"), edges=edges("h > end")))
    signal = CompletionSignal("run_1.1", "run_1", "h", 0, "completed", {"ok": 1})

    async def answer():
        return await play.store.answer_task("run_1", "run_1.1", signal, BY, ("asked",))

    change = set_to("/nodes/h/config/prompt", "new?")
    if first == "answer":
        play.just_before("patch_run", answer)
        await play.patch(change, restart=True)
        await play.finish_all()
        assert (await play.outputs())["h"] == {"ok": 1}
        return
    play.just_before("answer_task", lambda: play.patch(change, restart=True))
    assert (await answer())[0] in ("refused", "unknown")
    await play.settle()
    assert await play.states() == [("h", "asked")]
    assert b"new?" in (await redis.hgetall("approvals"))[b"run_1.1"]
    assert (await play.raw("run_1.1"))["attempt"] == 1
    assert await play.wrong() == []


# -- joins ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ["bcx", "xbc", "bxc"])
async def test_a_join_that_waits_gets_another_predecessor(redis, order):
    """x is added behind c, which is alive: the join waits for it too."""
    play = await begun(redis, DIAMOND)
    await play.execute(await play.task_on("a"))
    await play.settle()
    await play.execute(await play.task_on("b"))
    await play.settle()
    assert ("d", "waiting") in await play.states()
    await play.patch(add("/nodes/-", task("x")), edge("c", "x"), edge("x", "d"))
    assert await play.wrong() == []
    await play.finish_all()
    assert play.path() == ["a", "b", "c", "x", "d"]
    assert sorted(play.executed[-1][1].arrived) == ["b", "c", "x"]


async def test_a_join_that_waits_while_its_last_predecessor_is_done(redis):
    """The patch comes between the load and the write of the completion that would have fired it."""
    play = await begun(redis, DIAMOND)
    await play.execute(await play.task_on("a"))
    await play.settle()
    for node in "bc":
        await play.execute(await play.task_on(node))
        if node == "b":
            await play.settle()
    play.just_before("advance", lambda: play.patch(add("/nodes/-", task("x")), edge("c", "x"), edge("x", "d")))
    await play.settle()
    assert await play.states() == [("d", "waiting"), ("x", "queued")]
    await play.finish_all()
    assert play.path() == ["a", "b", "c", "x", "d"]


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_a_join_that_has_fired_gets_another_predecessor(redis, state):
    """It does not go back to waiting; what the new one brings is another execution of it."""
    play = await begun(redis, {**DIAMOND, "nodes": [*DIAMOND["nodes"], task("s")]})
    for node in "abc":
        await play.execute(await play.task_on(node))
        await play.settle()
    work = await play.task_on("d")
    started = await play.claim(work) if state == "running" else None
    await play.patch(add("/nodes/-", task("x")), edge("s", "x"), edge("x", "d"))
    assert ("d", state) in await play.states()
    assert await play.wrong() == []
    await play.execute(await play.task_on("s"))
    await play.settle()
    await play.execute(await play.task_on("x"))
    await play.settle()
    assert await play.states() == [("d", "queued"), ("d", state)]
    assert await play.wrong() == []
    if started:
        await play.finish(work, started, {})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert sum(e.type == "node_completed" and e.node_id == "d" for e in await play.events()) == 2


async def test_a_join_whose_last_predecessor_is_cancelled_fires(redis):
    play = await begun(redis, DIAMOND)
    for node in "ab":
        await play.execute(await play.task_on(node))
        await play.settle()
    third = {"op": "test", "path": "/nodes/c/type", "value": "function"}
    await play.patch(third, add("/nodes/-", task("x")), edge("x", "d"), edge("a", "x"), remove("/nodes/c"),
                     remove("/edges/3"), remove("/edges/2"), cancel=True)  # fmt: skip
    assert await play.states() == [("d", "queued")]
    await play.finish_all()
    assert play.path() == ["a", "b", "d"]


async def test_a_node_begins_to_wait_and_ceases_to(redis):
    """`join: any` added lets what waits go; removed, what comes next waits again."""
    play = await begun(redis, DIAMOND)
    for node in "ab":
        await play.execute(await play.task_on(node))
        await play.settle()
    assert ("d", "waiting") in await play.states()
    await play.patch(add("/nodes/d/join", "any"))
    assert await play.states() == [("c", "queued"), ("d", "queued")]
    assert await play.wrong() == []
    await play.patch(remove("/nodes/d/join"))
    assert await play.wrong() == []
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert sorted(play.path()) == ["a", "b", "c", "d", "d"]
    assert await play.wrong(over=True) == []


# -- processes that die between ---------------------------------------------------------------------
async def test_a_coordinator_dies_before_it_writes_what_a_patch_made_stale(redis):
    """The signal is found again, and decided on the new graph."""
    play = await begun(redis, CHAIN)
    await play.execute(await play.task_on("a"))
    raws = await play.signals()  # in the hands of the one that dies
    await play.patch(add("/nodes/-", task("c")), edge("a", "c"))
    work = await _running(play, "a")
    assert (await play.claim(work, "runner-2", reclaimed=True)).state == "signalled"
    await play.settle()
    assert await play.states() == [("b", "queued"), ("c", "queued")]
    await play.route(raws)
    await play.finish_all()


async def test_a_coordinator_dies_between_two_slices(redis):
    play = await begun(redis, flow(map_of(agent("a"))), answer=lambda task, _: "said", input={"xs": list(range(600))})
    await play.patch(set_to("/nodes/each/config/nodes/a/config/model", "m2"))
    await play.adoption.slice("run_1", "run_1.1")
    assert 0 < await redis.xlen("wf.tasks.agent.m2") < 600
    other = Flight(redis, play.workflow)  # knows nothing of it
    await other.tick()
    assert (await redis.xlen("wf.tasks.agent.m1"), await redis.xlen("wf.tasks.agent.m2")) == (0, 600)
    assert await play.wrong() == []


# -- children ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cancelled", ["before", "after"])
async def test_a_child_run_is_begun_anew(redis, cancelled):
    """The old child is cancelled, now or later; the token waits for a new one."""
    call = {"id": "call", "type": "workflow", "config": {"document": CHILD, "input": {"n": 1}}}
    play = await begun(redis, flow(call, task("end"), edges=edges("call > end")))
    assert await play.states() == [("call", "calling")]
    old = (await play.raw("run_1.1"))["child"]
    await play.patch(set_to("/nodes/call/config/input", {"n": 2}), restart=True)
    if cancelled == "before":
        await play.tick()
        assert await play.status(old) == "CANCELLED"
    await play.settle()
    await play.tick()
    assert await play.status(old) == "CANCELLED"
    await play.settle()
    new = (await play.raw("run_1.1"))["child"]
    assert new != old and await play.status(new) == "RUNNING"
    assert await redis.smembers("children:run_1") == {new.encode()}
    await play.run_to_end()
    assert await play.status() == await play.status(new) == "COMPLETED"
