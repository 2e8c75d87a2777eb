"""Agents with tools through a whole runner: the loop, its bounds, and what models and tools may do to it."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from agent_runner.engines.engine import ChatReply, ChatRequest, ToolCall, ToolOffer, Turn
from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.server import SimulatedServer
from agent_runner.handlers import Handlers
from agent_runner.tools.loop import AS_JSON
from agent_runner.tools.toolbox import ToolSources
from agent_runner.web.caller import WebCaller
from lua.run_store import RunStore
from schemas.events import Event, read_event
from schemas.limits import LIMITS
from tests.runner.conftest import Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.web_server import WebServer, json_answer
from tests.runner.workflows import agent, make_ir, start

GRADE = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer"}}}


def calls(*wanted: tuple[str, dict[str, Any]], text: str = "", thinking: str = "") -> ChatReply:
    return ChatReply(text, 3, 2, 1, 7, [ToolCall(name, arguments) for name, arguments in wanted], thinking)


def one_after_the_other(*replies: str | ChatReply) -> ScriptedEngine:
    left = list(replies)
    return ScriptedEngine(lambda request: left.pop(0))


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Nothing else.
    """
    return a + b


async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


def fail(reason: str) -> str:
    raise ValueError(reason)


def sources(*functions: Callable[..., Any], **more: Any) -> ToolSources:
    return ToolSources(handlers=Handlers(functions), **more)


async def called(store: RunStore, run_id: str = "run_1") -> list[Event]:
    events = [read_event(fields) for _, fields in await store.redis.xrange(store.keys.events)]
    return [event for event in events if event.type == "tool_called" and event.run_id == run_id]


Answer = Callable[..., Any]


@pytest.fixture
def execute(store: RunStore, serve: Serve, signals: Signals) -> Answer:
    """`await execute(engine, tools, ...)`: the completion signal of an agent with these tools."""

    async def run(engine: Any, tools: Sequence[Any], given: ToolSources | None = None, **config: Any) -> dict[str, Any]:
        serve(engine=engine, tools=given or sources(add, later, fail))
        await start(store, "run_1", make_ir(agent("a", tools=list(tools), **config)), {})
        (signal,) = await signals(1)
        return signal

    return run


# -- the loop ----------------------------------------------------------------------------------------


async def test_a_model_calls_a_handler_and_answers(store: RunStore, execute: Answer) -> None:
    engine = one_after_the_other(calls(("add", {"a": 2, "b": 3}), thinking="hm"), "It is 5.")
    signal = await execute(engine, [{"handler": "add"}], system="Be brief.", options={"seed": 1})
    assert signal["result_data"] == {"text": "It is 5."}
    assert signal["metadata"] | {"execution_time_ms": 0, "gpu_ms": 0} == {
        "tool_calls": 1, "tokens_used": 10, "prompt_tokens": 6, "completion_tokens": 4, "execution_time_ms": 0,
        "llm_model": "m", "runner": "r1", "load_ms": 40, "gpu_ms": 0, "wait_ms": 2,
    }  # fmt: skip
    assert signal["metadata"]["execution_time_ms"] >= 14
    first, second = engine.asked
    offer = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert first.tools == [ToolOffer("add", "Add two numbers.", offer)]
    assert (first.turns, second.tools) == ((), first.tools)
    assert second.turns == [
        Turn("assistant", "", [ToolCall("add", {"a": 2, "b": 3})], "hm"),
        Turn("tool", "5", tool="add"),
    ]
    assert (second.prompt, second.system, second.options) == (first.prompt, "Be brief.", {"seed": 1})
    (event,) = await called(store)
    assert (event.node_id, event.token_id) == ("a", "run_1.1")
    assert 0 <= event.data["ms"] < 5_000
    assert {**event.data, "ms": 0} == {
        "round": 1, "call": 1, "tool": "add", "kind": "handler", "arguments": {"a": 2, "b": 3}, "result": 5, "ms": 0,
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }  # fmt: skip


async def test_arguments_that_could_not_be_read_are_the_models_to_mend(store: RunStore, execute: Answer) -> None:
    broken = ChatReply("", 3, 2, 1, 7, [ToolCall("add", {}, fault="the arguments are not JSON: a \ud800 b")])
    engine = one_after_the_other(broken, "sorry")
    assert (await execute(engine, [{"handler": "add"}]))["result_data"] == {"text": "sorry"}
    assert engine.asked[1].turns[1] == Turn("tool", "Error: the arguments are not JSON: a ? b", tool="add")
    (event,) = await called(store)
    assert (event.data["arguments"], event.data["error"]) == ({}, "the arguments are not JSON: a ? b")


