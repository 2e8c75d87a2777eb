"""What a submission is told that is taken, and probably not meant so."""

from typing import Any

from tests.api.conftest import Api
from tests.api.heartbeats import heartbeat, lost
from tests.api.workflows import ASK, HELLO


def reloading(identifier: str = "twice") -> dict[str, Any]:
    other = {"id": "again", "type": "agent", "config": ASK["nodes"][0]["config"] | {"options": {"num_ctx": 8192}}}
    return ASK | {"id": identifier, "nodes": [*ASK["nodes"], other]}


async def submit(api: Api, workflow: dict[str, Any]) -> list[Any]:
    """The warnings of the three routes that take a document."""
    value = {"q": "hi", "name": "Ada"}
    said = [
        await api.post("/workflows", workflow, 201),
        await api.post("/runs", {"workflow": workflow, "input": value}, 201),
        await api.post("/batches", {"workflow": workflow, "items": [value]}, 202),
    ]
    return [answer.get("warnings") for answer in said]


async def test_load_time_options_that_differ(api: Api) -> None:
    for warnings in await submit(api, reloading()):
        assert [(warning["path"], warning["code"]) for warning in warnings] == [
            ("/nodes/1/config/options", "other-load-options")
        ]
    assert await submit(api, HELLO) == [None, None, None]


async def test_a_model_that_no_live_runner_can_serve(api: Api) -> None:
    await heartbeat(api, "gpu-1", serves="phi3:latest gemma2:2b")
    await heartbeat(api, "gpu-2", serves="qwen2.5:7b")
    for (warning,) in await submit(api, ASK):
        assert (warning["path"], warning["code"]) == ("/nodes/0/config/model", "not-served")
        assert "`gemma3:4b`" in warning["message"]
        assert "`gemma2:2b`, `phi3`, `qwen2.5:7b`" in warning["message"]
    registered = await api.post("/runs", {"workflow_id": "ask", "input": {"q": "hi"}}, 201)
    assert [warning["code"] for warning in registered["warnings"]] == ["not-served"]
    assert await submit(api, HELLO) == [None, None, None], "it needs no model"


async def test_a_model_is_served_by_any_of_its_names(api: Api) -> None:
    await heartbeat(api, "gpu-1", serves="phi3:latest")
    node = ASK["nodes"][0]
    served = ASK | {"nodes": [node | {"config": node["config"] | {"model": "phi3"}}]}
    assert await submit(api, served) == [None, None, None]


async def test_what_is_not_known_is_not_warned_of(api: Api) -> None:
    assert await submit(api, ASK) == [None, None, None], "no runner lives"


async def test_a_runner_that_does_not_know_its_engine_may_serve_anything(api: Api) -> None:
    await heartbeat(api, "gpu-1", serves="phi3")
    await heartbeat(api, "gpu-2")
    await heartbeat(api, "gpu-3", serves="phi3")
    await lost(api, "gpu-3")
    assert await submit(api, ASK) == [None, None, None]


async def test_engines_without_any_model(api: Api) -> None:
    await heartbeat(api, "gpu-1", serves="")
    for (warning,) in await submit(api, ASK):
        assert "no model" in warning["message"]


async def test_what_engines_offer_is_seen_again_after_a_moment(api: Api, wait_until: Any) -> None:
    await heartbeat(api, "gpu-1", serves="phi3")
    body = {"workflow": ASK, "input": {"q": "hi"}}
    assert "warnings" in await api.post("/runs", body, 201)
    await heartbeat(api, "gpu-1", serves="phi3 gemma3:4b")

    async def served() -> bool:
        return "warnings" not in await api.post("/runs", body, 201)

    await wait_until(served)
