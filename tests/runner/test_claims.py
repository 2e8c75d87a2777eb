"""Claims: what comes of fetched entries, whatever is wrong with one of them or with the connection."""

from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from lua.run_store import RunStore
from schemas.ir import IR
from tests.runner.conftest import Serve, Signals
from tests.runner.workflows import IR_NOOP, STREAM, function, make_ir, noop, start


async def test_a_lost_answer_strands_nothing(
    store: RunStore, serve: Serve, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is cut when Redis has started the tasks, and the runner does not know."""
    start_task, cuts = store.start_task, iter([True])

    async def cut(claims: Any, runner_id: str) -> Any:
        answers = await start_task(claims, runner_id)
        if next(cuts, False):
            raise RedisConnectionError("cut")
        return answers

    monkeypatch.setattr(store, "start_task", cut)
    for n in range(5):
        await start(store, f"run_{n}", IR_NOOP)
    serve(handlers=[noop])
    assert {(s["attempt"], s["status"]) for s in await signals(5)} == {(1, "completed")}


async def test_a_cut_before_the_patched_ir_is_read(
    store: RunStore, serve: Serve, signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say(text: str) -> str:
        return text

    await start(store, "run_1", make_ir(function("a", "say", {"text": "old"})), outputs={"b": "new"})
    await patch(store, "run_1", make_ir(function("a", "say", {"text": "{{ ctx.b.output }}"}, reads=["b"])))
    ir_text, cuts = store.ir_text, iter([True])

    async def cut(run_id: str) -> Any:
        if next(cuts, False):
            raise RedisConnectionError("cut")
        return await ir_text(run_id)

    monkeypatch.setattr(store, "ir_text", cut)
    serve(handlers=[say])
    (signal,) = await signals(1)
    assert next(cuts, None) is None
    assert (signal["result_data"], signal["attempt"]) == ("new", 1)


async def test_a_run_whose_record_is_broken_harms_nobody(store: RunStore, serve: Serve, signals: Signals) -> None:
    for n in range(5):
        await start(store, f"run_{n}", IR_NOOP)
    await store.redis.hset(store.keys.tokens("run_2"), "run_2.1", "{")
    await store.redis.set(store.keys.ir("run_3"), "no IR")
    serve(handlers=[noop])  # long before anything is reclaimed
    answers = await signals(4)
    assert [(s["run_id"], s["attempt"]) for s in answers] == [(f"run_{n}", 1) for n in (0, 1, 3, 4)]


async def test_a_patched_run_is_executed_under_its_newest_revision(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    """The entry names the digest of before; what the node reads now is loaded."""

    def say(text: str) -> str:
        return text

    before = make_ir(function("a", "say", {"text": "old"}))
    after = make_ir(function("a", "say", {"text": "{{ ctx.b.output }}"}, reads=["b"]))
    serving = serve(handlers=[say])
    await start(store, "run_0", before)
    await signals(1)  # the runner knows the old IR
    await serving.stop()
    await start(store, "run_1", before, outputs={"b": "new"})
    await patch(store, "run_1", after)
    serve("r2", handlers=[say])
    assert (await signals(2))[1]["result_data"] == "new"


async def patch(store: RunStore, run_id: str, ir: IR) -> None:
    await store.redis.set(store.keys.ir(run_id), ir.text)
    await store.redis.hset(store.keys.run(run_id), mapping={"digest": ir.digest, "revision": 2})


async def test_entries_that_are_no_tasks(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> None:
    for fields in ({"hello": "world"}, {"run": b"\xff", "token": "t", "node": "a"}):
        await store.redis.xadd(STREAM, fields)
    await store.redis.xadd(STREAM, {"run": "nobody", "token": "nobody.1", "node": "a"})
    await start(store, "run_1", IR_NOOP)
    serve(handlers=[noop])
    await signals(1)

    async def cleared() -> bool:
        return await store.redis.xlen(STREAM) == 1  # the one that waits to be routed

    await wait_until(cleared)
    assert await store.redis.hget(store.keys.counters, "malformed_task") == b"2"
