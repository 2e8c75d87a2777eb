"""Nodes that wait: for a person, an event, a time; and queue timeouts."""

import orjson
import pytest

from schemas.messages import CompletionSignal
from tests.play import Play


def waiting(kind, config, **more):
    return {
        "id": "w",
        "nodes": [
            {"id": "a", "type": "function", "config": {"handler": "h"}},
            {"id": "wait", "type": kind, "config": config, **more},
            {"id": "end", "type": "function", "config": {"handler": "h", "args": {"got": "{{ output }}"}}},
            {"id": "late", "type": "function", "config": {"handler": "h", "args": {"got": "{{ output }}"}}},
        ],
        "edges": [{"from": "a", "to": "wait"}, {"from": "wait", "to": "end"}, {"from": "end", "to": "late"}],
    }


def with_late(workflow):
    workflow["edges"].pop()
    return workflow


async def begin(redis, workflow):
    play = Play(redis, workflow)
    await play.start(input={"who": "ada"})
    await play.run_to_end()
    return play


def said(value, node="wait", token="run_1.2"):
    return CompletionSignal(token, "run_1", node, None, "completed", value)


async def arrived(play):
    return orjson.loads(play.executed[1][1].arrived["wait"])


async def test_a_person_is_asked_and_answers(any_redis):
    form = {"type": "object", "required": ["ok"]}
    config = {"prompt": "Is {{ output.node }} good?", "assignee": "{{ input.who }}", "form": form}
    play = await begin(any_redis, waiting("human", config))
    assert ("wait", "asked") in await play.states()
    (approval,) = [orjson.loads(text) for text in (await any_redis.hgetall("approvals")).values()]
    assert (approval["prompt"], approval["assignee"], approval["form"]) == ("Is a good?", "ada", form)
    states = ("asked", "listening")
    assert await play.store.answer_task("run_1", "run_1.2", said({"ok": 1}), {"by": "ada"}, states) == ["answered"]
    assert await play.store.answer_task("run_1", "run_1.2", said({"ok": 2}), {"by": "bob"}, states) == [
        "refused", "answered",
    ]  # fmt: skip
    await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert await arrived(play) == {"ok": 1}
    answered = next(e for e in await play.events() if e.type == "node_answered")
    assert answered.data["by"] == "ada"
    assert await any_redis.hlen("approvals") == 0
    assert await any_redis.zcard("timers") == 0


async def test_a_deadline_has_its_own_path(any_redis):
    workflow = waiting("human", {"deadline_ms": 60_000, "deadline_path": ["late"]})
    play = await begin(any_redis, with_late(workflow))
    await play.skip(60_001)
    await play.run_to_end()
    assert play.path() == ["a", "late"]
    assert (await arrived(play))["error"]["class"] == "deadline"
    assert await any_redis.hlen("approvals") == 0


async def test_a_deadline_without_a_path_fails_the_run(any_redis):
    play = await begin(any_redis, waiting("human", {"deadline_ms": 60_000}))
    await play.skip(60_001)
    await play.run_to_end()
    assert await play.status() == "FAILED"
    await play.store.retry_run("run_1", {})
    await play.run_to_end()
    assert await any_redis.hlen("approvals") == 1  # asked again, with all the time there is
    assert await play.status() == "RUNNING"


async def test_reminders(any_redis):
    play = await begin(any_redis, waiting("human", {"remind_ms": 1_000}))
    for _ in range(2):
        await play.skip(1_001)
        await play.tick()
    assert [e.data["times"] for e in await play.events() if e.type == "node_reminded"] == [1, 2]


PAST = {"until": "timestamp('2020-01-01T00:00:00Z')"}


@pytest.mark.parametrize("config", [{"for_ms": 5_000}, {"for_ms": "{{ size(input.who) * 1000 }}"}, PAST])
async def test_a_time_passes(any_redis, config):
    play = await begin(any_redis, waiting("wait", config))
    if "until" not in config:
        assert ("wait", "timed") in await play.states()
        await play.skip(5_001)
        await play.run_to_end()
    assert await play.status() == "COMPLETED"
    assert await arrived(play) == {"node": "a"}  # it passes on what it got


