"""A whole runner, the Ollama adapter and the simulated engine over real HTTP."""

import math
from typing import Any

from agent_runner.engines.ollama import OllamaEngine
from agent_runner.engines.simulated.server import SimulatedServer
from lua.run_store import RunStore
from tests.runner.conftest import Serve, Signals
from tests.runner.workflows import agent, make_ir, start

SCHEMA = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer"}}}


def simulated(port: int = 0) -> SimulatedServer:
    return SimulatedServer(speed=500.0, keep_alive_s=math.inf, port=port)


async def test_two_models_and_an_engine_that_restarts(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    server = simulated()
    await server.start()
    port = int(server.url.rsplit(":", 1)[1])
    ir = make_ir(
        agent("a", model="gemma3:4b", prompt="Grade {{ input }}", response_format=SCHEMA),
        agent("b", model="qwen2.5:7b", prompt="Say {{ input }}"),
    )
    for n in range(12):
        await start(store, f"run_{n:02}", ir, n)
    serving = serve(engine=OllamaEngine(server.url))
    answers = await signals(24)
    assert {s["status"] for s in answers} == {"completed"}
    assert all(isinstance(s["result_data"]["score"], int) for s in answers if s["node_id"] == "a")
    assert {s["metadata"]["llm_model"] for s in answers} == {"gemma3:4b", "qwen2.5:7b"}
    assert all(s["metadata"]["completion_tokens"] > 0 for s in answers)
    assert serving.runner.gpu is not None
    assert serving.runner.gpu.loads == {"gemma3:4b": 1, "qwen2.5:7b": 1}

    await server.stop()
    for n in range(12, 20):
        await start(store, f"run_{n:02}", ir, n)
    await wait_until(lambda: serving.runner.description.state == "held")
    again = simulated(port)
    await again.start()
    answers = await signals(40)
    assert {(s["status"], s["attempt"]) for s in answers} == {("completed", 1)}
    await serving.stop()
    await again.stop()
