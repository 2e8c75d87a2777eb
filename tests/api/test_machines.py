"""What works: GPUs and what is on them, models and what waits for them, and both as metrics."""

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Api
from tests.api.heartbeats import GB, heartbeat, held, lost
from tests.api.workflows import ASK


def ask(model: str) -> dict[str, Any]:
    config = ASK["nodes"][0]["config"] | {"model": model}
    return ASK | {"nodes": [ASK["nodes"][0] | {"config": config}]}


async def open_breaker(api: Api, pool: str, runner_id: str, since: int, reason: str) -> None:
    shown = {"state": "open", "runner": runner_id, "since": since, "reason": reason}
    await api.store.redis.hset(f"model:{pool}", f"breaker|{runner_id}", json.dumps(shown))


async def test_a_gpu_with_two_models(api: Api) -> None:
    models = {"gemma3:4b": held(8, loads=2), "phi3": held(2, state="loading", memory=3 * GB)}
    await heartbeat(
        api, "gpu-1", models, kind="8GB", memory=7_400_000_000, focus_model="gemma3:4b", target="qwen2.5:7b",
        running=10, slots=16, loads=3, active_share="0.93", loading_share="0.03", idle_share="0.04", reason="a tail",
    )  # fmt: skip
    (runner,) = (await api.get("/runners"))["runners"]
    assert (runner["kind"], runner["memory"]) == ("8GB", 7_400_000_000)
    assert (runner["focus_model"], runner["target"], runner["reason"]) == ("gemma3:4b", "qwen2.5:7b", "a tail")
    assert runner["residents"] == ["gemma3:4b", "phi3"]
    assert runner["models"] == [
        {"model": "gemma3:4b", "state": "ready", "running": 8, "slots": 8, "memory": 4 * GB, "loads": 2},
        {"model": "phi3", "state": "loading", "running": 2, "slots": 8, "memory": 3 * GB, "loads": 1},
    ]
    assert (runner["running"], runner["slots"], runner["loads"], runner["loading_share"]) == (10, 16, 3, 0.03)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"phi3": 3}', '"phi3"', "null"])
async def test_what_a_runner_says_wrongly_hides_no_other(api: Api, text: str) -> None:
    await heartbeat(api, "gpu-1", models=text, memory=0)
    await api.store.redis.hset("runner:gpu-1", "models", text)
    await heartbeat(api, "gpu-2", {"phi3": held(1)})
    one, two = (await api.get("/runners"))["runners"]
    assert one["models"] == [] and one["memory"] is None
    assert two["models"][0]["model"] == "phi3"


async def test_both_lanes_of_a_model(api: Api) -> None:
    for priority in ("normal", "normal", "interactive"):
        await api.start(ASK, {"q": "hi"}, priority=priority)
    (model,) = (await api.get("/models"))["models"]
    assert (model["model"], model["queued"], model["interactive"]) == ("gemma3:4b", 3, 1)
    assert 0 <= model["oldest_s"] < 30
    await api.play(ASK)
    (model,) = (await api.get("/models"))["models"]
    assert (model["queued"], model["interactive"], model["running"], model["oldest_s"]) == (0, 0, 0, None)


async def test_the_head_is_what_no_runner_was_given(api: Api) -> None:
    await api.start(ASK, {"q": "first"}, priority="interactive")
    stream = "wf.tasks.agent.gemma3:4b:interactive"
    ((entry, _),) = await api.store.redis.xrange(stream)
    old = f"{int(entry.partition(b'-')[0]) - 90_000}-0"
    await api.store.redis.delete(stream)  # with its group: nobody has read there yet
    await api.store.redis.xadd(stream, {"x": "y"}, id=old)
    await api.start(ASK, {"q": "second"})
    assert 90 <= (await api.get("/models"))["models"][0]["oldest_s"] < 120
    await api.store.redis.xgroup_create(stream, "runners", id="0")
    await api.store.redis.xreadgroup("runners", "gpu-1", {stream: ">"})
    assert (await api.get("/models"))["models"][0]["oldest_s"] < 30, "the oldest one is in a runner's hands"


