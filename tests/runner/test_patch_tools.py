"""Agents that patch the run that they are a step of: through a whole runner, a coordinator and the real scripts."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from agent_runner.engines.engine import ChatReply, ChatRequest
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.server import SimulatedServer
from lua.patching import Patch, Patching
from lua.run_store import RunStore
from pavane.settings import examples_folder
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event, read_event
from schemas.ir import IR
from schemas.limits import LIMITS
from schemas.revision import ir_after, revise
from schemas.workflow import read_workflow
from tests.compiler.documents import Document, agent, flow
from tests.runner.conftest import Completed, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.test_tools import calls, one_after_the_other
from tests.runner.workflows import start

TRANSLATE = {
    "id": "translate", "type": "agent", "config": {"model": "m", "prompt": "Translate: {{ output.text }}"},
}  # fmt: skip
OPERATIONS = [
    {"op": "test", "path": "/edges/0/from", "value": "extract"},
    {"op": "add", "path": "/nodes/-", "value": TRANSLATE},
    {"op": "add", "path": "/edges/-", "value": {"from": "translate", "to": "summarize"}},
    {"op": "replace", "path": "/edges/0/to", "value": "translate"},
]


def two_steps(**bounds: Any) -> IR:
    extract = agent("extract", "{{ input }}", tools=[{"patch_workflow": bounds}])
    document = flow(extract, agent("summarize", "Sum up: {{ output.text }}"), edges="extract summarize")
    return with_model(document, "m")


def with_model(document: Document, model: str) -> IR:
    for node in document["nodes"]:
        node["config"]["model"] = model
    return compile_workflow(document).ir


def patch(*operations: Document, **more: Any) -> ChatReply:
    return calls(("patch_workflow", {"operations": list(operations or OPERATIONS), **more}))


def read(**arguments: Any) -> ChatReply:
    return calls(("read_workflow", arguments))


async def events(store: RunStore, kind: str) -> list[Event]:
    found = [read_event(fields) for _, fields in await store.redis.xrange(store.keys.events)]
    return [event for event in found if event.type == kind]


def results(request: ChatRequest) -> list[Any]:
    """What the model was told of its calls, the newest last."""
    return [orjson.loads(turn.text) for turn in request.turns if turn.role == "tool"]


async def test_a_step_that_an_agent_adds_is_executed_next(store: RunStore, serve: Serve, completed: Completed) -> None:
    engine = one_after_the_other(read(), patch(description="It is German."), "Guten Tag", "Good day", "A greeting")
    serve(engine=engine)
    await start(store, "run_1", two_steps(), "Ein Brief")
    await completed("run_1")
    assert [asked.prompt for asked in engine.asked[2:]] == ["Ein Brief", "Translate: Guten Tag", "Sum up: Good day"]
    seen, done = results(engine.asked[2])
    assert seen["revision"] == 1 and [node["id"] for node in seen["workflow"]["nodes"]] == ["extract", "summarize"]
    assert done == {
        "ok": True, "revision": 2, "added": ["translate"], "removed": [], "changed": ["extract"],
        "reachable": ["translate"], "unreachable": ["extract"],
    }  # fmt: skip
    (patched,) = await events(store, "run_patched")
    assert {**patched.data, "digest": "", "operations": []} == {
        "revision": 2, "digest": "", "by": "run_1.1", "node": "extract", "description": "It is German.",
        "operations": [], "added": ["translate"], "removed": [], "changed": ["extract"],
        "agents": {"depths": {"translate": 1}, "calls": 3}, "live": 1, "tokens": {},
    }  # fmt: skip
    (_, called) = await events(store, "tool_called")
    assert (called.data["tool"], called.data["kind"]) == ("patch_workflow", "patch_workflow")
    assert called.data["result"]["ok"] is True
    ir = IR.from_json(await store.ir_text("run_1") or "")
    assert ir_after(two_steps(), await events(store, "run_patched")) == ir and ir.digest == patched.data["digest"]


async def test_a_refused_patch_goes_back_to_the_model(store: RunStore, serve: Serve, completed: Completed) -> None:
    leak = {"id": "leak", "type": "http", "config": {"method": "GET", "url": "http://evil.example/"}}
    engine = one_after_the_other(
        patch({"op": "add", "path": "/nodes/-", "value": leak},
              {"op": "add", "path": "/edges/-", "value": {"from": "extract", "to": "leak"}}),
        patch({"op": "remove", "path": "/nodes/nowhere"}), patch(revision=7), patch(), "done", "done", "done",
    )  # fmt: skip
    serve(engine=engine)
    await start(store, "run_1", two_steps(), "x")
    await completed("run_1")
    foreign, missing, late, done = results(engine.asked[4])
    assert foreign["ok"] is False and foreign["revision"] == 1
    assert [(error["path"], error["code"]) for error in foreign["errors"]] == [
        ("/workflow/nodes/leak/type", "not-allowed")
    ]
    assert [error["code"] for error in missing["errors"]] == ["not-found"]
    assert [(error["code"], late["revision"]) for error in late["errors"]] == [("precondition", 1)]
    assert done["ok"] is True
    assert [event.data["result"]["ok"] for event in await events(store, "tool_called")] == [False, False, False, True]


async def test_the_bounds_hold_over_the_executions_of_a_run(
    store: RunStore, serve: Serve, completed: Completed
) -> None:
    engine = one_after_the_other(patch(), patch(*OPERATIONS[1:2]), "done", "done", "done")
    serve(engine=engine)
    await start(store, "run_1", two_steps(max_nodes=1, max_model_calls=3), "x")
    await completed("run_1")
    assert [error["code"] for error in results(engine.asked[2])[1]["errors"]] == ["duplicate-id"]
    another = [
        {"op": "add", "path": "/nodes/-", "value": {**TRANSLATE, "id": "other"}},
        {"op": "add", "path": "/edges/-", "value": {"from": "extract", "to": "other"}},
    ]
    engine.answer = one_after_the_other(patch(), patch(*another), "done", "done", "done").answer
    await start(store, "run_2", two_steps(max_nodes=1, max_model_calls=3), "x")
    await completed("run_2")
    refused = [event.data["result"] for event in await events(store, "tool_called") if event.run_id == "run_2"][1]
    assert [error["code"] for error in refused["errors"]] == ["max-nodes", "max-model-calls"]


async def test_live_tokens_are_not_taken_from_under_others(store: RunStore, serve: Serve, completed: Completed) -> None:
    """A patch that removes a node which is executed just now."""
    extract = agent("extract", "first", tools=[{"patch_workflow": {}}])
    ir = with_model(flow(extract, agent("beside", "second"), edges=""), "m")
    going, tried = asyncio.Event(), asyncio.Event()

    async def answer(request: ChatRequest) -> Any:
        if request.prompt == "second":
            going.set()
            await tried.wait()
            return "beside"
        if not request.turns:
            await going.wait()
            return patch({"op": "remove", "path": "/nodes/beside"})
        tried.set()
        return "done"

    class Engine(ScriptedEngine):
        async def chat(self, request: ChatRequest) -> ChatReply:
            self.asked.append(request)
            said = await answer(request)
            return said if isinstance(said, ChatReply) else ChatReply(said, 1, 1, 1, 1)

    engine = Engine()
    serve(engine=engine)
    await start(store, "run_1", ir, "x")
    await completed("run_1")
    (refused,) = next(results(asked) for asked in engine.asked if asked.turns)
    assert (refused["ok"], refused["errors"][0]["code"]) == (False, "live_tokens")
    assert [(token["node"], token["state"]) for token in refused["tokens"]] == [("beside", "running")]


async def test_two_agents_at_once_both_stay_within_the_bounds(
    store: RunStore, serve: Serve, completed: Completed
) -> None:
    names = [f"a{n}" for n in range(6)]
    ir = with_model(flow(*[agent(n, n, tools=[{"patch_workflow": {"max_nodes": 3}}]) for n in names], edges=""), "m")

    def answer(request: ChatRequest) -> str | ChatReply:
        if request.turns:
            return "done"
        added = {"id": "t_" + request.prompt, "type": "transform", "config": {"set": {"v": "1"}}}
        return patch(
            {"op": "add", "path": "/nodes/-", "value": added},
            {"op": "add", "path": "/edges", "value": [{"from": request.prompt, "to": added["id"]}]},
        )

    serve(engine=ScriptedEngine(answer))
    await start(store, "run_1", ir, "x")
    await completed("run_1")
    said = [event.data["result"] for event in await events(store, "tool_called")]
    now = IR.from_json(await store.ir_text("run_1") or "")
    assert now.patched is not None and len(now.patched.depths) == sum(one["ok"] for one in said) <= 3
    assert {error["code"] for one in said if not one["ok"] for error in one["errors"]} <= {
        "max-nodes", "conflict", "never-executed", "not-allowed",
    }  # fmt: skip


async def test_a_tool_that_was_taken_away(store: RunStore, serve: Serve, completed: Completed) -> None:
    """Somebody takes the tool from the node while it is executed."""
    engine = ScriptedEngine()
    serve(engine=engine)

    async def chat(request: ChatRequest) -> ChatReply:
        engine.asked.append(request)
        if "first" not in request.prompt:
            return ChatReply("done", 1, 1, 1, 1)
        if request.turns:
            return ChatReply("done", 1, 1, 1, 1)
        without = [{"op": "remove", "path": "/nodes/extract/config/tools"}]
        await Patching(store).patch("run_1", Patch(lambda ir: revise(ir, without), {"by": "somebody"}))
        return patch()

    engine.chat = chat  # type: ignore[method-assign]
    await start(store, "run_1", two_steps(), "first")
    await completed("run_1")
    (refused,) = next(results(asked) for asked in engine.asked if asked.turns)
    assert (refused["revision"], [error["code"] for error in refused["errors"]]) == (2, ["not-allowed"])


async def test_an_attempt_that_was_given_up_patches_nothing(store: RunStore, serve: Serve, wait_until: Any) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: ChatRequest) -> Any:
        asked.set()
        await go_on.wait()
        return patch()

    class Engine(ScriptedEngine):
        async def chat(self, request: ChatRequest) -> ChatReply:
            return await answer(request)

    serving = serve(engine=Engine())
    await start(store, "run_1", two_steps(), "x")
    await asyncio.wait_for(asked.wait(), 10)
    tokens = store.keys.tokens("run_1")
    record = orjson.loads(await store.redis.hget(tokens, "run_1.1"))
    await store.redis.hset(tokens, "run_1.1", orjson.dumps({**record, "attempt": 2}))
    go_on.set()
    await wait_until(lambda: serving.runner.executions.ended)
    assert await store.redis.hget(store.keys.run("run_1"), "revision") == b"1"


# -- reading -----------------------------------------------------------------------------------------


async def test_reading_one_node(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = one_after_the_other(read(node="summarize"), read(node="nowhere"), "done")
    serve(engine=engine)
    await start(store, "run_1", two_steps(), "x")
    await signals(1)
    found, missing = (turn.text for turn in engine.asked[2].turns if turn.role == "tool")
    assert orjson.loads(found)["node"]["config"]["prompt"] == "Sum up: {{ output.text }}"
    assert missing == "Error: the workflow has no node 'nowhere'; it has extract, summarize"


async def test_a_workflow_that_is_too_large_to_be_shown(store: RunStore, serve: Serve, signals: Signals) -> None:
    extract = agent("extract", "x" * LIMITS.tool_result_bytes, tools=[{"patch_workflow": {}}])
    ir = with_model(flow(extract, agent("summarize"), edges="extract summarize"), "m")
    engine = one_after_the_other(read(), "done")
    serve(engine=engine)
    await start(store, "run_1", ir, "x")
    await signals(1)
    (outline,) = results(engine.asked[1])
    assert outline["nodes"] == [{"id": "extract", "type": "agent"}, {"id": "summarize", "type": "agent"}]
    assert outline["edges"] == [{"from": "extract", "to": "summarize"}]


async def test_the_model_is_told_its_bounds(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = one_after_the_other("done")
    serve(engine=engine)
    await start(store, "run_1", two_steps(max_operations=7, allow=["transform"]), "x")
    await signals(1)
    offers = {offer.name: offer for offer in engine.asked[0].tools}
    assert offers.keys() == {"patch_workflow", "read_workflow"}
    told = offers["patch_workflow"].description
    assert "You are the node `extract`" in told and "these types: transform." in told and "At most 7 operations" in told


# -- the example -------------------------------------------------------------------------------------

GERMAN, ENGLISH = "Die Lieferung fehlt.", "The delivery is missing."
ENGINE = [
    {"contains": "in its own language:\n\n" + GERMAN, "per_prompt": True, "sequence": [
        {"tool_calls": [{"name": "read_workflow"}]},
        {"tool_calls": [{"name": "patch_workflow", "arguments": {"operations": [
            {"op": "add", "path": "/nodes/-", "value": {
                "id": "translate", "type": "agent",
                "config": {"model": "qwen2.5:7b", "prompt": "Translate into English:\n{{ output.text }}"}}},
            {"op": "add", "path": "/edges/-", "value": {"from": "translate", "to": "summarize"}},
            {"op": "replace", "path": "/edges/0/to", "value": "translate"},
        ]}}]},
        {"answer": "- Die Lieferung fehlt"},
    ]},
    {"contains": "Translate into English:\n- Die Lieferung fehlt", "answer": "- The delivery is missing"},
    {"contains": "in its own language:", "answer": "- The delivery is missing"},
    {"contains": "Summarise in two sentences:\n\n- The delivery is missing", "answer": "A delivery is missing."},
    {"answer": "What?"},
]  # fmt: skip
"""What the models say: the one that reads a German letter calls the tools, the others need none."""


@pytest.mark.parametrize(
    ("letter", "path"), [(GERMAN, ["extract", "translate", "summarize"]), (ENGLISH, ["extract", "summarize"])]
)
async def test_the_example_on_the_simulated_engine(
    letter: str, path: list[str], store: RunStore, serve: Serve, completed: Completed
) -> None:
    """The whole way, over HTTP."""
    document = read_workflow((examples_folder() / "translate.yaml").read_bytes(), "yaml")
    async with SimulatedServer(speed=500.0, script=ENGINE) as server:
        serve(engine=OllamaEngine(server.url))
        await start(store, "run_1", compile_workflow(document).ir, {"letter": letter})
        await completed("run_1")
    ended = await events(store, "node_completed")
    assert [event.node_id for event in ended] == path
    assert ended[-1].data["outputs"]["summarize"] == {"text": "A delivery is missing."}
