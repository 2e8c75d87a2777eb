"""The recorder on real servers: what it writes, what it leaves in Redis, and what stops it (nothing)."""

import asyncio
import logging

import psycopg
import pytest
from redis.asyncio import Redis

from coordinator.recorder import Recorder
from history.batches import NewBatch, NewItem
from history.history import History
from schemas.ir import IR, Analysis
from tests.recorder.stream import DIGEST, KEYS, NOW, Stream

LARGE = {"text": "x" * 20_000}


async def test_a_run_is_recorded_and_leaves_the_stream(redis: Redis, history: History, started, wait_until) -> None:
    stream = Stream(redis)
    await stream.whole("run_1", labels={"a": "b"}, key="k")
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 5)
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"], run["output"]) == ("COMPLETED", 5, {"step": 3})
    assert (run["outputs"], run["input"]) == ({f"n{n}": {"step": n} for n in (1, 2, 3)}, "run_1")
    await wait_until(lambda: _length_is(redis, 0))
    state = await history.events.state("run_1")
    assert state and (state.status, state.live, state.tokens) == ("COMPLETED", 0, {})
    assert [event.at for event in await history.events.after("run_1")] == [NOW + n for n in range(1, 6)]
    await stream.whole("run_2")
    await wait_until(lambda: recorder.recorded == 10)


async def test_a_run_is_seen_while_it_goes_on(redis: Redis, history: History, started, wait_until) -> None:
    stream = Stream(redis)
    await stream.begin("run_1")
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 1)
    await stream.step("run_1", 1, 7)
    await wait_until(lambda: recorder.recorded == 2)
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["seq"]) == ("RUNNING", 2)
    await stream.end("run_1", "run_cancelled", by="me", reason="enough")
    await wait_until(lambda: recorder.recorded == 3)
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["error"]) == ("CANCELLED", {"by": "me", "reason": "enough"})


async def test_artifacts_and_irs_are_kept_before_their_keys_go(
    redis: Redis, history: History, started, wait_until
) -> None:
    ir = IR.build({"id": "demo", "nodes": [{"id": "a", "type": "join"}]}, ("a",), {"a": Analysis(0)})
    await redis.set(KEYS.ir("run_1"), ir.text)
    stream = Stream(redis)
    await stream.whole("run_1", output=LARGE, digest=ir.digest)
    for n in range(150):  # more artifacts than one page takes
        await stream.whole(f"more_{n}", steps=1, output={"text": str(n) * 17_000})
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 5 + 150 * 3)
    await redis.flushdb()
    run = await history.runs.get("run_1")
    assert run and run["output"] == LARGE
    assert await history.workflows.ir(ir.digest) == ir.text
    assert await history.workflows.ir(DIGEST) is None
    last = await history.runs.get("more_149")
    assert last and last["output"] == {"text": "149" * 17_000}


async def test_batches_are_counted_and_end(redis: Redis, history: History, started, wait_until) -> None:
    items = [NewItem(f"run_{n}", None, "{}") for n in range(3)]
    await history.batches.create(NewBatch("b1", "demo", 1, DIGEST, items, NOW))
    async with history.batches.claim("b1", 3):
        pass
    stream = Stream(redis)
    await stream.whole("run_0", batch_id="b1")
    await stream.whole("run_1", batch_id="b1")
    await stream.begin("run_2", batch_id="b1")
    await stream.end("run_2", "run_failed", error={"class": "x"})
    started()
    row = await wait_until(lambda: _ended(history, "b1"))
    assert (row["status"], row["done"], row["failed"]) == ("COMPLETED", 2, 1)
    results = [(r["status"], r["output"]) async for r in history.runs.results("b1")]
    assert results == [("COMPLETED", {"step": 3}), ("COMPLETED", {"step": 3}), ("FAILED", None)]


