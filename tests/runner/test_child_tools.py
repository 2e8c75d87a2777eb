"""Workflows as tools: child runs with a real coordinator, a runner of the same GPU, and what ends them early."""

import asyncio
from contextlib import nullcontext
from typing import Any

import orjson
import pytest

from agent_runner.engines.engine import ChatReply, ChatRequest, ToolCall
from agent_runner.tools.run_ends import RunEnds
from agent_runner.tools.toolbox import ToolSources
from agent_runner.tools.workflow_tools import WorkflowTools
from agent_runner.work import Program, Work
from lua.answers import StartedTask
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event, read_event
from schemas.fold import fold
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.messages import Task
from schemas.submission import make_start
from tests.runner.conftest import FAST, Completed, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, make_ir, start

ASK_AGAIN = {
    "id": "ask_again",
    "input_schema": {"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}},
    "nodes": [{"id": "ask", "type": "agent", "config": {"model": "m", "prompt": "child {{ input.word }}"}}],
}
TRANSFORM = {"id": "twice", "nodes": [{"id": "set", "type": "transform", "config": {"set": {"twice": "input.n * 2"}}}]}
BROKEN = {"id": "broken", "nodes": [{"id": "set", "type": "transform", "config": {"set": {"x": "input.missing"}}}]}


def tool(document: Any = None, **more: Any) -> dict[str, Any]:
    config = {"name": "child", "description": "Runs a workflow."} | ({"document": document} if document else {})
    return {"workflow": config | more}


def parent(*tools: Any, **config: Any) -> IR:
    return make_ir(agent("a", prompt="parent", tools=list(tools), **config))


def engine_calling(arguments: Any) -> ScriptedEngine:
    """A model that calls `child` once as a parent, and says "heard ..." as a child."""

    def answer(request: ChatRequest) -> str | ChatReply:
        if not request.tools:
            return f"heard {request.prompt}"
        return "done" if request.turns else ChatReply("", 3, 2, 1, 7, [ToolCall("child", arguments)])

    return ScriptedEngine(answer)


def told(engine: ScriptedEngine) -> str:
    """What the tool told the model."""
    return next(asked.turns[-1].text for asked in engine.asked if asked.turns)


async def events(store: RunStore) -> list[Event]:
    return [read_event(fields) for _, fields in await store.redis.xrange(store.keys.events)]


async def field(store: RunStore, run_id: str, name: str) -> str | None:
    value = await store.redis.hget(store.keys.run(run_id), name)
    return value.decode() if value else None


async def test_a_child_run_that_needs_the_same_gpu(store: RunStore, serve: Serve, completed: Completed) -> None:
    """More parents than slots, which all wait for children of the same model: no deadlock."""
    engine = engine_calling({"word": "hey"})
    serving = serve(engine=engine)
    for number in range(3 * FAST.slots):
        await start(store, f"run_{number}", parent(tool(ASK_AGAIN)), priority="interactive")
    for number in range(3 * FAST.slots):
        await completed(f"run_{number}")
    assert orjson.loads(told(engine)) == {"text": "heard child hey"}
    child = "run_0:1:1:1"
    assert await field(store, child, "status") == "COMPLETED"
    assert await field(store, child, "parent") == "run_0"
    assert await field(store, child, "depth") == "1"
    assert await field(store, child, "priority") == "interactive"
    assert serving.runner.executions.running == 0
    offered = engine.asked[0].tools[0].parameters
    assert offered["required"] == ["word"] and offered["type"] == "object"


async def test_a_registered_workflow(store: RunStore, serve: Serve, completed: Completed) -> None:
    asked: list[Any] = []

    async def workflows(workflow_id: str, version: int | None) -> tuple[IR, int] | None:
        asked.append((workflow_id, version))
        return compile_workflow(TRANSFORM).ir, 3

    engine = engine_calling({"n": 21})
    serve(engine=engine, tools=ToolSources(workflows=workflows))
    parameters = {"type": "object", "properties": {"n": {"type": "integer"}}}
    await start(store, "run_1", parent(tool(workflow_id="twice", version=3, parameters=parameters)))
    await completed("run_1")
    assert told(engine) == '{"twice":42}'
    assert asked == [("twice", 3)]
    state = fold(event for event in await events(store) if event.run_id == "run_1")
    assert (state.status, state.usage.prompt_tokens, state.usage.completion_tokens) == ("COMPLETED", 6, 4)
    assert await field(store, "run_1:1:1:1", "version") == "3"
    assert engine.asked[0].tools[0].parameters == parameters


@pytest.mark.parametrize(
    ("document", "arguments", "says"),
    [(BROKEN, {}, "is FAILED: "), (ASK_AGAIN, {}, "'word' is a required property")],
)
async def test_a_child_that_fails(
    document: Any, arguments: Any, says: str, store: RunStore, serve: Serve, completed: Completed
) -> None:
    engine = engine_calling(arguments)
    serve(engine=engine)
    await start(store, "run_1", parent(tool(document)))
    await completed("run_1")
    assert told(engine).startswith("Error: ") and says in told(engine)


async def test_an_input_that_misses_the_schema_although_the_parameters_allow_it(
    store: RunStore, serve: Serve, completed: Completed
) -> None:
    engine = engine_calling({})
    serve(engine=engine)
    await start(store, "run_1", parent(tool(ASK_AGAIN, parameters={"type": "object"})))
    await completed("run_1")
    assert "input_schema at $: 'word' is a required property" in told(engine)
    assert not await store.redis.exists(store.keys.run("run_1:1:1:1"))


async def test_depth_is_bounded(store: RunStore, serve: Serve, completed: Completed) -> None:
    engine = engine_calling({"word": "x"})
    serve(engine=engine)
    begun = make_start("run_1", parent(tool(ASK_AGAIN)), {}, request="r")
    arguments = begun.arguments()
    arguments["fields"] = {**begun.fields, "depth": str(LIMITS.child_depth)}
    await store.start_run(**arguments)
    await completed("run_1")
    assert "child_depth" in told(engine)


STUCK = {"id": "stuck", "nodes": [{"id": "f", "type": "function", "config": {"handler": "nobody"}}]}
"""Nobody serves its stream."""


async def child_started(store: RunStore, wait_until: Any, child: str = "run_1:1:1:1") -> None:
    await wait_until(lambda: store.redis.exists(store.keys.run(child)))


async def test_a_child_is_cancelled_when_its_agent_is_out_of_time(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    serve(engine=engine_calling({}))
    await start(store, "run_1", parent(tool(STUCK), extra={"timeout_ms": 300}))
    (signal,) = await signals(1)
    assert signal["metadata"]["error_type"] == "timeout"
    assert await field(store, "run_1:1:1:1", "status") == "CANCELLED"


async def test_a_child_is_cancelled_with_its_parent(store: RunStore, serve: Serve, wait_until: Any) -> None:
    engine = engine_calling({})
    serving = serve(engine=engine)
    await start(store, "run_1", parent(tool(STUCK)))
    await child_started(store, wait_until)
    await wait_until(lambda: serving.runner.executions.running == 0)  # its slot is free
    await store.end_run("run_1", "CANCELLED", {"by": "test"})

    async def cancelled() -> bool:
        return await field(store, "run_1:1:1:1", "status") == "CANCELLED"

    await wait_until(cancelled)
    await wait_until(lambda: serving.runner.executions.ended)
    assert len(engine.asked) == 1


async def test_a_child_is_cancelled_when_its_runner_stops(store: RunStore, serve: Serve, wait_until: Any) -> None:
    """The task is handed back, and its next attempt starts a child of its own."""
    serving = serve(engine=engine_calling({}))
    await start(store, "run_1", parent(tool(STUCK)))
    await child_started(store, wait_until)
    await serving.stop()
    assert await field(store, "run_1:1:1:1", "status") == "CANCELLED"
    serve("r2", engine=engine_calling({}))
    await child_started(store, wait_until, "run_1:1:2:1")


async def test_an_end_that_nobody_heard_is_found(store: RunStore) -> None:
    ends = RunEnds(store, look_s=0.02)
    await start(store, "run_1", make_ir(agent("a")))
    await start(store, "run_2", make_ir(agent("a")))
    waiting = asyncio.create_task(ends.wait("run_2", "run_1"))
    await asyncio.sleep(0)
    await store.redis.hset(store.keys.run("run_2"), "status", "COMPLETED")  # as if the message was lost
    assert await asyncio.wait_for(waiting, 10) == ("COMPLETED", True)
    await ends.close()


async def test_an_end_that_is_published_is_heard_at_once(store: RunStore, wait_until: Any) -> None:
    ends = RunEnds(store, look_s=60.0)
    for run_id in ("run_1", "run_2"):
        await start(store, run_id, make_ir(agent("a")))
    waiting = asyncio.create_task(ends.wait("run_2", "run_1"))

    async def listens() -> bool:
        return bool((await store.redis.pubsub_numsub(store.keys.ended))[0][1])

    await wait_until(listens)
    await store.end_run("run_2", "CANCELLED", {"by": "test"})
    assert await asyncio.wait_for(waiting, 10) == ("CANCELLED", True)
    await ends.close()


async def test_what_an_attempt_left_running_is_cancelled_by_the_next(store: RunStore) -> None:
    """Its runner was killed: nobody waits for its second child."""
    for child in ("run_1:7:1:1", "run_1:7:1:2", "run_1:7:2:1", "run_1:8:1:1"):
        await start(store, child, compile_workflow(STUCK).ir)
    await store.end_run("run_1:7:1:1", "CANCELLED", {"by": "test"})
    ir = parent(tool(STUCK))
    task = Task("run_1", "run_1.7", "a", "", ir.digest, "s", "0-1")
    work = Work(task, ir.nodes["a"], Program(ir), StartedTask("started", attempt=2), 1.0)
    tools = WorkflowTools(store, nullcontext)
    await tools.withdraw(work, 32)
    await tools.close()
    live = {child.decode() for child in await store.redis.zrange(store.keys.live_runs, 0, -1)}
    assert live == {"run_1:7:2:1", "run_1:8:1:1"}
