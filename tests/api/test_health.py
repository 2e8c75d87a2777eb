"""Health, metrics, models, runners, dead letters, the dashboard, the description of it all."""

import asyncio
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator_api import health
from orchestrator_api.app import ROUTERS
from orchestrator_api.model_rates import ModelRates
from tests.api.conftest import Api
from tests.api.workflows import ASK, HELLO


async def heartbeat(api: Api, runner_id: str, **fields: str) -> None:
    now = await api.store.now()
    keys = api.store.keys
    await api.store.redis.hset(
        keys.runner(runner_id), mapping={"state": "working", "slots": "8", "running": "1", **fields}
    )
    await api.store.redis.zadd(keys.runners, {runner_id: now})


async def test_models(api: Api) -> None:
    assert await api.get("/models") == {"models": []}
    await api.start(ASK, {"q": "hi"})
    await api.start(ASK, {"q": "hi"}, priority="interactive")
    await api.start()
    await heartbeat(api, "gpu-0", focus_model="gemma3:4b", engine="ollama", residents="gemma3:4b", loads="2")
    await api.store.redis.hset("model:gemma3:4b", mapping={"loads": 2})
    (model,) = (await api.get("/models"))["models"]
    assert (model["model"], model["queued"], model["running"], model["loads"]) == ("gemma3:4b", 2, 0, 2)
    assert model["holders"] == ["gpu-0"] and model["breaker"] is None and 0 <= model["oldest_s"] < 30


async def test_runners(api: Api) -> None:
    await heartbeat(api, "gpu-0", focus_model="gemma3:4b", residents="a b", engine="ollama", active_share="0.5")
    await api.store.redis.zadd("runners", {"gone": await api.store.now() - 60_000})
    gone, alive = sorted((await api.get("/runners"))["runners"], key=lambda runner: runner["runner_id"] != "gone")
    assert gone["state"] == "lost" and 59 < gone["heartbeat_age_s"] < 90
    assert (alive["state"], alive["slots"], alive["residents"], alive["active_share"]) == (
        "working",
        8,
        ["a", "b"],
        0.5,
    )
    expected = "runner_id gpu engine state focus_model residents slots running loads active_share loading_share idle_share heartbeat_age_s"  # noqa: E501
    assert alive.keys() >= set(expected.split())


def test_rates_of_models() -> None:
    rates = ModelRates()
    assert rates.rate("m", 10, 0.0) is None and rates.rate("m", 12, 2.0) is None
    assert rates.rate("m", 40, 30.0) == 60.0
    assert rates.rate("m", 40, 400.0) is None, "what is older than the window says nothing"


async def test_dead_letters(api: Api) -> None:
    for number in range(5):
        await api.store.dead_letter("malformed", f"not JSON {number}", run="run_1")
    await api.store.redis.xadd("wf.dead_letters", {b"\xff": b"\xfe", "at": "never", "reason": "task", "detail": "{"})
    page = await api.get("/dead-letters?limit=4")
    assert page["dead_letters"][0]["detail"] == "{"
    assert page["dead_letters"][1]["reason"] == "malformed" and page["dead_letters"][1]["detail"] == "not JSON 4"
    rest = await api.get(f"/dead-letters?limit=4&cursor={page['next_cursor']}")
    assert [letter["detail"] for letter in rest["dead_letters"]] == ["not JSON 1", "not JSON 0"]
    assert rest["next_cursor"] is None and rest["dead_letters"][0]["run_id"] == "run_1"
    await api.get("/dead-letters?cursor=x", 422)


