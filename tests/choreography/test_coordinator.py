"""The coordinator's loop: what comes in is routed, and what is no signal disturbs nothing."""

import asyncio

import orjson
import pytest

from coordinator import signal_batch
from coordinator.coordinator import Coordinator
from coordinator.decide import decide as real_decide
from schemas.limits import LIMITS
from schemas.messages import Failure
from tests.play import Play
from tests.scripts.workflows import CHAIN, edges, task


async def test_it_routes_until_it_is_stopped(redis, wait_until):
    play = Play(redis, CHAIN)
    stop = asyncio.Event()
    working = asyncio.create_task(Coordinator(play.store).run(stop))
    await play.start()
    await play.execute((await play.tasks())[0])
    second = (await wait_until(play.tasks))[0]
    await play.execute(second)
    await wait_until(lambda: redis.exists("context:run_1"))

    async def completed():
        return await play.status() == "COMPLETED"

    await wait_until(completed)
    stop.set()
    await working


async def test_two_side_by_side_route_everything_once(redis, wait_until):
    play = Play(redis, CHAIN)
    stop = asyncio.Event()
    working = [asyncio.create_task(Coordinator(play.store).run(stop)) for _ in range(2)]
    for number in range(50):
        await play.start(f"run_{number}")
    for _ in range(2):
        for waiting in await wait_until(play.tasks):
            await play.execute(waiting)

        async def all_routed():
            return not await redis.hlen("outcomes:run_49") and not await redis.llen("completion_signals")

        await wait_until(all_routed)

    async def none_live():
        while tasks := await play.tasks():
            for waiting in tasks:
                await play.execute(waiting)
        return not await redis.zcard("live_runs")

    await wait_until(none_live)
    stop.set()
    await asyncio.gather(*working)
    events = await play.events(None)
    assert [e.type for e in events].count("node_completed") == 100
    assert [e.type for e in events].count("run_completed") == 50


MALFORMED = [
    b"not json",
    b"[]",
    b'{"version": "2.0"}',
    b'{"version": "1.0", "job_id": "x"}',
    b'{"version": "1.0", "job_id": "../x", "run_id": "r", "node_id": "a", "status": "completed"}',
    b'{"version": "1.0", "job_id": "x", "run_id": "r", "node_id": "1a", "status": "completed"}',
    b'{"version": "1.0", "job_id": "x", "run_id": "r", "node_id": "a", "status": "done"}',
    b'{"version": "1.0", "job_id": "x", "run_id": "r", "node_id": "a", "status": "failed", "attempt": -1}',
    b'{"version": "1.0", "job_id": "x", "run_id": "r", "node_id": "a", "status": "failed", "metadata": 7}',
    b'{"version": "1.0", "job_id": "x", "run_id": "r", "node_id": "a", "status": "completed", "result_ref": "/etc"}',
    b"\xff\xfe",
    b'"' + b"x" * LIMITS.signal_bytes + b'"',
]


