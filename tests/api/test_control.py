"""Pause, resume, retry, cancel: of runs and of batches."""

import asyncio
from typing import Any

import pytest

from orchestrator_api import event_tail
from orchestrator_api.event_log import EventLog
from schemas.events import Event
from schemas.messages import Failure
from tests.api.conftest import Api, PlayAll, application, client_of
from tests.api.workflows import CALLS, EACH, HELLO

NAMES = [{"name": name} for name in ("Ada", "Alan", "Grace")]


def fails(task: Any, started: Any) -> Any:
    return Failure("permanent", "no such thing", retryable=False)


async def batch(api: Api) -> str:
    return str((await api.post("/batches", {"workflow": HELLO, "items": NAMES, "key": "item.name"}, 202))["batch_id"])


async def types(api: Api, run_id: str) -> list[str]:
    return [event["type"] for event in (await api.get(f"/runs/{run_id}/events"))["events"]]


async def test_a_run_is_paused_and_goes_on(api: Api, record: Any) -> None:
    run_id = await api.start()
    asked = await api.post(f"/runs/{run_id}/pause", {"reason": "lunch"})
    assert asked == {"run_id": run_id, "status": "PAUSED"}
    assert await api.post(f"/runs/{run_id}/pause") == asked, "asked again"
    assert (await api.get(f"/runs/{run_id}"))["status"] == "PAUSED"
    await api.play()
    assert (await api.get(f"/runs/{run_id}"))["outputs"] == {}
    await record()
    assert [run["run_id"] for run in (await api.get("/runs?status=PAUSED"))["runs"]] == [run_id]

    assert await api.post(f"/runs/{run_id}/resume") == {"run_id": run_id, "status": "RUNNING"}
    await api.post(f"/runs/{run_id}/resume")
    await api.play()
    assert (await api.get(f"/runs/{run_id}"))["status"] == "COMPLETED"
    events = (await api.get(f"/runs/{run_id}/events"))["events"]
    (paused,) = [event for event in events if event["type"] == "run_paused"]
    assert (paused["by"], paused["reason"]) == ("api", "lunch")
    for action in ("pause", "resume"):
        assert (await api.post(f"/runs/{run_id}/{action}", status=409))["run_status"] == "COMPLETED"
        await api.post(f"/runs/run_nobody/{action}", status=404)


async def test_a_paused_run_can_be_cancelled(api: Api) -> None:
    run_id = await api.start()
    await api.post(f"/runs/{run_id}/pause")
    assert (await api.post(f"/runs/{run_id}/cancel"))["status"] == "CANCELLED"
    assert (await api.post(f"/runs/{run_id}/resume", status=409))["run_status"] == "CANCELLED"


async def test_a_failed_run_that_is_retried_may_wait(api: Api) -> None:
    run_id = await api.start()
    await api.play(answer=fails)
    assert await api.post(f"/runs/{run_id}/retry", {"paused": True}) == {"run_id": run_id, "status": "PAUSED"}
    assert (await api.post(f"/runs/{run_id}/resume"))["status"] == "RUNNING"
    await api.play()
    assert (await api.get(f"/runs/{run_id}"))["status"] == "COMPLETED"


async def test_a_failed_run_is_retried_and_its_letter_goes(api: Api, record: Any) -> None:
    run_id = await api.start()
    assert "has failed" in (await api.post(f"/runs/{run_id}/retry", status=409))["detail"]
    await api.play(answer=fails)
    await record()
    assert (await api.get("/runs?status=FAILED"))["runs"][0]["error"]["message"] == "no such thing"
    assert len((await api.get("/dead-letters"))["dead_letters"]) == 1

    asked = await api.post(f"/runs/{run_id}/retry", {"reason": "it is there now"})
    assert asked == {"run_id": run_id, "status": "RUNNING"}
    assert await api.post(f"/runs/{run_id}/retry") == asked, "asked again, it goes on"
    await record()
    (run,) = (await api.get("/runs"))["runs"]
    assert (run["status"], run["error"], run["ended_at"]) == ("RUNNING", None, None)
    assert (await api.get("/dead-letters"))["dead_letters"] == []
    await api.play()
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "COMPLETED" and shown["output"] == {"node": "sign"} and shown["error"] is None
    await record()
    assert await api.get(f"/runs/{run_id}") == shown
    await api.store.redis.flushdb()
    assert await api.get(f"/runs/{run_id}") == shown
    assert (await api.post(f"/runs/{run_id}/retry", status=409))["run_status"] == "COMPLETED"
    await api.post("/runs/run_nobody/retry", status=404)