async def test_health_of_each_part(api: Api, record: Any) -> None:
    assert await api.get("/healthz") == {"status": "ok"}
    assert (await api.http.get("/readyz")).status_code == 200
    alone = await api.get("/health")
    assert alone["status"] == "degraded" and alone["components"]["postgres"]["status"] == "ok"
    assert alone["components"]["runners"]["alive"] == 0
    await heartbeat(api, "gpu-0")
    assert (await api.get("/health"))["status"] == "ok"
    await api.start()
    assert (await api.get("/health"))["components"]["redis"]["events_waiting"] == 1
    await api.store.redis.xadd("events", {"x": "y"}, id="9999999999999-0")
    (entry, fields), _ = await api.store.redis.xrange("events")
    await api.store.redis.delete("events")
    await api.store.redis.xadd("events", fields, id="1000-0")
    assert entry and (await api.get("/health"))["components"]["recorder"]["status"] == "degraded"


async def test_runs_that_redis_has_lost_are_told(api: Api, record: Any) -> None:
    """Nothing fails, and nothing moves: without this a group that has lost its work looks idle and well."""
    await heartbeat(api, "gpu-0")
    over, lost = [await api.start(HELLO) for _ in range(2)]
    await api.post(f"/runs/{over}/cancel")
    await record()
    assert "lost_runs" not in (await api.get("/health"))["components"]["redis"]
    await api.store.redis.flushall()
    await heartbeat(api, "gpu-0")
    await api.start(HELLO)
    found = await api.get("/health")
    assert (found["status"], found["components"]["redis"]["lost_runs"]) == ("degraded", 1)
    assert (await api.get(f"/runs/{lost}"))["lost"] and "lost" not in await api.get(f"/runs/{over}")
    for path, body in (
        ("pause", {}), ("cancel", {}), ("resume", {}),
        ("patch", {"operations": [{"op": "remove", "path": "/nodes/0"}]}),
        ("nodes/greet/complete", {"output": {}}),
    ):  # fmt: skip
        answer = await api.http.post(f"/runs/{lost}/{path}", json=body)
        assert answer.status_code == 409 and "`pavane recover`" in answer.json()["detail"], (path, answer.text)