@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_signal_is_a_dead_letter_and_the_others_are_routed(redis, raw):
    play = Play(redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    await Coordinator(play.store).route([raw, *await play.signals(), raw])
    letters = await redis.xrange("wf.dead_letters")
    assert [fields[b"reason"] for _, fields in letters] == [b"malformed", b"malformed"]
    assert await play.counter("malformed") == 2
    assert await play.states() == [("b", "queued")]


async def test_a_signal_for_another_node_is_a_dead_letter(redis):
    play = Play(redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    (raw,) = await play.signals()
    await play.route([raw.replace(b'"node_id":"a"', b'"node_id":"b"')])
    assert await play.counter("wrong_node") == 1
    assert await play.states() == [("a", "running")]


STRANGE_RECORDS = [
    {"node": "a", "state": "running", "attempt": 1, "depth": 0, "arrivals": []},
    {"node": "a", "state": "running", "attempt": "1", "depth": None},
    {"node": "a", "state": 7, "attempt": 1, "depth": 0, "scope": []},
    {"node": "a"},
]


@pytest.mark.parametrize("record", STRANGE_RECORDS, ids=range(len(STRANGE_RECORDS)))
async def test_a_strange_record_beside_a_signal_disturbs_nothing(redis, record):
    play = Play(redis, CHAIN)
    await play.start()
    await play.execute((await play.tasks())[0])
    await play.settle()
    await play.execute((await play.tasks())[0])
    (raw,) = await play.signals()
    strange = {**orjson.loads(raw), "node_id": "a", "record": record}
    await play.route([orjson.dumps(strange), raw])
    assert await play.status() == "COMPLETED"


async def test_a_signal_that_names_another_node_moves_nothing(redis):
    play = Play(redis, CHAIN)
    await play.start()
    await play.route()
    await play.execute((await play.tasks())[0])
    (raw,) = await play.signals()
    await play.irs.get(play.ir.digest, "run_1")
    body = orjson.loads(raw)
    await play.route([orjson.dumps(body | {"node_id": "b", "record": body["record"] | {"node": "b"}})])
    assert await play.states() == [("a", "running")]
    assert await play.outputs() == {}
    await play.route([raw])
    assert await play.states() == [("b", "queued")]


async def test_values_that_nest_without_end_fail_their_run(redis):
    deeper = {"id": "deeper", "type": "transform", "config": {"set": {"x": "output"}}}
    again = {
        "id": "again", "type": "loop",
        "config": {"condition": {"type": "cel", "expression": "true"}, "loop_back_to": "deeper",
                   "max_iterations": 400, "break_path": []},
    }  # fmt: skip
    workflow = {
        "id": "w",
        "nodes": [task("a"), deeper, again],
        "edges": [{"from": "a", "to": "deeper"}, {"from": "deeper", "to": "again"}],
    }
    play = Play(redis, workflow)
    await play.start()
    await play.run_to_end()
    assert await play.status() == "FAILED"
    assert (await play.events())[-1].data["error"]["class"] == "too_large"


async def test_what_cannot_be_decided_ends_its_run_and_no_other(redis, monkeypatch):
    play = Play(redis, CHAIN)
    for run_id in ("run_1", "run_2"):
        await play.start(run_id)
    for waiting in await play.tasks():
        await play.execute(waiting)
    monkeypatch.setattr(signal_batch, "decide", _failing_for("run_1", play))
    await play.settle()
    assert await play.status("run_1") == "FAILED"
    assert (await play.events("run_1"))[-1].data["error"]["class"] == "internal"
    assert await play.states("run_2") == [("b", "queued")]


def _failing_for(run_id, play):
    def decide(ir, view, outcome, chance):
        if view.run.get("id") == run_id:
            raise RuntimeError("a fault of ours")
        return real_decide(ir, view, outcome, chance)

    return decide


async def test_a_result_that_is_not_there_is_no_outcome(redis):
    play = Play(redis, CHAIN, lambda task, _: {"text": "x" * 20_000})
    await play.start()
    await play.execute((await play.tasks())[0])
    (raw,) = await play.signals()
    body = orjson.loads(raw)
    await play.route([orjson.dumps(body | {"result_ref": "artifact://sha256-" + "0" * 64})])
    assert await play.states() == [("a", "running")]
    assert await play.counter("missing_artifact") == 1
    await play.route([raw])
    assert await play.states() == [("b", "queued")]


async def test_an_outside_worker_may_answer_without_claiming(redis):
    """Contract: a worker in any language reads a stream and pushes a signal."""
    play = Play(redis, CHAIN)
    await play.start()
    waiting = (await play.tasks())[0]
    signal = {"version": "1.0", "job_id": waiting.token_id, "run_id": "run_1", "node_id": "a", "status": "completed"}
    await play.route([orjson.dumps(signal | {"result_data": {"from": "outside"}})])
    assert await play.outputs() == {"a": {"from": "outside"}}
    assert await play.states() == [("b", "queued")]
    assert await redis.xlen("wf.tasks.function") == 1


async def test_what_conditions_read_comes_from_artifacts_too(redis):
    read = {
        "id": "w",
        "nodes": [
            task("a"),
            {
                "id": "choose",
                "type": "branch",
                "config": {
                    "rules": [
                        {"condition": {"type": "cel", "expression": "size(ctx.a.output.text) > 16384"}, "next": ["b"]}
                    ],
                    "default": [],
                },
            },
            task("b"),
        ],
        "edges": [{"from": "a", "to": "choose"}],
    }
    play = Play(redis, read, lambda task, _: {"text": "x" * 20_000})
    await play.start(input={"big": "y" * 20_000})
    await play.run_to_end()
    assert play.path() == ["a", "b"]
    assert await play.status() == "COMPLETED"


async def test_a_step_that_the_server_refuses_harms_no_other(redis):
    workflow = {"id": "o", "nodes": [task("a"), task("b")], "edges": edges("a > b")}
    play = Play(redis, workflow)
    await play.start()
    await play.start("run_2")
    one, two = await play.tasks()
    await play.finish(one, await play.claim(one), {})
    await play.finish(two, await play.claim(two), Failure("permanent", "no", False))
    await redis.delete("context:run_1")
    await redis.set("context:run_1", "x")  # of the wrong type
    await play.route()
    assert await play.status("run_2") == "FAILED"
    assert await play.counter("internal") == 1


async def test_a_record_beside_a_signal_with_another_scope_changes_nothing(redis):
    play = Play(redis, CHAIN)
    await play.start()
    (one,) = await play.tasks()
    await play.claim(one)
    play.irs._irs[play.ir.digest] = play.ir
    record = {"node": "a", "state": "running", "attempt": 1, "depth": 0, "scope": "1-0"}
    body = {"version": "1.0", "job_id": one.token_id, "run_id": "run_1", "node_id": "a", "attempt": 1}
    raw = orjson.dumps({**body, "status": "completed", "result_data": 1, "digest": play.ir.digest, "record": record})
    await play.route([raw])
    assert await redis.keys("*/*") == []