async def test_holders_have_loaded_a_model_or_are_about_to(api: Api) -> None:
    await api.start(ASK, {"q": "hi"})
    await heartbeat(api, "a", {"gemma3:4b": held(0)})
    await heartbeat(api, "b", {"phi3": held(0)}, target="gemma3:4b")
    await heartbeat(api, "c", {"phi3": held(0)}, focus_model="phi3")
    (model,) = (await api.get("/models"))["models"]
    assert model["holders"] == ["a", "b"]


async def test_breakers_of_runners_that_live(api: Api) -> None:
    await api.start(ASK, {"q": "hi"})
    for runner_id in ("a", "b", "c"):
        await heartbeat(api, runner_id)
    await lost(api, "c")
    await open_breaker(api, "gemma3:4b", "a", 2_000, "no answer")
    await open_breaker(api, "gemma3:4b", "b", 1_000, "not found")
    await open_breaker(api, "gemma3:4b", "c", 10, "died with it")
    await api.store.redis.hset("model:gemma3:4b", "breaker|b|x", "{")
    (model,) = (await api.get("/models"))["models"]
    assert [breaker["reason"] for breaker in model["breakers"]] == ["not found", "no answer"]
    assert model["breaker"] == {"state": "open", "runner": "b", "since": 1_000, "reason": "not found"}
    await api.store.redis.hdel("model:gemma3:4b", "breaker|a", "breaker|b")
    (model,) = (await api.get("/models"))["models"]
    assert (model["breaker"], model["breakers"]) == (None, [])


async def test_measured_rates_of_each_kind(api: Api) -> None:
    await api.start(ASK, {"q": "hi"})
    for runner_id, kind in (("a", "8GB"), ("b", "24GB"), ("c", "8GB"), ("d", "")):
        await heartbeat(api, runner_id, kind=kind)
    await api.store.measure_model("8GB", "gemma3:4b", "rate", 0.5)
    await api.store.measure_model("8GB", "gemma3:4b", "load_s", 3.0)
    await api.store.measure_model("8GB", "phi3", "rate", 9.0)
    (model,) = (await api.get("/models"))["models"]
    assert model["measured"] == {"8GB": {"rate": 0.5, "load_s": 3.0}}


async def test_more_models_and_runners_cost_no_more_round_trips(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0
    connection = api.store.redis.connection_pool.connection_class
    send = connection.send_packed_command

    async def counted(self: Any, *words: Any, **options: Any) -> Any:
        nonlocal sent
        sent += 1
        return await send(self, *words, **options)

    async def packets() -> int:
        nonlocal sent
        sent = 0
        await api.get("/models")
        return sent

    await heartbeat(api, "gpu-0", kind="8GB")
    await api.start(ASK, {"q": "hi"})
    await packets()  # opens the connections
    monkeypatch.setattr(connection, "send_packed_command", counted)
    few = await packets()
    for number in range(9):
        await heartbeat(api, f"gpu-{number}", kind="8GB")
        await api.start(ask(f"m{number}"), {"q": "hi"}, priority="interactive")
    assert 0 < await packets() <= few + 1 < 12, "one more where a connection is opened"


async def test_metrics_of_gpus_and_models(api: Api) -> None:
    await api.start(ASK, {"q": "hi"}, priority="interactive")
    await heartbeat(api, "gpu-1", loads=3, active_share="0.9", loading_share="0.06", idle_share="0.04")
    await lost(api, "gpu-2")
    await open_breaker(api, "gemma3:4b", "gpu-1", 1, "no answer")
    answer = await api.http.get("/metrics")
    found = {(sample.name, *sample.labels.values()): sample.value
             for family in text_string_to_metric_families(answer.text) for sample in family.samples}  # fmt: skip
    assert found["pavane_model_interactive", "gemma3:4b"] == 1
    assert found["pavane_model_running", "gemma3:4b"] == 0
    assert 0 <= found["pavane_model_oldest_seconds", "gemma3:4b"] < 30
    assert found["pavane_model_breaker_open", "gemma3:4b"] == 1
    assert found["pavane_runner_loads_total", "gpu-1"] == 3
    shares = [found["pavane_runner_share", "gpu-1", share] for share in ("active", "loading", "idle")]
    assert shares == [0.9, 0.06, 0.04]
    assert found["pavane_runner_up", "gpu-2", "lost"] == 0 and ("pavane_runner_loads_total", "gpu-2") not in found