async def test_a_run_of_which_too_much_is_gone_is_not_retried(api: Api, record: Any) -> None:
    run_id = await api.start()
    await api.play(answer=fails)
    await record()
    await api.store.redis.flushdb()
    async with api.history.pool.connection() as connection:
        await connection.execute("DELETE FROM irs")
    refused = await api.post(f"/runs/{run_id}/retry", status=409)
    assert "ended long ago" in refused["detail"] and refused["run_status"] == "FAILED"


async def test_a_child_is_retried_by_its_parent(api: Api, record: Any) -> None:
    run_id = await api.start(CALLS)
    await api.play(CALLS, fails)
    shown = await api.get(f"/runs/{run_id}")
    assert shown["status"] == "FAILED" and shown["error"]["class"] == "child_failed"
    await record()
    (child,) = (await api.get(f"/runs/{run_id}"))["children"]
    assert (child["node_id"], child["status"]) == ("ask", "FAILED")
    refused = await api.post(f"/runs/{child['run_id']}/retry", status=409)
    assert f"called by {run_id}" in refused["detail"]
    answer = await api.post("/dead-letters/retry", {"reason": "task"})
    assert (answer["found"], answer["retried"], answer["refused"]) == (2, 1, {"child": 1})
    await api.play(CALLS)
    assert (await api.get(f"/runs/{run_id}"))["status"] == "COMPLETED"
    assert (await api.get("/dead-letters"))["dead_letters"] == [], "the child's went when it was retried"


