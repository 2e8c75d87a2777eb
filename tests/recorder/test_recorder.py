"""The recorder on real servers: what it writes, what it leaves in Redis, and what stops it (nothing)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis

from coordinator.recorder import Recorder
from history.batches import NewBatch, NewItem
from history.history import History
from history.journal import Page, Written
from schemas.ir import IR, Analysis
from schemas.values import encode_value
from tests.recorder.stream import DIGEST, KEYS, NOW, Stream

LARGE = {"text": "x" * 20_000}


class Hook:
    """What a recorder tells its hooks, and how much it had recorded when it told of an older stream."""

    def __init__(self, recorder: Recorder) -> None:
        self.told: list[Set[str] | None] = []
        self.gaps: list[Set[str]] = []
        self.recorded: list[int] = []
        self.error: Exception | None = None
        self._recorder = recorder
        recorder.on_older, recorder.on_gap = self._older, self._gap

    async def _older(self, runs: Set[str] | None) -> None:
        self.told.append(runs)
        self.recorded.append(self._recorder.recorded)
        if self.error:
            raise self.error

    async def _gap(self, runs: Set[str]) -> None:
        self.gaps.append(runs)


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
    assert "events after 1 of run_1 are missing" in caplog.text


async def test_redis_that_came_back_older_is_never_mixed_in(
    redis: Redis, history: History, started, wait_until, database: psycopg.AsyncConnection
) -> None:
    items = [NewItem("older", None, "{}")]
    await history.batches.create(NewBatch("b1", "demo", 1, DIGEST, items, NOW))
    stream = Stream(redis)
    for run_id in ("older", "same"):
        await stream.begin(run_id)
        await stream.step(run_id, 1, "first")
        await stream.step(run_id, 2, "second")
    entries = await redis.xrange(KEYS.events)
    recorder, _ = started()
    hook = Hook(recorder)
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
    older = await history.runs.get("older")  # what diverged changes nothing
    assert older and (older["status"], older["seq"], older["diverged"]) == ("RUNNING", 3, True)
    batch = await history.batches.get("b1")
    assert batch and (batch["done"], batch["failed"]) == (0, 0)
    outputs = [event.data.get("outputs") for event in await history.events.after("older")]
    assert outputs == [None, {"n1": "first"}, {"n2": "second"}]
    cursor = await database.execute("SELECT run_id, seq, type FROM diverged_events ORDER BY seq")
    assert await cursor.fetchall() == [("older", 3, "node_completed"), ("older", 4, "run_completed")]
    await wait_until(lambda: hook.told == [{"older"}])
    stream.seqs["older"] = 3  # it is restored from what is recorded, and goes on
    await stream.add("older", "run_recovered", body={"from_seq": 3, "reason": "older", "by": "recorder"})
    await stream.step("older", 3, "last", last=True)
    await stream.end("older")
    await wait_until(lambda: recorder.recorded == 11)
    older = await history.runs.get("older")
    assert older and (older["status"], older["diverged"], older["output"]) == ("COMPLETED", False, "last")
    assert older["outputs"]["n2"] == "second"
    assert hook.told == [{"older"}]


async def test_an_older_stream_is_told_of_before_anything_of_it_is_recorded(
    redis: Redis, history: History, started, connect, wait_until
) -> None:
    stream = Stream(redis)
    await stream.whole("run_1")
    stop = asyncio.Event()
    first = Recorder(redis, KEYS, connect)
    task = asyncio.create_task(first.run(stop))
    await wait_until(lambda: first.recorded == 5)
    stop.set()
    await task
    await redis.flushdb()
    event = {"run": "run_2", "seq": 7, "type": "task_queued", "at": NOW, "node": "", "token": "", "scope": "",
             "body": "", "applied": ""}  # fmt: skip
    await redis.xadd(KEYS.events, event, id="5-0")
    recorder = Recorder(redis, KEYS, connect)
    hook = Hook(recorder)
    hook.error = TypeError("a hook that fails stops nothing")
    stop.clear()
    task = asyncio.create_task(recorder.run(stop))
    await wait_until(lambda: recorder.recorded == 1)
    await wait_until(lambda: hook.gaps == [{"run_2"}])
    assert (hook.told, hook.recorded) == ([None], [0])
    stop.set()
    await task


async def test_a_gap_is_told_of_again_by_the_next_recorder(redis: Redis, history: History, connect, wait_until) -> None:
    stream = Stream(redis)
    await stream.begin("run_1")
    stream.seqs["run_1"] = 4
    await stream.add("run_1", "task_queued")
    hooks = []
    for _ in range(2):
        stop, recorder = asyncio.Event(), Recorder(redis, KEYS, connect)
        hooks.append(Hook(recorder))
        task = asyncio.create_task(recorder.run(stop))
        await wait_until(lambda: hooks[-1].gaps)
        stop.set()
        await task
    assert [hook.gaps for hook in hooks] == [[{"run_1"}], [{"run_1"}]]


async def test_a_fork_has_a_row_that_says_from_where(redis: Redis, history: History, started, wait_until) -> None:
    text, artifact = encode_value(LARGE)
    assert artifact
    await redis.hset(KEYS.artifacts("fork"), artifact.name, artifact.packed)
    body = {"workflow_id": "demo", "version": 1, "revision": 2, "digest": DIGEST, "input": 1, "artifacts": [text],
            "forked_from": {"run_id": "run_1", "seq": 7}, "state": {}}  # fmt: skip
    stream = Stream(redis)
    await stream.add("fork", "run_forked", body=body)
    await stream.add("bad", "run_forked", body=body | {"forked_from": 7})
    recorder, _ = started()
    await wait_until(lambda: recorder.recorded == 1)
    run = await history.runs.get("fork")
    assert run and (run["forked_from"], run["forked_at"], run["revision"]) == ("run_1", 7, 2)
    assert await history.artifacts.get(artifact.name) == artifact.packed
    assert [event.type for event in await history.events.revisions("fork")] == ["run_forked"]


class Careful(Recorder):
    """Keeps the types of each page's events; `before` is awaited once, when a page is read and not written."""

    before: Callable[[], Awaitable[None]] | None = None

    async def _write_page(self, connection: psycopg.AsyncConnection, page: Page) -> Written:
        self.pages = [*getattr(self, "pages", []), [entry.type for entry in page.entries]]
        return await super()._write_page(connection, page)

    async def _artifacts(self, *given: Any) -> dict[str, bytes]:
        before, self.before = self.before, None
        if before:
            await before()
        return await super()._artifacts(*given)


