"""Child runs: started by a `workflow` node, and what passes between parent and child."""

from schemas.compiler.compiler import compile_workflow
from schemas.messages import Failure
from tests.play import Play

CHILD = {
    "id": "child",
    "nodes": [{"id": "c", "type": "function", "config": {"handler": "h", "args": {"x": "{{ input }}"}}}],
    "edges": [],
}
BY = {"by": "me"}


def parent(config=None, **more):
    call = {"id": "call", "type": "workflow", "config": config or {"document": CHILD, "input": {"n": "{{ input.n }}"}}}
    end = {"id": "end", "type": "function", "config": {"handler": "h"}}
    return {"id": "w", "nodes": [{**call, **more}, end], "edges": [{"from": "call", "to": "end"}]}


class Family(Play):
    """Executes the child's tasks by their own IR too."""

    async def claim(self, task, runner="runner-1", *, reclaimed=False):
        known, self.ir = self.ir, self.ir if task.node_id in self.ir.nodes else compile_workflow(CHILD).ir
        try:
            return await super().claim(task, runner, reclaimed=reclaimed)
        finally:
            self.ir = known


async def child_of(play):
    return next(token.child for token in (await play.tokens()).values() if token.child)


async def test_the_output_of_the_child_is_the_nodes(any_redis):
    play = Family(any_redis, parent(), lambda task, started: {"node": task.node_id, "input": started.input})
    await play.start(input={"n": 7}, priority="interactive")
    await play.settle()
    assert await play.states() == [("call", "calling")]
    child = await child_of(play)
    assert child == "run_1:1"
    assert await play.field("parent", child) == "run_1"
    assert await play.field("priority", child) == "interactive"
    await play.run_to_end()
    assert await play.status(child) == await play.status() == "COMPLETED"
    assert (await play.outputs())["call"] == {"node": "c", "input": '{"n":7}'}
    assert await any_redis.keys("children:*") == []
    assert await any_redis.zcard("timers") == 0


async def test_a_large_output_is_the_parents_artifact(any_redis):
    play = Family(any_redis, parent(), lambda task, _: "x" * 20_000 if task.node_id == "c" else {})
    await play.start(input={"n": 7})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    stored = (await any_redis.hget("context:run_1", "call")).decode()
    assert await any_redis.hexists("artifacts:run_1", stored.removeprefix("artifact://"))


async def test_a_child_that_fails_fails_the_node_and_a_retry_goes_on_in_it(any_redis):
    play = Family(any_redis, parent(), lambda task, _: Failure("permanent", "no good", False))
    await play.start(input={"n": 7})
    await play.run_to_end()
    assert await play.status() == "FAILED"
    error = next(e for e in await play.events() if e.type == "node_failed").data["error"]
    assert error["class"] == "child_failed"
    assert "no good" in error["message"]
    play.answer = lambda task, _: {"fine": True}
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status("run_1:1") == await play.status() == "COMPLETED"
    assert await play.field("epoch", "run_1:1") == "1"


async def test_on_error_takes_over(any_redis):
    workflow = parent(on_error=["end"])
    play = Family(any_redis, workflow, lambda task, _: Failure("permanent", "no", False) if task.node_id == "c" else 1)
    await play.start(input={"n": 7})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert play.path() == ["c", "end"]


async def test_control_passes_down(any_redis):
    play = Family(any_redis, parent())
    await play.start(input={"n": 7})
    await play.settle()
    child = await child_of(play)
    await play.store.pause_run("run_1", BY)
    await play.tick()
    assert await play.status(child) == "PAUSED"
    await play.store.resume_run("run_1", BY)
    await play.tick()
    assert await play.status(child) == "RUNNING"
    await play.store.end_run("run_1", "CANCELLED", BY)
    await play.tick()
    assert await play.status(child) == "CANCELLED"
    assert await any_redis.keys("children:*") == []
    assert await any_redis.zcard("timers") == 0


async def test_a_cancelled_child_fails_the_node(any_redis):
    play = Family(any_redis, parent())
    await play.start(input={"n": 7})
    await play.settle()
    await play.store.end_run(await child_of(play), "CANCELLED", BY)
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert next(e for e in await play.events() if e.type == "node_failed").data["error"]["class"] == "child_cancelled"
    await play.store.retry_run("run_1", BY)
    await play.run_to_end()
    assert await play.status("run_1:1:2") == await play.status() == "COMPLETED"


async def test_a_registered_workflow(any_redis):
    play = Family(any_redis, parent({"workflow_id": "child", "version": 3}))

    async def workflows(workflow_id, version):
        return (compile_workflow(CHILD).ir, version) if workflow_id == "child" else None

    play.batch.children.workflows = workflows
    await play.start(input={"n": 7})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert await play.field("version", "run_1:1") == "3"


async def test_the_childs_input_schema_is_checked(any_redis):
    document = {**CHILD, "input_schema": {"type": "object", "required": ["n"]}}
    play = Family(any_redis, parent({"document": document, "input": {"m": 1}}))
    await play.start(input={"n": 7})
    await play.run_to_end()
    error = next(e for e in await play.events() if e.type == "node_failed").data["error"]
    assert (error["class"], error["node"]) == ("invalid_input", "call")
    assert "'n' is a required property" in error["message"]


async def test_an_unknown_workflow_fails_the_node(any_redis):
    play = Family(any_redis, parent({"workflow_id": "nobody"}))
    await play.start(input={"n": 7})
    await play.run_to_end()
    assert next(e for e in await play.events() if e.type == "node_failed").data["error"]["class"] == "not_found"


async def test_children_nest_so_deep_and_no_deeper(any_redis):
    endless = {"id": "w", "nodes": [{"id": "call", "type": "workflow", "config": {"workflow_id": "w"}}]}
    play = Family(any_redis, endless)

    async def workflows(workflow_id, version):
        return play.ir, 1

    play.batch.children.workflows = workflows
    await play.start()
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert "child_depth" in str(next(e.data for e in await play.events(None) if e.type == "node_failed"))


async def test_a_child_in_an_item_of_a_map(any_redis):
    call = {"id": "call", "type": "workflow", "config": {"document": CHILD}}
    workflow = {"id": "w", "nodes": [{"id": "m", "type": "map", "config": {"items": "input.xs", "nodes": [call]}}]}
    play = Family(any_redis, workflow, lambda task, started: started.input)
    await play.start(input={"xs": ["a", "b"]})
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert (await play.outputs())["m"] == ['"a"', '"b"']


async def test_a_child_that_fails_before_its_parent_waits_is_executed_once(any_redis):
    """Nobody dies: the child is quicker than open_task, which is written at the end of its batch."""
    play = Family(any_redis, parent(), lambda task, _: Failure("permanent", "no good", False))
    await play.start(input={"n": 7})
    opened = play.store.open_task

    async def slow(step):
        play.store.open_task = opened
        (task,) = await play.tasks()
        await play.execute(task)
        await play.settle()
        return await opened(step)

    play.store.open_task = slow
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert play.path() == ["c"]
    assert await play.field("epoch", "run_1:1") == ""


async def test_a_child_that_is_retried_in_a_paused_parent_is_paused(any_redis):
    play = Family(any_redis, parent(), lambda task, _: Failure("permanent", "no good", False))
    await play.start(input={"n": 7})
    await play.run_to_end()
    await play.store.retry_run("run_1", BY)
    await play.store.pause_run("run_1", BY)
    await play.tick()
    await play.settle()
    await play.tick()
    assert await play.status() == "PAUSED"
    assert await play.status("run_1:1") in ("PAUSED", "FAILED")