async def test_health_does_not_wait_for_a_postgres_that_hangs(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(**_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(api.history.batches, "list", hangs)
    monkeypatch.setattr(health, "PATIENCE_S", 0.01)
    found = await asyncio.wait_for(api.get("/health"), 5)
    assert found["components"]["postgres"] == {"status": "down", "reason": "no answer within 0.01 s"}


async def test_metrics(api: Api, record: Any) -> None:
    await api.start(HELLO)
    await api.play()
    await record()
    await api.start(ASK, {"q": "hi"})
    await heartbeat(api, "gpu-0")
    await api.store.redis.hincrby(api.store.keys.counters, "duplicate", 1)
    await api.store.redis.hincrby(api.store.keys.counters, "condition_error", 3)
    answer = await api.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {sample.name: (sample.labels, sample.value)
             for family in text_string_to_metric_families(answer.text) for sample in family.samples}  # fmt: skip
    assert found["pavane_live_runs"] == ({}, 1.0) and found["pavane_events_waiting"][1] == 1.0
    assert 0 <= found["pavane_recorder_lag_seconds"][1] < 600
    assert found["pavane_model_queued"] == ({"model": "gemma3:4b"}, 1.0)
    assert found["pavane_ignored_total"] == ({"reason": "duplicate"}, 1.0)
    assert found["pavane_condition_errors_total"] == ({}, 3.0)
    assert found["pavane_runs"] == ({"status": "COMPLETED"}, 1.0)


async def test_the_dashboard_loads_nothing_from_elsewhere(api: Api) -> None:
    page = await api.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(named) == ["dashboard.css", "dashboard.js"]
    for name in named:
        assert (await api.http.get(f"/{name}")).status_code == 200
    script = (await api.http.get("/dashboard.js")).text
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script and "document.write" not in script
    assert not re.search(r"\son\w+=|<style|style=", page.text)


async def test_openapi_describes_every_route(api: Api) -> None:
    described = await api.get("/openapi.json")
    routes = {
        (method.lower(), route.path)
        for module in ROUTERS
        for route in module.router.routes
        if route.include_in_schema
        for method in route.methods
    }
    assert len(routes) > 20
    for method, path in routes:
        told = described["paths"][path][method]
        assert told["summary"] and any(code.startswith("2") for code in told["responses"])
    assert described["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]["example"]


# -- without Postgres, without Redis -----------------------------------------------------------------


async def test_a_single_run_needs_no_postgres(alone: Api) -> None:
    run_id = await alone.start(run_id="run_mine")
    await alone.post("/runs", {"workflow": HELLO, "input": {"name": "Ada"}, "run_id": run_id}, 200)
    await alone.play()
    shown = await alone.get(f"/runs/{run_id}")
    assert (shown["status"], shown["output"]) == ("COMPLETED", {"node": "sign"})
    assert len((await alone.get(f"/runs/{run_id}/events"))["events"]) == 6
    assert (await alone.get(f"/runs/{run_id}/state"))["status"] == "COMPLETED"
    assert (await alone.get(f"/runs/{run_id}/ir"))["workflow"] == HELLO
    assert (await alone.get("/health"))["components"]["postgres"]["status"] == "down"
    metrics = (await alone.http.get("/metrics")).text
    assert "pavane_live_runs 0.0" in metrics and "pavane_runs{" not in metrics
    assert (await alone.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/runs"), ("GET", "/batches"), ("GET", "/batches/b"), ("GET", "/workflows"), ("GET", "/runs/run_gone"),
     ("POST", "/workflows"), ("POST", "/batches"), ("GET", "/batches/b/results")],
)  # fmt: skip
async def test_what_needs_postgres_says_so(alone: Api, method: str, path: str) -> None:
    bodies = {"/workflows": HELLO, "/batches": {"workflow": HELLO, "items": [{"name": "Ada"}]}}
    answer = await alone.http.request(method, path, json=bodies.get(path) if method == "POST" else None)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert "Postgres" in answer.json()["detail"] and "127.0.0.1" not in answer.text


async def test_a_workflow_that_was_used_lately_needs_no_postgres(api: Api, alone: Api) -> None:
    body = {"workflow_id": "hello", "input": {"name": "Ada"}}
    assert (await alone.http.post("/runs", json=body)).status_code == 503
    await api.post("/workflows", HELLO, 201)
    await api.post("/workflows", HELLO | {"description": "newer"}, 201)
    started = await alone.post("/runs", body, 201)
    assert (await alone.get(f"/runs/{started['run_id']}"))["version"] == 2
    ttl = await api.store.redis.ttl(api.store.keys.workflow("hello"))
    assert ttl > 0


async def test_new_work_is_refused_before_memory_runs_out(api: Api) -> None:
    run_id = await api.start()
    api.app.state.services.submissions.options = api.app.state.services.options.__class__(events_limit=1)
    for path, body in (
        ("/runs", {"workflow": HELLO, "input": {"name": "Ada"}}),
        ("/batches", {"workflow": HELLO, "items": [{"name": "Ada"}]}),
    ):
        answer = await api.http.post(path, json=body)
        assert answer.status_code == 503 and "events_limit" in answer.json()["detail"]
        assert answer.headers["retry-after"]
    assert (await api.get(f"/runs/{run_id}"))["status"] == "RUNNING"


async def test_without_redis(api: Api) -> None:
    run_id = await api.start()
    pool = api.store.redis.connection_pool
    await pool.disconnect()
    pool.connection_kwargs |= (
        {"path": "/nowhere"} if "path" in pool.connection_kwargs else {"host": "127.0.0.1", "port": 1}
    )
    pool.reset()
    for path in ("/runs/" + run_id, "/models", "/runners", "/metrics", "/dead-letters", "/readyz"):
        answer = await api.http.get(path)
        assert answer.status_code == 503 and answer.headers["retry-after"], path
    answer = await api.http.post("/runs", json={"workflow": HELLO, "input": {"name": "Ada"}})
    assert answer.status_code == 503 and "Redis" in answer.json()["detail"]
    assert (await api.get("/health"))["status"] == "down"
    assert await api.get("/healthz") == {"status": "ok"}
