"""lua/patching.py: what comes of a patch, of one run and of many, and why one is refused."""

import asyncio
import threading

import pytest

from lua.patching import Patch, Patched, Patching
from schemas.errors import InvalidDocument
from schemas.ir import IR
from schemas.kept import Kept
from schemas.messages import Failure
from schemas.revision import revise
from tests.patching.flight import BY, Flight, add, agent, begun, edge, flow, map_of, refused, remove, set_to
from tests.scripts.workflows import CHAIN, DIAMOND, edges, task

C = [add("/nodes/-", task("c")), edge("b", "c")]


def patch_of(*operations, **options):
    return Patch(lambda ir: revise(ir, list(operations)), BY, **options)


async def test_what_came_of_it(redis):
    play = await begun(redis, DIAMOND)
    await play.claim(await play.task_on("a"))
    done = await play.patch(
        remove("/nodes/b"), set_to("/edges", edges("a > c > d", "a > e")), add("/nodes/-", task("e")),
        set_to("/nodes/a/config/handler", "other"), add("/nodes/-", task("late")), add("/nodes/-", task("first")),
        edge("first", "late"),
    )  # fmt: skip
    assert (done.run_id, done.status, done.revision, done.digest) == ("run_1", "RUNNING", 2, play.ir.digest)
    found = done.difference
    assert (found.added, found.removed, found.changed) == (("e", "late", "first"), ("b",), ("a",))
    assert (done.reachable, done.unreachable) == (("e",), ("late", "first", "a"))
    assert done.restarted == done.warnings == ()
    event = (await play.events())[-1]
    assert {name: event.data[name] for name in ("by", "revision", "added", "removed", "changed")} == {
        "by": "ada", "revision": 2, "added": ["e", "late", "first"], "removed": ["b"], "changed": ["a"],
    }  # fmt: skip
    assert not {"live_tokens", "running", "loops", "agents"} & event.data.keys()


async def test_what_its_event_says_of_the_way(redis):
    play = await begun(redis)
    await play.claim(await play.task_on("a"))
    await play.patch(set_to("/nodes/a/config/handler", "other"), cancel=True, restart=True)
    event = (await play.events())[-1]
    assert (event.data["live_tokens"], event.data["running"]) == ("cancel", "restart")
    assert event.data["operations"] == [set_to("/nodes/a/config/handler", "other")]


async def test_a_fault_in_the_patch(redis):
    play = await begun(redis)
    before = await play.dump()
    with pytest.raises(InvalidDocument):
        await play.patch(remove("/nodes/zzz"))
    with pytest.raises(InvalidDocument):
        await play.patch(set_to("/nodes/a/type", "dance"))
    assert await play.dump() == before


async def test_reasons(redis):
    play = await begun(redis)
    assert (await refused(play.patch(*C, run_id="run_9"))).reason == "unknown"
    stale = await refused(play.patch(*C, revision=7))
    assert (stale.reason, stale.revision) == ("precondition", 1)
    gone = await refused(play.patch(remove("/nodes/a"), remove("/edges/0")))
    assert (gone.reason, gone.revision, gone.tokens) == ("live_tokens", 1, (("run_1.1", "a", "queued"),))
    await play.claim(await play.task_on("a"))
    retyped = await refused(play.patch(set_to("/nodes/a", {"id": "a", "type": "join"})))
    assert (retyped.reason, retyped.tokens) == ("retyped", (("run_1.1", "a", "running"),))
    await play.store.end_run("run_1", "CANCELLED", BY)
    over = await refused(play.patch(*C))
    assert (over.reason, over.status) == ("over", "CANCELLED")
    assert (await refused(play.patching.base("run_9"))).reason == "unknown"


async def test_a_failed_run_takes_none(redis):
    play = await begun(redis)
    play.answer = lambda task, _: Failure("permanent", "no", retryable=False)
    await play.run_to_end()
    assert (await refused(play.patch(*C))).status == "FAILED"


async def test_too_many_items_to_look_at(redis):
    workflow = flow(map_of(task("a"), task("b"), edges=edges("a > b")), map_of(task("c"), node_id="more"))
    play = await begun(redis, workflow, input={"xs": list(range(501))})
    without_b = [remove("/nodes/each/config/nodes/b"), set_to("/nodes/each/config/edges", [])]
    assert (await refused(play.patch(*without_b))).reason == "too_many"
    assert (await play.patch(*without_b, cancel=True)).revision == 2  # nothing has to be looked at
    await play.tick()
    assert await play.wrong() == []


async def test_too_many_items_matter_only_inside(redis):
    play = await begun(redis, flow(map_of(task("a")), map_of(task("c"), node_id="more"), task("end")),
                       input={"xs": list(range(501))})  # fmt: skip
    assert (await play.patch(add("/nodes/end/description", "words"))).revision == 2


# -- many ------------------------------------------------------------------------------------------
async def test_many_runs_each_for_itself(redis):
    play = Flight(redis, CHAIN)
    other = Flight(redis, DIAMOND)
    for number in range(6):
        await (other if number == 4 else play).start(f"run_{number}")
    await play.store.end_run("run_1", "CANCELLED", BY)
    await play.patching.patch("run_2", patch_of(*C))
    run_ids = ["run_5", "run_0", "run_1", "run_2", "run_3", "run_4", "run_9"]
    compiled = []

    def counted(ir):
        compiled.append(ir.digest)
        return revise(ir, [add("/nodes/-", task("n")), edge("b", "n"), {"op": "test", "path": "/id", "value": "chain"}])

    results = await play.patching.patch_all(run_ids, Patch(counted, BY))
    assert [getattr(r, "reason", type(r).__name__) for r in results] == [
        "Patched", "Patched", "over", "Patched", "Patched", "InvalidDocument", "unknown",
    ]  # fmt: skip
    assert [r.run_id for r in results if isinstance(r, Patched)] == ["run_5", "run_0", "run_2", "run_3"]
    assert [r.revision for r in results if isinstance(r, Patched)] == [2, 2, 3, 2]
    assert len(compiled) == len(set(compiled)) == 3  # once for each IR that the runs have