async def test_an_outside_event(any_redis):
    play = await begin(any_redis, waiting("wait", {"event": "paid", "key": "{{ input.who }}"}))
    assert await any_redis.hgetall("listeners:paid") == {b"run_1.2": b"ada"}
    await play.store.answer_task("run_1", "run_1.2", said({"sum": 3}), {"by": "shop"}, ("listening",))
    await play.run_to_end()
    assert await arrived(play) == {"sum": 3}
    assert await any_redis.keys("listeners:*") == []


async def test_a_rejection_fails_for_good(any_redis):
    play = await begin(any_redis, with_late(waiting("human", {}, on_error=["late"])))
    metadata = {"error_type": "rejected", "error_message": "no", "retryable": False}
    signal = CompletionSignal("run_1.2", "run_1", "wait", None, "failed", metadata=metadata)
    await play.store.answer_task("run_1", "run_1.2", signal, {"by": "ada"}, ("asked",))
    await play.run_to_end()
    assert (await arrived(play))["error"] == {"class": "rejected", "message": "no", "attempts": 1, "node": "wait"}


async def test_a_task_waits_too_long_for_a_runner(any_redis):
    workflow = waiting("wait", {"for_ms": 1})
    workflow["nodes"][2] |= {"queue_timeout_ms": 1_000, "on_error": ["late"]}
    workflow["edges"].pop()
    play = Play(any_redis, workflow)
    await play.start(input={})
    await play.execute((await play.tasks())[0])
    await play.settle()
    await play.skip(2)
    await play.tick()
    await play.settle()
    (task,) = await play.tasks()
    await play.skip(1_001)
    await play.tick()
    await play.settle()
    assert [t.node_id for t in await play.tasks()] == ["late"]
    assert (await play.claim(task)).state == "gone"
    failed = next(e for e in await play.events() if e.type == "node_failed")
    assert failed.data["error"]["class"] == "queue_timeout"


async def test_a_task_that_starts_in_time_has_no_queue_timer(any_redis):
    workflow = waiting("wait", {"for_ms": 1})
    workflow["nodes"][0]["queue_timeout_ms"] = 1_000
    play = Play(any_redis, workflow)
    await play.start(input={})
    await play.claim((await play.tasks())[0])
    assert await any_redis.zcard("timers") == 0


async def test_an_outside_worker_answers_a_queued_task(any_redis):
    play = Play(any_redis, waiting("wait", {"for_ms": 1}))
    await play.start(input={})
    signal = said({"done": True}, "a", "run_1.1")
    assert await play.store.answer_task("run_1", "run_1.1", signal, {"by": "x"}, ("queued", "running")) == ["answered"]
    await play.settle()
    assert (await play.outputs())["a"] == {"done": True}
    assert await any_redis.xlen("wf.tasks.function") == 0


async def test_a_time_too_late_for_redis_fails_the_node(any_redis):
    play = await begin(any_redis, waiting("wait", {"until": "'9999-12-31T00:00:00.123Z'"}))
    assert await play.status() == "FAILED"
    failed = next(e for e in await play.events() if e.type == "node_failed")
    assert failed.data["error"]["class"] == "invalid_input"


async def test_a_key_and_a_prompt_that_are_no_strings_are_json(any_redis):
    play = await begin(any_redis, waiting("wait", {"event": "paid", "key": "{{ input.who == 'ada' }}"}))
    assert await play.redis.hgetall("listeners:paid") == {b"run_1.2": b"true"}
    await any_redis.flushdb()
    await begin(any_redis, waiting("human", {"prompt": "{{ output }}"}))
    (approval,) = [orjson.loads(text) for text in (await any_redis.hgetall("approvals")).values()]
    assert approval["prompt"] == '{"node":"a"}'
