"""Tools between the Ollama adapter and the simulated engine, over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from jsonschema import validate

from agent_runner.engines.engine import EngineError, ToolCall, ToolOffer, Turn
from agent_runner.engines.simulated.script import InvalidScript, Script
from tests.engines.conftest import Start, ask

TOWN = {
    "type": "object",
    "required": ["place", "days"],
    "properties": {
        "place": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "minLength": 2}}},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
        "unit": {"anyOf": [{"type": "string", "enum": ["C", "F"]}, {"type": "null"}]},
    },
    "additionalProperties": False,
}
FORECAST = ToolOffer("forecast", "Says how the weather will be.", TOWN)
MODEL = "qwen2.5:7b"
CALL = {"name": "forecast", "arguments": {"place": {"name": "Bern"}, "days": [1, 2]}}


async def test_a_model_calls_what_it_is_offered_and_answers_from_the_result(start: Start) -> None:
    _, engine = await start()
    first = await ask(engine, "How will it be in Bern?", MODEL, tools=[FORECAST])
    (call,) = first.calls
    assert call.name == "forecast"
    validate(call.arguments, TOWN)  # all of the schema came over, inner objects and bounds too
    turns = [Turn("assistant", first.text, first.calls), Turn("tool", "It will rain.", tool="forecast")]
    second = await ask(engine, "How will it be in Bern?", MODEL, tools=[FORECAST], turns=turns)
    assert second.calls == [] and second.text
    assert second.prompt_tokens > first.prompt_tokens
    again = await ask(engine, "How will it be in Bern?", MODEL, tools=[FORECAST])
    assert (again.calls, again.text) == (first.calls, first.text)


async def test_a_format_leaves_no_room_for_calls(start: Start) -> None:
    _, engine = await start(script=[{"tool_calls": [CALL]}])
    reply = await ask(engine, model=MODEL, tools=[FORECAST], response_format=TOWN)
    assert reply.calls == []
    validate(json.loads(reply.text), TOWN)
    assert (await ask(engine, model=MODEL)).calls == []  # nothing is offered


async def test_a_scripted_conversation(start: Start) -> None:
    script = [{"per_prompt": True, "sequence": [
        {"tool_calls": [CALL], "text": "Let me look.", "thinking": "Bern, then."},
        {"answer": "Rain."},
    ]}]  # fmt: skip
    _, engine = await start(script=script)
    for prompt in ("Bern?", "Thun?"):  # each goes through it by itself, however long its conversation becomes
        first = await ask(engine, prompt, MODEL, tools=[FORECAST])
        assert (first.text, first.thinking) == ("Let me look.", "Bern, then.")
        assert first.calls == [ToolCall("forecast", CALL["arguments"])]
        assert first.completion_tokens > 20
        turns = [Turn("assistant", first.text, first.calls, first.thinking), Turn("tool", "wet", tool="forecast")]
        assert (await ask(engine, prompt, MODEL, tools=[FORECAST], turns=turns)).text == "Rain."


async def test_what_the_model_gets_back(start: Start) -> None:
    _, engine = await start()
    sent: list[dict[str, Any]] = []

    async def note(request: httpx.Request) -> None:
        sent.append(json.loads(request.content))

    engine._client._client.event_hooks = {"request": [note]}
    turns = [
        Turn("assistant", "", [ToolCall("forecast", {})], "hm"),
        Turn("tool", "wet", tool="forecast"),
        Turn("user", "Now?"),
    ]
    await ask(engine, "Bern?", MODEL, system="Be kind.", tools=[FORECAST], turns=turns, options={"seed": 1})
    assert sent == [{
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Bern?"},
            {"role": "assistant", "content": "", "thinking": "hm",
             "tool_calls": [{"function": {"name": "forecast", "arguments": {}}}]},
            {"role": "tool", "content": "wet", "tool_name": "forecast"},
            {"role": "user", "content": "Now?"},
        ],
        "options": {"seed": 1},
        "stream": False,
        "tools": [{"type": "function", "function": {
            "name": "forecast", "description": FORECAST.description, "parameters": TOWN}}],
    }]  # fmt: skip


async def test_a_model_without_tools_refuses_them(start: Start) -> None:
    _, engine = await start()
    with pytest.raises(EngineError, match="does not support tools") as failed:
        await ask(engine, tools=[FORECAST])
    assert (failed.value.klass, failed.value.retryable) == ("invalid_input", False)


@pytest.mark.parametrize("tools", [{}, [3], [{"function": {}}], [{"function": {"name": "x", "parameters": 3}}]])
async def test_malformed_tools(tools: Any, start: Start) -> None:
    server, _ = await start()
    async with httpx.AsyncClient() as client:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "tools": tools}
        answer = await client.post(f"{server.url}/api/chat", json=body)
    assert answer.status_code == 400 and "tools" in answer.json()["error"]


async def test_calls_in_a_stream_and_capabilities(start: Start) -> None:
    server, _ = await start(script=[{"tool_calls": [CALL], "text": "Let me look."}])
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "x"}],
        "tools": [{"type": "function", "function": {"name": "forecast", "parameters": TOWN}}],
    }
    async with httpx.AsyncClient() as client:
        lines = (await client.post(f"{server.url}/api/chat", json=body)).text.splitlines()
        able = [
            (await client.post(f"{server.url}/api/show", json={"model": model})).json()["capabilities"]
            for model in (MODEL, "phi3")
        ]
    messages = [json.loads(line)["message"] for line in lines]
    assert "".join(message["content"] for message in messages) == "Let me look."
    assert [len(message.get("tool_calls", ())) for message in messages] == [0] * (len(messages) - 1) + [1]
    assert able == [["completion", "tools"], ["completion"]]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"tool_calls": {}}, "rules[0].tool_calls: must be a list"),
        ({"tool_calls": [{"arguments": {}}]}, "rules[0].tool_calls[0]: must be {name, arguments}"),
        ({"tool_calls": [{"name": "x", "arguments": 3}]}, "rules[0].tool_calls[0]: must be {name, arguments}"),
        ({"tool_calls": [{"name": "x", "args": {}}]}, "rules[0].tool_calls[0].args: is not known here"),
        ({"tool_calls": [], "answer": "x"}, "rules[0]: has both answer and tool_calls"),
        ({"text": 3}, "rules[0].text: must be a string"),
    ],
)
def test_scripts_that_are_refused(rule: Any, said: str) -> None:
    with pytest.raises(InvalidScript) as refused:
        Script.parse([rule])
    assert said in str(refused.value)
