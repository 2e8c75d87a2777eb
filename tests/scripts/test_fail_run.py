from schemas.messages import Failure
from tests.play import Play
from tests.scripts.workflows import DIAMOND, edges, retrying, task

PERMANENT = Failure("not_found", "no model gemma3:4b", retryable=False)


async def test_the_run_fails_what_is_live_is_held_and_the_rest_withdrawn(any_redis):
    play = Play(any_redis, DIAMOND, lambda task, _: PERMANENT if task.node_id == "b" else {})
    await play.start(batch="b1")
    await play.execute((await play.tasks())[0])
    await play.settle()
    b, _ = await play.tasks()
    await play.execute(b)
    await play.settle()
    assert await play.status() == "FAILED"
    assert await play.states() == [("b", "dead"), ("c", "held")]
    assert await play.field("live") == "0"
    assert await any_redis.xlen("wf.tasks.function") == 0
    assert [e.type for e in (await play.events())[-2:]] == ["node_failed", "run_failed"]
    error = (await play.events())[-1].data["error"]
    assert error == {"class": "not_found", "message": "no model gemma3:4b", "attempts": 1, "node": "b"}
    ((_, letter),) = await any_redis.xrange("wf.dead_letters")
    assert (letter[b"reason"], letter[b"node"]) == (b"task", b"b")
    counts = {k: int(v) for k, v in (await any_redis.hgetall("batch:b1")).items() if int(v)}
    assert counts == {b"a|done": 1, b"b|failed": 1, b"failed": 1}


async def test_on_error_takes_over(any_redis):
    workflow = {
        "id": "w",
        "nodes": [task("a", on_error=["sorry"]), task("sorry"), task("never")],
        "edges": edges("a > never"),
    }
    seen = []

    def answer(task, started):
        seen.append((task.node_id, dict(started.arrived)))
        return PERMANENT if task.node_id == "a" else {}

    play = Play(any_redis, workflow, answer)
    await play.start()
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert [node for node, _ in seen] == ["a", "sorry"]
    assert '"class":"not_found"' in seen[1][1]["a"]
    assert "a" not in await play.outputs()
    assert "node_failed" in [e.type for e in await play.events()]


async def test_a_branch_that_matches_nothing_fails_the_run_at_the_branch(any_redis):
    rule = {"condition": {"type": "cel", "expression": "output.x > 1"}, "next": ["b"]}
    workflow = {
        "id": "w",
        "nodes": [task("a"), {"id": "choose", "type": "branch", "config": {"rules": [rule]}}, task("b")],
        "edges": edges("a > choose"),
    }
    play = Play(any_redis, workflow, lambda task, _: {"x": 0})
    await play.start()
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert await play.states() == [("choose", "dead")]
    assert (await play.events())[-1].data["error"]["class"] == "no_branch"
    assert await play.outputs() == {"a": {"x": 0}}


async def test_a_failure_that_was_retried_says_how_often(any_redis):
    play = Play(any_redis, retrying(attempts=3, backoff_ms=0), lambda task, _: Failure("timeout", "slow", True))
    await play.start()
    await play.run_to_end()
    assert (await play.events())[-1].data["error"]["attempts"] == 3