async def test_several_calls_in_one_message_are_made_in_order(store: RunStore, execute: Answer) -> None:
    engine = one_after_the_other(calls(("add", {"a": 1}), ("later", {"text": "x"})), calls(("add", {"a": 9})), "done")
    signal = await execute(engine, [{"handler": "add"}, {"handler": "later", "description": "Shouts."}])
    assert signal["metadata"]["tool_calls"] == 3
    assert [turn.text for turn in engine.asked[2].turns if turn.role == "tool"] == ["2", "X", "10"]
    assert [(e.data["round"], e.data["call"], e.data["result"], "usage" in e.data) for e in await called(store)] == [
        (1, 1, 2, True), (1, 2, "X", False), (2, 3, 10, True),
    ]  # fmt: skip
    assert engine.asked[0].tools[1].description == "Shouts."


async def test_an_agent_without_calls_is_asked_once(store: RunStore, execute: Answer) -> None:
    engine = one_after_the_other("fine")
    assert (await execute(engine, [{"handler": "add"}]))["metadata"]["tool_calls"] == 0
    assert len(engine.asked) == 1 and await called(store) == []


# -- the format of the answer ------------------------------------------------------------------------


async def test_a_format_is_asked_for_at_the_end_only(execute: Answer) -> None:
    engine = one_after_the_other(calls(("add", {"a": 1})), "The score is 2.", '{"score": 2}')
    signal = await execute(engine, [{"handler": "add"}], response_format=GRADE)
    assert signal["result_data"] == {"score": 2}
    assert [(asked.response_format, bool(asked.tools)) for asked in engine.asked] == [
        (None, True), (None, True), (GRADE, False),
    ]  # fmt: skip
    assert engine.asked[2].turns[-2:] == [Turn("assistant", "The score is 2."), Turn("user", AS_JSON)]
    assert signal["metadata"]["prompt_tokens"] == 9


async def test_an_answer_that_fits_already_is_not_asked_for_again(execute: Answer) -> None:
    engine = one_after_the_other(calls(("add", {"a": 1})), '{"score": 2}')
    assert (await execute(engine, [{"handler": "add"}], response_format=GRADE))["result_data"] == {"score": 2}


async def test_an_answer_that_misses_its_schema(execute: Answer) -> None:
    engine = one_after_the_other("no", "no")
    metadata = (await execute(engine, [{"handler": "add"}], response_format=GRADE))["metadata"]
    assert (metadata["error_type"], metadata["retryable"], metadata["raw"]) == ("invalid_output", True, "no")
    assert metadata["prompt_tokens"] == 6


# -- what goes wrong in a call is the model's to see -------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("nothing", {}), "there is no tool 'nothing'; there are add, later, fail"),
        (("add", {}), "the arguments miss the tool's parameters at $: 'a' is a required property"),
        (("add", {"a": "two"}), "at $.a: 'two' is not of type 'integer'"),
        (("add", {"a": 1, "c": 1}), "Additional properties are not allowed"),
        (("fail", {"reason": "no luck"}), "ValueError: no luck"),
        (("fail", {"reason": "x" * 10_000}), "ValueError: xxx"),
        (("later", {"text": "\ud800"}), "?"),
        (("x" * 10_000 + "\ud800", {}), "there is no tool"),
    ],
)
async def test_a_call_that_fails_goes_back_to_the_model(
    call: tuple[str, dict[str, Any]], says: str, store: RunStore, execute: Answer
) -> None:
    engine = one_after_the_other(calls(call), "sorry")
    signal = await execute(engine, [{"handler": name} for name in ("add", "later", "fail")])
    assert signal["result_data"] == {"text": "sorry"}
    (result,) = (turn.text for turn in engine.asked[1].turns if turn.role == "tool")
    assert says in result and len(result) < 2_100
    (event,) = await called(store)
    assert says in event.data.get("error", event.data.get("result")) and len(event.data["tool"]) <= 128


def huge(size: int) -> str:
    return "é" * size


def strange() -> Any:
    return {1, 2}


def endless() -> Any:
    value: list[Any] = []
    for _ in range(200):
        value = [value]
    return value


