"""Tools of MCP servers: real processes with the official SDK, which die when it suits them least."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import orjson
import pytest

from agent_runner.engines.engine import ChatReply, ToolCall
from agent_runner.tools.mcp_server import McpServer
from agent_runner.tools.toolbox import ToolSources
from lua.run_store import RunStore
from tests.runner.conftest import Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, make_ir, start

COMMAND = (sys.executable, "-m", "tests.runner.mcp_server")
STDIO = McpServer("local", COMMAND, {"SECRET": "s3cret"})


def calls(*wanted: tuple[str, dict[str, Any]]) -> ChatReply:
    return ChatReply("", 3, 2, 1, 7, [ToolCall(name, arguments) for name, arguments in wanted])


Ask = Callable[..., Any]


@pytest.fixture
def ask(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> Ask:
    """`await ask(server, calls, ...)`: what a model got that makes these calls, in one round each."""
    engines: list[ScriptedEngine] = []
    replies: list[str | ChatReply] = []

    async def run(server: McpServer, *wanted: Any, **tool: Any) -> tuple[list[str], dict[str, Any]]:
        if not engines:
            engines.append(ScriptedEngine(lambda request: replies.pop(0)))
            serve(engine=engines[0], tools=ToolSources(mcp_servers=[server]))
        (engine,) = engines
        engine.asked.clear()
        replies[:] = [*map(calls, wanted), "done"]
        number = len(await store.redis.keys("run:*")) + 1
        await start(store, f"run_{number}", make_ir(agent("a", tools=[{"mcp": server.name, **tool}])))

        async def over() -> bool:
            return bool(await store.redis.llen(store.keys.signals) >= number)

        await wait_until(over, 60)  # a process starts
        signal = (await signals(number))[-1]
        turns = engine.asked[-1].turns if engine.asked else ()
        return [turn.text for turn in turns if turn.role == "tool"], signal

    run.engines = engines  # type: ignore[attr-defined]
    return run


async def test_a_server_that_is_a_process(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER", "not for it")
    said, signal = await ask(STDIO, ("shout", {"text": "hey"}), ("who_am-i", {}), ("fail", {"reason": "no luck"}))
    assert "HEY" in said[0]
    assert orjson.loads(said[1]) | {"pid": ""} == {"pid": "", "secret": "s3cret", "other": ""}
    assert "no luck" in said[2] and said[2].startswith("Error: ")
    assert signal["metadata"]["tool_calls"] == 3
    offers = {tool.name: tool for tool in ask.engines[0].asked[0].tools}
    assert set(offers) == {"shout", "who_am-i", "fail", "huge", "die"}
    assert offers["shout"].description == "Say it louder."
    assert offers["shout"].parameters["required"] == ["text"]


async def test_only_the_named_tools(ask: Ask) -> None:
    said, _ = await ask(STDIO, ("shout", {"text": 3}), ("fail", {}), tools=["shout"])
    assert "is not of type 'string'" in said[0]
    assert "there is no tool 'fail'; there are shout" in said[1]
    _, signal = await ask(STDIO, tools=["whisper"])
    assert signal["metadata"]["error_type"] == "not_found"
    assert "no tool 'whisper'" in signal["metadata"]["error_message"]


async def test_a_huge_result_is_cut(ask: Ask) -> None:
    said, _ = await ask(STDIO, ("huge", {"size": 3_000_000}))
    assert "[cut: the result has " in said[0] and len(said[0]) < 66_000


async def test_a_server_that_dies_during_a_call_is_started_again(ask: Ask) -> None:
    said, signal = await ask(STDIO, ("who_am-i", {}), ("die", {}), ("who_am-i", {}))
    assert said[1] == "Error: the MCP server local ended during the call"
    before, after = (orjson.loads(said[place])["pid"] for place in (0, 2))
    assert before != after
    assert signal["status"] == "completed"


async def test_a_server_that_was_killed_between_two_agents(ask: Ask) -> None:
    (first,), _ = await ask(STDIO, ("who_am-i", {}))
    pid = int(orjson.loads(first)["pid"])
    os.kill(pid, signal.SIGKILL)
    (second,), ended = await ask(STDIO, ("who_am-i", {}))
    assert ended["status"] == "completed" and int(orjson.loads(second)["pid"]) != pid


async def test_one_process_serves_all_agents(ask: Ask) -> None:
    assert len({orjson.loads((await ask(STDIO, ("who_am-i", {})))[0][0])["pid"] for _ in range(3)}) == 1


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_the_process_goes_with_the_runner(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine(lambda request: "done" if request.turns else calls(("who_am-i", {})))
    serving = serve(engine=engine, tools=ToolSources(mcp_servers=[STDIO]))
    await start(store, "run_1", make_ir(agent("a", tools=[{"mcp": "local"}])))
    await signals(1)
    pid = int(orjson.loads(engine.asked[1].turns[-1].text)["pid"])
    assert is_alive(pid)
    await serving.stop()
    assert not is_alive(pid)


@pytest.mark.parametrize(
    "server",
    [
        McpServer("local", ("/nowhere/at-all",)),
        McpServer("local", ("false",)),
        McpServer("local", url="http://127.0.0.1:9/"),
    ],
    ids=["no such command", "a command that ends", "nobody listens"],
)
async def test_a_server_that_can_not_be_reached(server: McpServer, ask: Ask) -> None:
    _, ended = await ask(server)
    assert (ended["metadata"]["error_type"], ended["metadata"]["retryable"]) == ("connection", True)
    assert "MCP server local" in ended["metadata"]["error_message"]


@pytest.fixture
async def http_server(wait_until: Any) -> AsyncIterator[str]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(*COMMAND, str(port), stderr=asyncio.subprocess.DEVNULL)

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    await wait_until(listens, 20)
    yield f"http://127.0.0.1:{port}/mcp"
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_a_server_over_http(http_server: str, ask: Ask) -> None:
    server = McpServer("remote", url=http_server, headers={"x-key": "k"})
    said, _ = await ask(
        server, ("shout", {"text": "hey"}), ("fail", {"reason": "no luck"}), ("die", {}), ("shout", {"text": "x"})
    )
    assert "HEY" in said[0] and "no luck" in said[1]
    assert said[2].startswith("Error: the MCP server remote") and said[3].startswith("Error: the MCP server remote")
    _, ended = await ask(server)
    assert ended["metadata"]["error_type"] == "connection"
