"""Fixtures of the tests of http nodes: a server on loopback, and one execution against it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from agent_runner.nodes.http import HttpNodes
from agent_runner.web.caller import WebCaller
from lua.run_store import RunStore
from tests.runner.conftest import Serve, Signals
from tests.runner.web_server import WebServer, json_answer
from tests.runner.workflows import make_ir, start


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    """Answers {"ok": true} unless the test says otherwise."""
    server = WebServer(lambda asked: json_answer({"ok": True}))
    await server.start()
    yield server
    await server.stop()


Execute = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def execute(store: RunStore, serve: Serve, signals: Signals) -> Execute:
    """`await execute(http(...), input)`: the completion signal of a run with this one node."""

    async def run(node: Any, value: Any = None, caller: WebCaller | None = None) -> dict[str, Any]:
        serve(nodes={"http": HttpNodes(caller or WebCaller())})
        await start(store, "run_1", make_ir(node), value)
        (signal,) = await signals(1)
        return signal

    return run


def failure(signal: dict[str, Any]) -> tuple[str, bool]:
    assert signal["status"] == "failed", signal
    return signal["metadata"]["error_type"], signal["metadata"]["retryable"]


def message(signal: dict[str, Any]) -> str:
    return str(signal["metadata"]["error_message"])