async def test_a_page_never_ends_within_a_step(
    redis: Redis, history: History, started, wait_until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.recorder.READ_COUNT", 2)
    monkeypatch.setattr("coordinator.recorder.PAGE_COUNT", 2)
    stream = Stream(redis)
    for run_id in ("run_1", "run_2"):
        await stream.begin(run_id)
        await stream.step(run_id, 1, 1, last=True)
        await stream.end(run_id)
    recorder, _ = started(Careful)
    await wait_until(lambda: recorder.recorded == 6)
    assert recorder.pages == [["run_started", "node_completed", "run_completed"]] * 2


async def test_what_redis_lost_while_it_was_recorded_is_not_recorded(
    redis: Redis, history: History, started, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(redis)
    await stream.begin("run_1")
    await stream.step("run_1", 1, LARGE)

    async def emptied() -> None:
        await redis.flushdb()
        await Stream(redis).whole("run_2")

    with caplog.at_level(logging.WARNING):
        recorder, _ = started(Careful)
        recorder.before = emptied
        await wait_until(lambda: recorder.recorded == 5)
    assert await history.runs.get("run_1") is None
    assert (await history.runs.get("run_2") or {})["status"] == "COMPLETED"
    assert "lost what was just read" in caplog.text


async def test_an_artifact_that_alone_is_missing_stops_nothing(
    redis: Redis, history: History, started, wait_until, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream(redis)
    await stream.whole("run_1", steps=1, output=LARGE)
    await redis.delete(KEYS.artifacts("run_1"))
    with caplog.at_level(logging.ERROR):
        recorder, _ = started()
        await wait_until(lambda: recorder.recorded == 3)
    assert "is not in Redis" in caplog.text


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