async def test_results_are_bounded(store: RunStore, execute: Answer) -> None:
    engine = one_after_the_other(
        calls(("huge", {"size": 1_000_000}), ("huge", {"size": 100}), ("huge", {"size": 5_000_000})), "done"
    )
    await execute(engine, [{"handler": "huge"}], sources(huge))
    cut, whole, refused = (turn.text for turn in engine.asked[1].turns if turn.role == "tool")
    assert (
        cut.startswith("é" * 32_768) and len(cut) < 33_000 and cut.endswith("2000000 bytes, of which these are 65536]")
    )
    assert whole == "é" * 100
    assert "output_bytes" in refused
    events = await called(store)
    assert events[0].data["result"]["bytes"] == 2_000_002
    assert len(events[0].data["result"]["cut"].encode()) <= LIMITS.inline_bytes
    assert events[1].data["result"] == whole
    assert all(len(orjson.dumps(event.data)) < 40_000 for event in events)


@pytest.mark.parametrize(("name", "says"), [("strange", "the result is not JSON"), ("endless", "json_depth")])
async def test_a_result_that_is_no_json(name: str, says: str, execute: Answer) -> None:
    engine = one_after_the_other(calls((name, {})), "sorry")
    assert (await execute(engine, [{"handler": name}], sources(strange, endless)))["status"] == "completed"
    assert says in engine.asked[1].turns[-1].text


async def test_large_arguments_are_cut_in_the_event(store: RunStore, execute: Answer) -> None:
    engine = one_after_the_other(calls(("later", {"text": "x" * 20_000})), "done")
    await execute(engine, [{"handler": "later"}])
    (event,) = await called(store)
    assert event.data["arguments"]["bytes"] > 20_000 and len(event.data["arguments"]["cut"]) == LIMITS.inline_bytes


async def test_a_conversation_over_the_limit(execute: Answer) -> None:
    many = [calls(*[("huge", {"size": 40_000})] * 32) for _ in range(5)]
    metadata = (await execute(one_after_the_other(*many), [{"handler": "huge"}], sources(huge), max_calls=200))[
        "metadata"
    ]
    assert (metadata["error_type"], metadata["retryable"]) == ("too_large", False)
    assert "prompt_bytes" in metadata["error_message"] and metadata["tool_calls"] > 32


# -- bounds ------------------------------------------------------------------------------------------


async def test_a_model_that_calls_for_ever(store: RunStore, execute: Answer) -> None:
    engine = ScriptedEngine(lambda request: calls(("add", {"a": 1})))
    metadata = (await execute(engine, [{"handler": "add"}], max_rounds=3))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == ("tool_limit", False)
    assert "max_rounds" in metadata["error_message"]
    assert (len(engine.asked), len(await called(store)), metadata["tool_calls"]) == (3, 2, 2)
    assert metadata["prompt_tokens"] == 9


async def test_a_model_that_calls_too_many_at_once(store: RunStore, execute: Answer) -> None:
    engine = ScriptedEngine(lambda request: calls(*[("add", {"a": 1})] * 5))
    metadata = (await execute(engine, [{"handler": "add"}], max_calls=9))["metadata"]
    assert (metadata["error_type"], metadata["tool_calls"]) == ("tool_limit", 5)
    assert "max_calls" in metadata["error_message"]
    assert len(await called(store)) == 5


async def test_a_tool_that_never_ends(store: RunStore, execute: Answer) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    engine = ScriptedEngine(lambda request: calls(("forever", {})))
    metadata = (
        await execute(engine, [{"handler": "forever"}], sources(forever), extra={"timeout_ms": 100})
    )["metadata"]  # fmt: skip
    assert (metadata["error_type"], metadata["retryable"]) == ("timeout", True)
    assert len(engine.asked) == 1
    (event,) = await called(store)
    assert "timeout" in event.data["error"]


async def test_rounds_share_the_timeout(execute: Answer) -> None:
    def slow(request: ChatRequest) -> ChatReply:
        return dataclasses.replace(calls(("add", {"a": 1})), total_ms=40)

    engine = ScriptedEngine(slow)
    metadata = (await execute(engine, [{"handler": "add"}], extra={"timeout_ms": 100}))["metadata"]
    assert metadata["error_type"] == "timeout"
    assert len(engine.asked) <= 3
    assert engine.asked[1].timeout_s <= 0.06


