"""Events of a run: recorded, on their way, and folded to the state at any of them."""

from typing import Any

from orchestrator_api.events import message
from schemas.fold import fold
from tests.api.conftest import Api
from tests.api.workflows import HELLO
from tests.play import Play


async def seqs(api: Api, run_id: str, after: int = 0, limit: int = 1_000) -> list[int]:
    page = await api.get(f"/runs/{run_id}/events?after={after}&limit={limit}")
    return [event["seq"] for event in page["events"]]


async def test_none_is_missing_wherever_they_are(api: Api, record: Any) -> None:
    run_id, other = await api.start(), await api.start()
    play = Play(api.store.redis, HELLO)
    assert await seqs(api, run_id) == [1]
    await record()
    assert await seqs(api, run_id) == [1], "recorded, and gone from the stream"
    await play.execute((await play.tasks())[0])
    await play.settle()
    assert await seqs(api, run_id) == [1, 2, 3], "one recorded, two on their way"
    assert await seqs(api, run_id, after=2) == [3] and await seqs(api, run_id, after=3) == []
    await play.run_to_end()
    whole = (await api.get(f"/runs/{run_id}/events"))["events"]
    assert [event["type"] for event in whole] == [
        "run_started", "task_started", "node_completed", "task_started", "node_completed", "run_completed",
    ]  # fmt: skip
    assert {event["run_id"] for event in whole} == {run_id} and await seqs(api, other) == [1, 2, 3, 4, 5, 6]
    await record()
    assert (await api.get(f"/runs/{run_id}/events"))["events"] == whole


async def test_pages(api: Api, record: Any) -> None:
    run_id = await api.start()
    await record()
    await api.play()
    page = await api.get(f"/runs/{run_id}/events?limit=4")
    assert [event["seq"] for event in page["events"]] == [1, 2, 3, 4] and page["next_after"] == 4
    page = await api.get(f"/runs/{run_id}/events?limit=4&after=4")
    assert [event["seq"] for event in page["events"]] == [5, 6] and page["next_after"] is None


async def test_an_entry_that_is_recorded_and_not_yet_deleted_counts_once(api: Api, record: Any) -> None:
    run_id = await api.start()
    entries = await api.store.redis.xrange("events")
    await record()
    for entry, fields in entries:  # the stream as it is between the recorder's commit and its deletion
        await api.store.redis.delete("events")
        await api.store.redis.xadd("events", fields, id=entry)
    await api.play()
    assert await seqs(api, run_id) == [1, 2, 3, 4, 5, 6]


async def test_a_long_backlog_of_other_runs(api: Api) -> None:
    run_id = await api.start()
    (fields,) = [fields for _, fields in await api.store.redis.xrange("events")]
    async with api.store.redis.pipeline(transaction=False) as pipe:
        for number in range(2_500):
            pipe.xadd("events", fields | {b"run": b"run_other%d" % number})
        await pipe.execute()
    await api.play()
    assert await seqs(api, run_id) == [1, 2, 3, 4, 5, 6]


async def test_the_state_at_each_event(api: Api, record: Any) -> None:
    run_id = await api.start()
    await api.play()
    await record()
    shown = [await api.get(f"/runs/{run_id}/state?at={seq}") for seq in range(1, 7)]
    assert [one["seq"] for one in shown] == [1, 2, 3, 4, 5, 6]
    assert [one["status"] for one in shown] == ["RUNNING"] * 5 + ["COMPLETED"]
    assert [sorted(one["outputs"]) for one in shown] == [
        [],
        [],
        ["greet"],
        ["greet"],
        ["greet", "sign"],
        ["greet", "sign"],
    ]
    assert [[token["state"] for token in one["live_tokens"]] for one in shown] == [
        ["queued"], ["running"], ["queued"], ["running"], [], [],
    ]  # fmt: skip
    assert shown[-1]["output"] == {"node": "sign"} and shown[-2]["output"] is None
    assert await api.get(f"/runs/{run_id}/state") == shown[-1]
    await api.get(f"/runs/{run_id}/state?at=7", 404)
    await api.get(f"/runs/{run_id}/state?at=0", 422)
    await api.get(f"/runs/{run_id}/events?after=-1", 422)
    await api.get(f"/runs/{run_id}/events?since=1", 422)


async def test_redis_the_fold_and_the_api_agree_after_every_step(api: Api, record: Any) -> None:
    run_id = await api.start()
    play = Play(api.store.redis, HELLO)
    for _ in range(3):
        await play.settle()
        state = fold(await api.app.state.services.log.after(run_id))
        shown, folded = await api.get(f"/runs/{run_id}"), await api.get(f"/runs/{run_id}/state")
        same = (
            "status",
            "outputs",
            "output",
            "live_tokens",
            "counter",
            "seq",
            "revision",
            "input",
            "usage",
            "created_at",
        )
        assert {name: shown[name] for name in same} == {name: folded[name] for name in same}
        assert state.seq == shown["seq"]
        for task in (await play.tasks())[:1]:
            await play.execute(task)
        await record()


async def test_a_message_is_one_line_of_data(api: Api) -> None:
    run_id = await api.start(input={"name": "two\nlines\r\nand \u2028"})
    (event,) = await api.app.state.services.log.after(run_id)
    lines = message(event).split(b"\n")
    assert lines[0] == b"id: 1" and lines[1].startswith(b"data: {") and lines[2:] == [b"", b""]
    assert b"\r" not in message(event)
