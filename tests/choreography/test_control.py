"""Pause, resume, cancel and retry of runs."""

from schemas.fold import fold
from schemas.messages import CompletionSignal, Failure
from tests.play import Play
from tests.scripts.workflows import CHAIN, DIAMOND

BY = {"by": "me"}


async def failed_while_one_runs(redis):
    """A run of DIAMOND that failed at b while c runs; and c's task, claimed."""
    play = Play(redis, DIAMOND, lambda task, _: Failure("permanent", "no", False) if task.node_id == "b" else {})
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, c = await play.tasks()
    running = await play.claim(c)
    await play.execute(b)
    await play.settle()
    assert await play.status() == "FAILED"
    return play, c, running


async def test_a_paused_run_parks_what_it_would_emit(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(batch="b1")
    task = (await play.tasks())[0]
    started = await play.claim(task)
    assert await play.store.pause_run("run_1", BY) == ["paused"]
    assert await play.store.pause_run("run_1", BY) == ["already"]
    await play.finish(task, started, {})
    await play.settle()
    assert [state for _, state in await play.states()] == ["parked"]
    assert await play.tasks() == []
    assert await play.store.resume_run("run_1", BY) == ["resumed"]
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    types = [(e.type, e.data.get("by")) for e in await play.events()]
    assert ("run_paused", "me") in types
    assert ("run_resumed", "me") in types
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts.pop(b"done") == 1
    assert set(counts.values()) == {1}
    assert await any_redis.keys("parked:*") == []


async def test_a_queued_task_of_a_paused_run_is_parked_when_it_would_start(any_redis):
    play = Play(any_redis, DIAMOND)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    await play.store.pause_run("run_1", BY)
    for task in await play.tasks():
        assert (await play.claim(task)).state == "parked"
    assert await any_redis.xlen("wf.tasks.function") == 0
    assert {state for _, state in await play.states()} <= {"parked", "waiting"}
    assert fold(await play.events()).status == "PAUSED"
    await play.store.resume_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_a_run_can_be_resumed_and_paused_again(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start()
    await play.store.pause_run("run_1", BY)
    await play.claim((await play.tasks())[0])
    await play.store.resume_run("run_1", BY)
    await play.store.pause_run("run_1", BY)
    await play.tick()
    assert await play.tasks() == []
    await play.store.resume_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_the_clock_of_a_paused_run_stands_still(any_redis):
    play = Play(any_redis, CHAIN)
    await play.start(timeout_ms="5000")
    await play.claim((await play.tasks())[0])
    await play.store.pause_run("run_1", BY)
    await play.skip(60_000)
    await play.tick()
    assert await play.status() == "PAUSED"
    await play.store.resume_run("run_1", BY)
    await play.skip(4_000)
    await play.tick()
    assert await play.status() == "RUNNING"
    await play.skip(8_000)
    await play.tick()
    assert await play.status() == "TIMED_OUT"


async def test_a_deadline_does_not_run_while_paused(any_redis):
    workflow = {"id": "w", "nodes": [{"id": "h", "type": "human", "config": {"deadline_ms": 5_000}}], "edges": []}
    play = Play(any_redis, workflow)
    await play.start()
    await play.settle()
    await play.store.pause_run("run_1", BY)
    await play.skip(20_000)
    await play.tick()
    await play.store.resume_run("run_1", BY)
    await play.skip(4_000)
    await play.run_to_end()
    assert await play.states() == [("h", "asked")]
    await play.skip(20_000)
    await play.run_to_end()
    assert await play.status() == "FAILED"


async def test_a_person_may_answer_a_paused_run(any_redis):
    workflow = {
        "id": "w",
        "nodes": [
            {"id": "h", "type": "human", "config": {}},
            {"id": "a", "type": "function", "config": {"handler": "h"}},
        ],
        "edges": [{"from": "h", "to": "a"}],
    }
    play = Play(any_redis, workflow)
    await play.start()
    await play.settle()
    await play.store.pause_run("run_1", BY)
    signal = CompletionSignal("run_1.1", "run_1", "h", None, "completed", {"ok": True})
    assert await play.store.answer_task("run_1", "run_1.1", signal, BY, ("asked",)) == ["answered"]
    await play.settle()
    assert await play.states() == [("a", "parked")]


async def test_what_ended_can_not_be_paused(any_redis):
    play = Play(any_redis, CHAIN)
    assert await play.store.pause_run("run_1", BY) == ["unknown"]
    await play.start()
    await play.run_to_end()
    assert await play.store.pause_run("run_1", BY) == ["over", "COMPLETED"]
    assert await play.store.resume_run("run_1", BY) == ["over", "COMPLETED"]
    assert await play.store.retry_run("run_1", BY) == ["over", "COMPLETED"]


async def test_a_retry_goes_on_where_the_run_failed(any_redis):
    play = Play(any_redis, DIAMOND, lambda task, _: Failure("permanent", "no", False) if task.node_id == "b" else {})
    await play.start(batch="b1", timeout_ms="60000")
    await play.run_to_end(lambda tasks: 0)
    assert await play.status() == "FAILED"
    path = play.path()
    play.answer = lambda task, _: {"again": True}
    assert await play.store.retry_run("run_1", BY) == ["retried"]
    assert await any_redis.pttl("run:run_1") == -1
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert play.path()[: len(path)] == path
    assert play.path().count("a") == 1
    state = fold(await play.events())
    assert (state.status, state.epoch, state.error) == ("COMPLETED", 1, None)
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts.pop(b"done") == 1
    assert set(counts.values()) == {1}


async def test_a_failure_that_came_in_while_the_run_had_failed_is_tried_again_too(any_redis):
    play, c, running = await failed_while_one_runs(any_redis)
    assert await play.finish(c, running, Failure("permanent", "no", False)) == "held"
    play.answer = lambda task, _: {}
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"


async def test_an_outcome_that_came_in_while_the_run_had_failed_is_not_lost(any_redis):
    play, c, running = await failed_while_one_runs(any_redis)
    assert await play.finish(c, running, {"kept": 1}) == "held"
    play.answer = lambda task, _: {}
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert (await play.outputs())["c"] == {"kept": 1}
    assert play.path().count("c") == 0