@pytest.mark.parametrize(
    ("tool", "klass", "says"),
    [
        ({"handler": "nothing"}, "not_found", "no handler 'nothing'"),
        ({"mcp": "nothing"}, "not_found", "no MCP server 'nothing'"),
        ({"workflow": {"name": "w", "description": "d", "workflow_id": "x"}}, "not_found", "no workflow x"),
    ],
)
async def test_a_tool_that_the_runner_lacks(tool: Any, klass: str, says: str, execute: Answer) -> None:
    engine = ScriptedEngine()
    metadata = (await execute(engine, [tool]))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == (klass, False)
    assert says in metadata["error_message"] and engine.asked == []


async def test_an_attempt_that_counts_no_more_stops(store: RunStore, serve: Serve, wait_until: Any) -> None:
    """The run is cancelled while a tool is at work: the model is not asked again."""
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def pause() -> int:
        at_work.set()
        await go_on.wait()
        return 1

    engine = ScriptedEngine(lambda request: calls(("pause", {})))
    serving = serve(engine=engine, tools=sources(pause))
    await start(store, "run_1", make_ir(agent("a", tools=[{"handler": "pause"}])))
    await asyncio.wait_for(at_work.wait(), 10)
    assert await store.end_run("run_1", "CANCELLED", {"by": "test"}) == ["ended", "CANCELLED"]
    go_on.set()
    await wait_until(lambda: serving.runner.executions.ended)
    assert len(engine.asked) == 1 and await called(store) == []


# -- http --------------------------------------------------------------------------------------------

LOOKUP = {
    "name": "lookup",
    "description": "Looks a word up.",
    "parameters": {"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}},
    "method": "POST",
}


async def test_an_http_tool(store: RunStore, execute: Answer) -> None:
    web = WebServer(lambda asked: json_answer({"means": "a kind of dance"}))
    await web.start()
    tool = {**LOOKUP, "url": web.url + "/words", "query": {"q": "{{ args.word }}"}, "body": {"w": ["{{ args.word }}"]}}
    engine = one_after_the_other(calls(("lookup", {"word": "pavane"}), ("lookup", {})), "A dance.")
    try:
        await execute(engine, [{"http": tool}], ToolSources(caller=WebCaller()))
    finally:
        await web.stop()
    (asked,) = web.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/words?q=pavane", b'{"w":["pavane"]}')
    assert asked.headers["idempotency-key"] == "run_1.1:1:1"
    results = [turn.text for turn in engine.asked[1].turns if turn.role == "tool"]
    assert results[0] == '{"status":200,"body":{"means":"a kind of dance"}}'
    assert "'word' is a required property" in results[1]
    assert [event.data["kind"] for event in await called(store)] == ["http", "http"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:9/{{ args.word }}", "POST http://127.0.0.1:9"),
        ("{{ args.word }}", "neither literal in the document nor on the operator's list"),
        ("http://169.254.169.254/", "no address that calls may go to"),
        ("http://127.0.0.1:9/{{ args.missing }}", "args.missing"),
    ],
)
async def test_an_http_tool_that_fails(url: str, says: str, execute: Answer) -> None:
    engine = one_after_the_other(calls(("lookup", {"word": "http://example.org/"})), "sorry")
    signal = await execute(engine, [{"http": {**LOOKUP, "url": url}}], ToolSources(caller=WebCaller()))
    assert signal["status"] == "completed"
    assert says in engine.asked[1].turns[-1].text


# -- a real protocol ---------------------------------------------------------------------------------


async def test_the_simulated_engine_calls_tools(store: RunStore, execute: Answer) -> None:
    rules = [{"per_prompt": True, "sequence": [
        {"tool_calls": [{"name": "add", "arguments": {"a": 40, "b": 2}}], "text": "Let me see."},
        {"tool_calls": [{"name": "add", "arguments": {"a": "x"}}]},
        {"answer": "It is 42."},
        {},
    ]}]  # fmt: skip
    async with SimulatedServer(speed=500.0, script=rules) as server:
        signal = await execute(
            OllamaEngine(server.url), [{"handler": "add"}], model="qwen2.5:7b", response_format=GRADE
        )
    assert isinstance(signal["result_data"]["score"], int)
    assert [("error" in e.data, e.data["round"]) for e in await called(store)] == [(False, 1), (True, 2)]
    assert signal["metadata"]["completion_tokens"] > 0


async def test_a_model_that_can_call_no_tools(execute: Answer) -> None:
    async with SimulatedServer(speed=500.0) as server:
        metadata = (await execute(OllamaEngine(server.url), [{"handler": "add"}], model="phi3"))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == ("invalid_input", False)
    assert "does not support tools" in metadata["error_message"]