async def test_more_runs_than_a_slice(redis):
    play = Flight(redis, CHAIN)
    run_ids = [f"run_{number}" for number in range(250)]
    for run_id in run_ids:
        await play.start(run_id)
    results = await play.patching.patch_all(run_ids, patch_of(*C))
    assert [r.run_id for r in results] == run_ids
    assert {await play.field("revision", run_id) for run_id in run_ids} == {"2"}


async def test_a_run_that_is_patched_while_it_is_read(redis):
    """The IR read belongs to a later revision than the digest: it is read again."""
    play = await begun(redis)
    other = Flight(redis, CHAIN)
    fresh = Patching(play.store)
    play.just_before("ir_text", lambda: other.patch(*C))
    base = await fresh.base("run_1")
    assert (base.revision, list(base.ir.nodes)) == (2, ["a", "b", "c"])


# -- IRs at hand -----------------------------------------------------------------------------------
async def test_irs_at_hand_are_bounded_by_their_bytes(redis):
    """Those of the runs that are patched together are there in any case."""
    run_ids = [f"run_{number}" for number in range(4)]
    for run_id in run_ids:
        args = {"text": run_id + "x" * 10_000}
        large = {"id": "a", "type": "function", "config": {"handler": "echo", "args": args}}
        await Flight(redis, {**CHAIN, "nodes": [large, task("b")]}).start(run_id)
    play = Flight(redis, CHAIN)
    play.patching._irs = Kept(35_000)
    read, ir_text = [], play.store.ir_text

    async def reading(run_id):
        read.append(run_id)
        return await ir_text(run_id)

    play.store.ir_text = reading
    for _ in range(2):
        await play.patching.bases(run_ids[:3])
    assert read == run_ids[:3], "they are kept"
    assert list(await play.patching.bases(run_ids)) == run_ids
    await play.patching.base("run_0")
    assert read == [*run_ids, "run_0"], "the first had to go"
    play.patching._irs = Kept(1)
    results = await play.patching.patch_all(run_ids, patch_of(*C))
    assert [result.revision for result in results if isinstance(result, Patched)] == [2] * 4


async def test_irs_are_read_beside_the_event_loop(redis, monkeypatch):
    play = await begun(redis)
    threads, from_json = [], IR.from_json

    def noted(text):
        threads.append(threading.current_thread())
        return from_json(text)

    monkeypatch.setattr(IR, "from_json", noted)
    await play.patching.base("run_1")
    assert threads and threading.main_thread() not in threads


# -- items that follow ----------------------------------------------------------------------------------
async def following(redis):
    play = await begun(redis, flow(map_of(task("a")), task("end")), input={"xs": [1, 2, 3]})
    await play.patch(set_to("/nodes/each/config/nodes/a/config/handler", "h2"))
    return play


async def test_the_next_patch_waits_for_the_items_of_the_last(redis, wait_until):
    play = await following(redis)
    await play.start("run_2", input={"xs": []})
    patch = patch_of(add("/nodes/-", agent("z")))
    patching = asyncio.create_task(play.patching.patch_all(["run_1", "run_2"], patch))
    await wait_until(lambda: _patched(play, "run_2"))
    assert not patching.done() and await play.field("revision") == "2"
    await play.tick()
    first, second = await patching
    assert (first.revision, second.revision) == (3, 2)


async def _patched(play, run_id):
    return await play.field("revision", run_id) == "2"


async def test_it_does_not_wait_for_ever(redis, monkeypatch):
    monkeypatch.setattr("lua.patching.FOLLOW_S", 0.0)
    play = await following(redis)
    error = await refused(play.patch(add("/nodes/-", agent("z"))))
    assert (error.reason, error.revision) == ("following", 2)
    await play.tick()
    assert (await play.patch(add("/nodes/-", agent("z")))).revision == 3


async def test_a_run_that_ends_while_its_patch_waits(redis):
    play = await following(redis)
    play.when_read(1, lambda: play.store.end_run("run_1", "CANCELLED", BY))
    assert (await refused(play.patch(add("/nodes/-", agent("z"))))).reason == "over"


async def test_what_waits_is_not_sent_again_and_again(redis):
    """A step has the whole IR in it."""
    play = await following(redis)
    sent, patch_run = [], play.store.patch_run

    async def counted(steps):
        sent.extend(steps)
        return await patch_run(steps)

    play.store.patch_run = counted
    play.when_read(5, play.tick)
    assert (await play.patch(add("/nodes/-", agent("z")))).revision == 3
    assert len(sent) == 1


async def test_what_can_never_be_carried_out_does_not_wait(redis):
    play = await following(redis)
    play.when_read(3, lambda: pytest.fail("it waits"))
    with pytest.raises(InvalidDocument):
        await play.patch(remove("/nodes/none"))
    assert (await refused(play.patch(add("/nodes/-", agent("z")), revision=1))).reason == "precondition"


async def test_its_event_folds_and_its_ir_follows(redis):
    play = await begun(redis)
    await play.patch(*C)
    await play.patch(set_to("/nodes/c/config/handler", "other"))
    assert await play.wrong() == []
    await play.finish_all()