async def test_what_is_no_event_goes_to_the_dead_letters_and_stops_nothing(
    redis: Redis, history: History, started, wait_until
) -> None:
    stream = Stream(redis)
    await stream.begin("run_1")
    await redis.xadd(KEYS.events, {"any": "thing"})
    good = {"run": "x", "seq": 1, "type": "task_queued", "at": 1, "node": "", "token": "", "scope": "", "body": "",
            "applied": ""}  # fmt: skip
    bad = [
        {"run": "a\tb"}, {"run": "é"}, {"seq": "0"}, {"seq": "1e9"}, {"at": "9" * 30}, {"body": "{"},
        {"body": "nonsense"}, {"body": b"\xff"}, {"type": "run_started", "body": "{}"},
        {"type": "run_started", "body": "[]"}, {"body": '{"stored":["artifact://sha256-1"]}'},
    ]  # fmt: skip
    for number, fields in enumerate(bad):
        await redis.xadd(KEYS.events, {**good, "run": f"bad_{number}", **fields})
    odd = {"n": "\0 \\ \t \n ☃ '", "key\0": ["\\N", "\\."]}
    await stream.step("run_1", 1, odd, last=True)
    await stream.end("run_1")
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 3)
    assert recorder.malformed == len(bad) + 1
    letters = [fields for _, fields in await redis.xrange(KEYS.dead_letters)]
    assert len(letters) == len(bad) + 1
    assert letters[0][b"detail"] == b"any thing"
    assert {letter[b"reason"] for letter in letters} == {b"event"}
    run = await history.runs.get("run_1")
    assert run and run["output"] == odd


async def test_json_with_white_space_is_an_event_too(redis: Redis, history: History, started, wait_until) -> None:
    body = '{\n\t"workflow_id": "demo",\r\n "revision": 1, "digest": "sha256-1", "input": "a b"\n}'
    fields = {"run": "r", "seq": 1, "type": "run_started", "at": NOW, "node": "", "token": "", "scope": "",
              "body": body, "applied": '{"live": 1}'}  # fmt: skip
    await redis.xadd(KEYS.events, fields)
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 1)
    state = await history.events.state("r")
    assert state and (state.input, state.live) == ("a b", 1)


async def test_a_run_whose_events_are_not_whole_still_ends(
    redis: Redis, history: History, started, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(redis)
    await stream.begin("run_1")
    stream.seqs["run_1"] = 4
    await stream.end("run_1", "run_failed", error={"class": "x"})
    with caplog.at_level(logging.ERROR):
        recorder, _ = started()
        await wait_until(lambda: recorder.recorded == 2)
    run = await history.runs.get("run_1")
    assert run and (run["status"], run["error"], run["outputs"]) == ("FAILED", {"class": "x"}, {})
    assert "event 5 of run_1 after event 1" in caplog.text


async def test_redis_that_came_back_older_is_never_mixed_in(
    redis: Redis, history: History, started, wait_until, database: psycopg.AsyncConnection
) -> None:
    stream = Stream(redis)
    for run_id in ("older", "same"):
        await stream.begin(run_id)
        await stream.step(run_id, 1, "first")
        await stream.step(run_id, 2, "second")
    entries = await redis.xrange(KEYS.events)
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 6)
    for _, fields in entries:  # Redis forgot the last step of `older`, and that everything was recorded
        if fields[b"run"] == b"same" or fields[b"seq"] != b"3":
            await redis.xadd(KEYS.events, fields)
    stream.seqs["older"] = 2
    await stream.step("older", 2, "another", last=True)
    await stream.end("older")
    await stream.step("same", 3, "third", last=True)
    await stream.end("same")
    await wait_until(lambda: recorder.recorded == 8)
    assert (recorder.repeated, recorder.diverged) == (5, 2)
    same = await history.runs.get("same")
    assert same and (same["status"], same["output"], same["diverged"]) == ("COMPLETED", "third", False)
    older = await history.runs.get("older")
    assert older and (older["status"], older["seq"], older["diverged"]) == ("COMPLETED", 3, True)
    outputs = [event.data.get("outputs") for event in await history.events.after("older")]
    assert outputs == [None, {"n1": "first"}, {"n2": "second"}]
    cursor = await database.execute("SELECT run_id, seq, type FROM diverged_events ORDER BY seq")
    assert await cursor.fetchall() == [("older", 3, "node_completed"), ("older", 4, "run_completed")]


async def test_it_stops_at_once(redis: Redis, history: History, connect, wait_until) -> None:
    stop = asyncio.Event()
    recorder = Recorder(redis, KEYS, connect)
    task = asyncio.create_task(recorder.run(stop))
    await wait_until(lambda: recorder.state == "recording")
    stop.set()
    await asyncio.wait_for(task, 2)


async def _length_is(redis: Redis, length: int) -> bool:
    return bool(await redis.xlen(KEYS.events) == length)


async def _ended(history: History, batch_id: str):
    row = await history.batches.get(batch_id)
    return row if row and row["ended_at"] else None
