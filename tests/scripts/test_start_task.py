import dataclasses

from tests.patching.flight import Flight, flow, map_of, set_to
from tests.play import Play
from tests.scripts.workflows import CHAIN, retrying
from tests.scripts.workflows import task as node


async def begun(redis, workflow=CHAIN, **fields):
    play = Play(redis, workflow)
    await play.start(**fields)
    return play, (await play.tasks())[0]


async def test_a_claim_raises_the_attempt_and_answers_what_the_execution_needs(any_redis):
    play, task = await begun(any_redis, input={"text": "hi"})
    started = await play.claim(task)
    assert (started.state, started.attempt, started.revision) == ("started", 1, 1)
    assert started.digest == play.ir.digest
    assert started.input == '{"text":"hi"}'
    assert started.token.state == "running"
    assert await play.states() == [("a", "running")]
    event = (await play.events())[-1]
    assert (event.type, event.data["revision"], event.data["runner"]) == ("task_started", 1, "runner-1")


async def test_what_arrived_and_what_it_reads_come_with_the_answer(any_redis):
    workflow = {
        "id": "w",
        "nodes": [*CHAIN["nodes"][:1], {"id": "b", "type": "function",
                                        "config": {"handler": "echo", "args": {"x": "{{ ctx.a.output.node }}"}}}],
        "edges": CHAIN["edges"],
    }  # fmt: skip
    play, task = await begun(any_redis, workflow)
    await play.execute(task)
    await play.settle()
    started = await play.claim((await play.tasks())[0])
    assert started.arrived == {"a": '{"node":"a"}'}
    assert started.outputs == {"a": '{"node":"a"}'}


async def test_an_entry_that_somebody_runs_is_left_alone(any_redis):
    play, task = await begun(any_redis)
    await play.claim(task)
    assert (await play.claim(task, "runner-2")).state == "busy"
    assert await play.field("seq") == "2"


async def test_a_runner_that_lost_the_answer_gets_it_again(any_redis):
    play, task = await begun(any_redis)
    first = await play.claim(task)
    assert await play.claim(task) == first
    assert await play.field("seq") == "2"
    assert (await play.claim(task, reclaimed=True)).attempt == 2


async def test_a_dead_runners_task_starts_again_with_the_next_attempt(any_redis):
    play, task = await begun(any_redis)
    first = await play.claim(task)
    second = await play.claim(task, "runner-2", reclaimed=True)
    assert (second.state, second.attempt, second.token.interruptions) == ("started", 2, 1)
    assert await play.finish(task, first, {"late": True}) == "fenced"
    assert await play.finish(task, second, {"late": False}) == "finished"
    await play.settle()
    assert (await play.outputs())["a"] == {"late": False}
    assert await play.counter("fenced") == 1


async def test_an_entry_whose_outcome_is_stored_is_signalled_and_not_executed(any_redis):
    play, task = await begun(any_redis)
    await play.execute(task)
    assert len(await play.signals()) == 1  # popped by a coordinator that died
    assert (await play.claim(task, "runner-2", reclaimed=True)).state == "signalled"
    await play.settle()
    assert await play.outputs() == {"a": {"node": "a"}}


async def test_a_task_whose_runners_keep_dying_is_given_up(any_redis):
    play, task = await begun(any_redis)
    await play.claim(task)
    for _ in range(10):
        assert (await play.claim(task, reclaimed=True)).state == "started"
    assert (await play.claim(task, reclaimed=True)).state == "exhausted"


async def test_an_entry_of_another_life_is_deleted(any_redis):
    play, task = await begun(any_redis)
    stale = dataclasses.replace(task, entry=(await any_redis.xadd("wf.tasks.function", {"x": "y"})).decode())
    assert (await play.claim(stale)).state == "gone"
    assert await any_redis.xlen("wf.tasks.function") == 1

    await play.store.end_run("run_1", "CANCELLED", {})
    assert (await play.claim(task)).state == "gone"


async def test_a_deadline_is_a_timer_of_this_attempt(any_redis):
    play, task = await begun(any_redis, retrying(timeout_ms=1_000))
    await play.claim(task)
    assert await any_redis.zrange("timers", 0, -1) == [f"timeout run_1 {task.token_id} 1".encode()]
    await play.claim(task, reclaimed=True)
    assert await any_redis.zrange("timers", 0, -1) == [f"timeout run_1 {task.token_id} 2".encode()]


async def test_counts_follow(any_redis):
    play, task = await begun(any_redis, batch="b1")
    await play.claim(task)
    counts = await any_redis.hgetall("batch:b1")
    assert (counts[b"a|queued"], counts[b"a|running"]) == (b"0", b"1")


async def test_a_claim_under_an_older_ir_is_stale(any_redis):
    play = Flight(any_redis, CHAIN)
    await play.start()
    task = (await play.tasks())[0]
    await play.patch(set_to("/nodes/a/config/handler", "other"))
    before = await play.dump()
    started = await Play.claim(play, task)
    assert (started.state, started.digest) == ("stale", await play.field("digest"))
    assert await play.dump() == before
    started = await play.claim(task)
    assert (started.state, started.revision, started.digest) == ("started", 2, play.ir.digest)


async def test_a_task_of_an_item_that_does_not_follow_the_last_patch_yet(any_redis):
    play = Flight(any_redis, flow(map_of(node("a"))))
    await play.start(input={"xs": [1, 2]})
    await play.settle()
    task = (await play.tasks())[0]
    await play.patch(set_to("/nodes/each/config/nodes/a/config/handler", "other"))
    before = await play.dump()
    current = dataclasses.replace(task, digest=play.ir.digest)
    started = await Play.claim(play, current)
    assert (started.state, started.digest) == ("unadopted", play.ir.digest)
    assert await play.dump() == before
    await play.adoption.items([("run_1", task.scope)])
    assert (await Play.claim(play, current)).state == "started"
