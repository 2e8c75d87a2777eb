"""Recovery of what the API started, while a coordinator works; retries of runs that Redis has let go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coordinator.recovery import Recovery
from lua.run_rebuild import RunRebuild
from schemas.fold import fold
from schemas.messages import Failure
from tests.api.conftest import Api, PlayAll
from tests.api.workflows import CALLS, EACH, HELLO


def fails(task: Any, started: Any) -> Any:
    return Failure("permanent", "no such thing", retryable=False)


async def calling(api: Api, record: Any, workflow: Any = CALLS) -> tuple[PlayAll, str]:
    """A run that waits for a child run, and is lost."""
    run_id = await api.start(workflow, {"name": "Ada"})
    play = PlayAll(api.store.redis, workflow, keys=api.store.keys)
    await play.settle()
    while "calling" not in [state for _, state in await play.states(run_id)]:
        await play.execute((await play.tasks())[0])
        await play.settle()
    await record()
    await api.store.redis.flushdb()
    return play, run_id


async def test_a_coordinator_that_works_meanwhile_takes_no_child_for_gone(
    api: Api, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    play, run_id = await calling(api, record)
    restore = RunRebuild.restore

    async def restoring(*args: Any) -> bool:
        restored = await restore(*args)
        await play.settle()
        await play.tick()
        await play.settle()
        return restored

    monkeypatch.setattr(RunRebuild, "restore", restoring)
    report = await Recovery(api.store, api.history.pool).recover("a test")
    assert (len(report.recovered), report.failed) == (2, {})
    await api.play(CALLS)
    shown = await api.get(f"/runs/{run_id}")
    assert (shown["status"], [child["status"] for child in shown["children"]]) == ("COMPLETED", ["COMPLETED"])


async def test_two_recoveries_at_once(api: Api, record: Any) -> None:
    """Of runs that are older in Redis: each is taken out and rebuilt once."""
    run_ids = [await api.start() for _ in range(4)]
    await record()
    older = {run_id: await api.store.redis.hgetall(api.store.keys.run(run_id)) for run_id in run_ids}
    play = PlayAll(api.store.redis, HELLO, keys=api.store.keys)
    for task in await play.tasks():
        await play.execute(task)
    await play.settle()
    await record()
    for run_id, fields in older.items():
        await api.store.redis.hset(api.store.keys.run(run_id), mapping=fields)
    both = [Recovery(api.store, api.history.pool).recover_runs(run_ids, "a test") for _ in range(2)]
    reports = await asyncio.gather(*both)
    assert sorted(run_id for report in reports for run_id in report.recovered) == sorted(run_ids)
    for run_id in run_ids:
        assert (await types(api, run_id)).count("run_recovered") == 1
    await api.play()
    await record()
    for run_id in run_ids:
        assert fold(await api.history.events.after(run_id)).status == "COMPLETED"


async def types(api: Api, run_id: str) -> list[str]:
    return [event["type"] for event in (await api.get(f"/runs/{run_id}/events"))["events"]]


@pytest.mark.parametrize("workflow", [HELLO, EACH, CALLS], ids=["hello", "map", "child"])
async def test_a_run_that_redis_has_forgotten_is_rebuilt_and_retried(api: Api, record: Any, workflow: Any) -> None:
    given = {"name": "Ada"} if workflow is not EACH else {"names": ["Ada", "Alan", "Grace"]}
    run_id = await api.start(workflow, given)
    await api.play(workflow, fails)
    await record()
    await api.store.redis.flushdb()
    asked = await api.post(f"/runs/{run_id}/retry", {"reason": "it is there now"})
    assert asked == {"run_id": run_id, "status": "RUNNING"}
    assert await api.post(f"/runs/{run_id}/retry") == asked
    await api.play(workflow)
    await record()
    shown = await api.get(f"/runs/{run_id}")
    assert (shown["status"], shown["error"]) == ("COMPLETED", None)
    events = await api.history.events.after(run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert fold(events).status == "COMPLETED"
    for child in shown["children"]:
        assert child["status"] == "COMPLETED"
    keys = [key.decode() for key in await api.store.redis.keys("*") if run_id.encode() in key]
    for key in keys:
        assert await api.store.redis.pttl(key) > 0, key