@pytest.mark.parametrize("page", [1, 3, 1_000])
async def test_a_retried_run_is_followed_to_its_second_end(
    api: Api, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Also where a page of its events ends with its first end."""
    read = EventLog.after

    async def after(log: EventLog, run_id: str, seq: int = 0, limit: int = page) -> list[Event]:
        return await read(log, run_id, seq, min(limit, page))

    monkeypatch.setattr(EventLog, "after", after)
    monkeypatch.setattr(event_tail, "PAGE", page)
    run_id = await api.start()
    await api.play(answer=fails)
    await api.post(f"/runs/{run_id}/retry")
    await api.play()
    seen = []
    async with api.http.stream("GET", f"/runs/{run_id}/events", headers={"Accept": "text/event-stream"}) as answer:
        async for line in answer.aiter_lines():
            seen += [line] if line.startswith("id:") else []
    monkeypatch.undo()
    assert len(seen) == len(await types(api, run_id))
    assert {"run_failed", "run_retried", "run_completed"} <= set(await types(api, run_id))


async def test_a_batch_is_paused_and_goes_on(api: Api, record: Any) -> None:
    batch_id = await batch(api)
    await api.admit()
    asked = await api.post(f"/batches/{batch_id}/pause", {"reason": "the card is needed"})
    assert asked == {"batch_id": batch_id, "status": "PAUSED", "paused": 3}
    assert (await api.post(f"/batches/{batch_id}/pause"))["paused"] == 0
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["running"], found["stalled"], found["eta_s"]) == ("PAUSED", 3, False, None)
    assert [(one["action"], one["by"], one["reason"]) for one in found["actions"]] == [
        ("pause", "api", None),
        ("pause", "api", "the card is needed"),
    ]
    await record()
    first, *others = [run["run_id"] for run in (await api.get(f"/runs?batch_id={batch_id}&status=PAUSED"))["runs"]]
    assert len(others) == 2
    await api.post(f"/runs/{first}/resume")
    await api.play()
    assert (await api.get(f"/runs/{first}"))["status"] == "COMPLETED", "one that a person resumed alone goes on"
    assert {(await api.get(f"/runs/{run_id}"))["status"] for run_id in others} == {"PAUSED"}

    assert (await api.post(f"/batches/{batch_id}/resume"))["resumed"] == 2
    await api.play()
    await record()
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["done"]) == ("COMPLETED", 3)
    for action in ("pause", "resume"):
        assert (await api.post(f"/batches/{batch_id}/{action}", status=409))["batch_status"] == "COMPLETED"
        await api.post(f"/batches/batch_nobody/{action}", status=404)


async def test_no_item_slips_through_a_pause(api: Api, record: Any) -> None:
    """Items are admitted while the batch is being paused: each run is either paused or was never started."""
    batch_id = await batch(api)
    admitted, paused = await asyncio.gather(api.admit(), api.post(f"/batches/{batch_id}/pause"))
    assert paused["paused"] == admitted
    assert await api.admit() == 0
    await record()
    assert len((await api.get(f"/runs?batch_id={batch_id}&status=RUNNING"))["runs"]) == 0
    await api.post(f"/batches/{batch_id}/resume")
    assert await api.admit() + admitted == 3


async def test_the_failed_runs_of_a_batch_are_retried(api: Api, record: Any) -> None:
    batch_id = await batch(api)
    await api.admit()
    await api.play(answer=lambda task, started: fails(task, started) if b"Al" in started.input.encode() else {"ok": 1})
    await record()
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["done"], found["failed"]) == ("COMPLETED", 2, 1)
    assert await api.post(f"/batches/{batch_id}/retry") == {
        "batch_id": batch_id, "status": "RUNNING", "retried": 1, "gone": 0,
    }  # fmt: skip
    await record()
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["done"], found["failed"], found["running"]) == ("RUNNING", 2, 0, 1)
    assert found["ended_at"] is None and found["delta"] is None
    assert (await api.get("/dead-letters"))["dead_letters"] == []
    await api.play()
    await record()
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["done"], found["failed"]) == ("COMPLETED", 3, 0)
    assert found["delta"] == {"done": 3, "failed": 0}
    assert (await api.post(f"/batches/{batch_id}/retry"))["retried"] == 0


async def test_failed_runs_that_redis_has_forgotten_are_retried(api: Api, record: Any) -> None:
    batch_id = await batch(api)
    await api.admit()
    await api.play(answer=fails)
    await record()
    await api.store.redis.flushdb()
    answer = await api.post(f"/batches/{batch_id}/retry")
    assert (answer["retried"], answer["gone"]) == (3, 0)
    await api.play()
    await record()
    found = await api.get(f"/batches/{batch_id}")
    assert (found["status"], found["done"], found["failed"]) == ("COMPLETED", 3, 0)
    assert all(count >= 0 for node in found["per_node"] for name, count in node.items() if name != "node_id")
    await api.post("/batches/batch_nobody/retry", status=404)


async def test_a_cancelled_batch_is_not_retried(api: Api, record: Any) -> None:
    batch_id = await batch(api)
    await api.admit()
    await api.post(f"/batches/{batch_id}/cancel")
    for action in ("retry", "pause", "resume"):
        assert (await api.post(f"/batches/{batch_id}/{action}", status=409))["batch_status"] == "CANCELLED"


async def test_one_action_on_a_batch_at_a_time(api: Api) -> None:
    batch_id = await batch(api)
    async with api.history.batch_control.alone(batch_id):
        for action in ("pause", "resume", "retry", "cancel"):
            refused = await api.http.post(f"/batches/{batch_id}/{action}")
            assert refused.status_code == 409 and refused.headers["retry-after"] == "1"


async def test_a_paused_map_starts_no_more_and_goes_on(api: Api) -> None:
    run_id = await api.start(EACH, {"names": ["Ada", "Alan"]})
    play = PlayAll(api.store.redis, EACH, keys=api.store.keys)
    await play.settle()
    (token,) = (await api.get(f"/runs/{run_id}"))["live_tokens"]
    assert (token["state"], token["items"]) == ("mapping", {"total": 2, "running": 2, "done": 0})
    await api.post(f"/runs/{run_id}/pause")
    await play.run_to_end()
    assert (await api.get(f"/runs/{run_id}"))["status"] == "PAUSED"
    await api.post(f"/runs/{run_id}/resume")
    await play.run_to_end()
    assert (await api.get(f"/runs/{run_id}"))["output"] == [{"node": "judge"}] * 2


async def test_who_asked_is_the_name_of_the_key(api: Api) -> None:
    from orchestrator_api.options import ApiKey, hash_key

    app = application(api.store, api.history, keys=[ApiKey("ada", "operator", hash_key("secret"))])
    async with client_of(app, headers={"Authorization": "Bearer secret"}) as http:
        keyed = Api(app, http, api.store, api.history)
        run_id = await keyed.start()
        await keyed.post(f"/runs/{run_id}/pause")
        batch_id = await batch(keyed)
        await keyed.post(f"/batches/{batch_id}/pause")
        assert (await keyed.get(f"/batches/{batch_id}"))["actions"][0]["by"] == "ada"
        assert (await keyed.get(f"/runs/{run_id}/events"))["events"][-1]["by"] == "ada"
