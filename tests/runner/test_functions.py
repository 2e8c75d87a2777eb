"""Function tasks through a whole runner on real Redis: the signals that come out."""

import asyncio
import dataclasses
import os
import subprocess
import sys
import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from agent_runner.handlers import PermanentError
from lua.run_store import RunStore
from schemas.limits import LIMITS
from schemas.values import encode_value, pack, unpack
from tests.runner.conftest import FAST, Serve, Signals
from tests.runner.workflows import function, make_ir, start


async def double(x: int) -> int:
    return x * 2


def echo(**values: Any) -> Any:
    return values


def in_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


async def one(store: RunStore, signals: Signals, ir: Any, value: Any = None, **options: Any) -> dict[str, Any]:
    await start(store, "run_1", ir, value, **options)
    (signal,) = await signals(1)
    return signal


async def test_signal_of_a_completed_task(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[double])
    signal = await one(store, signals, make_ir(function("a", "double", {"x": "{{ input.n }}"})), {"n": 21})
    elapsed = signal["metadata"].pop("execution_time_ms")
    assert (signal.pop("record")["state"], signal.pop("digest")[:7]) == ("running", "sha256-")
    assert signal == {
        "version": "1.0", "job_id": "run_1.1", "run_id": "run_1", "node_id": "a", "attempt": 1,
        "status": "completed", "result_data": 42, "metadata": {"runner": "r1"},
    }  # fmt: skip
    assert 0 <= elapsed < 5_000
    assert await store.redis.hget(store.keys.outcomes("run_1"), "run_1.1") is not None
    # The entry stays pending until it is routed.
    assert (await store.redis.xpending("wf.tasks.function", "runners"))["pending"] == 1


async def test_plain_functions_run_in_threads(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[in_thread])
    assert (await one(store, signals, make_ir(function("a", "in_thread"))))["result_data"] is True


async def test_what_templates_see(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    args = {
        "input": "{{ input }}", "output": "{{ output }}",
        "other": "{{ ctx.other.output.score }}", "pass": "{{ iteration }}",
        "run": "{{ run.id }} {{ run.workflow_id }} {{ run.batch_id }} {{ run.key }}",
    }  # fmt: skip
    ir = make_ir(function("a", "echo", args, reads=["other"]))
    signal = await one(
        store,
        signals,
        ir,
        [1],
        arrived={"before": {"y": 2}},
        outputs={"other": {"score": 7}},
        batch_id="b_1",
        key="k_1",
    )
    assert signal["result_data"] == {
        "input": [1], "output": {"y": 2}, "other": 7, "pass": 0, "run": "run_1 made b_1 k_1",
    }  # fmt: skip


async def test_several_arrivals_at_a_waiting_node(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    ir = make_ir(function("a", "echo", {"all": "{{ output }}"}, waits=True))
    await start(store, "run_1", ir, arrived={"l": 1, "r": [2]})
    record = await store.redis.hget(store.keys.waiting("run_1"), "a")
    assert record is None  # nothing holds it back, so it was released
    (signal,) = await signals(1)
    assert signal["result_data"] == {"all": {"l": 1, "r": [2]}}


async def test_artifacts_come_as_their_values(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    long = {"text": "é" * 20_000}
    artifact = pack(long)
    args = {"n": "{{ size(input.text) + size(output.text) + size(ctx.b.output.text) }}"}
    ir = make_ir(function("a", "echo", args, reads=["b"]))
    signal = await one(store, signals, ir, long, arrived={"b": artifact}, outputs={"b": artifact}, artifacts=[artifact])
    assert signal["result_data"] == {"n": 60_000}


async def test_a_lost_artifact_fails_its_task(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    ir = make_ir(function("a", "echo", {"x": "{{ output }}"}))
    signal = await one(store, signals, ir, arrived={"b": pack("gone")})
    assert failure(signal) == ("not_found", False)


async def test_a_large_output_is_an_artifact(store: RunStore, serve: Serve, signals: Signals) -> None:
    def large() -> Any:
        return {"day": date(2020, 1, 2), "text": "x" * 20_000}

    serve(handlers=[large])
    signal = await one(store, signals, make_ir(function("a", "large")))
    assert "result_data" not in signal
    expected = {"day": "2020-01-02", "text": "x" * 20_000}
    assert signal["result_ref"] == encode_value(expected)[0]
    packed = await store.redis.hget(store.keys.artifacts("run_1"), signal["result_ref"].removeprefix("artifact://"))
    assert unpack(packed) == expected


def failure(signal: dict[str, Any]) -> tuple[str, bool]:
    assert signal["status"] == "failed"
    assert "result_data" not in signal
    return signal["metadata"]["error_type"], signal["metadata"]["retryable"]


def too_large() -> str:
    return "x" * (LIMITS.output_bytes + 1)


def too_deep() -> Any:
    value: Any = 1
    for _ in range(LIMITS.json_depth + 1):
        value = [value]
    return value


def as_deep_as_allowed() -> Any:
    value: Any = 1
    for _ in range(LIMITS.json_depth):
        value = [value]
    return value


def no_json() -> Any:
    return object()


def no_text() -> str:
    return "\ud800"


def raises() -> None:
    raise KeyError("gone \ud800")


def raises_permanent() -> None:
    raise PermanentError("never")


def exits() -> None:
    sys.exit(3)


def stops_iteration() -> None:
    next(iter(()))


async def cancels_itself() -> None:
    raise asyncio.CancelledError


async def exits_the_loop() -> None:
    raise SystemExit


@pytest.mark.parametrize(
    ("handler", "klass", "retryable", "says"),
    [
        (too_large, "too_large", False, "output_bytes"),
        (too_deep, "too_large", False, "json_depth"),
        (no_json, "handler", False, "not JSON"),
        (no_text, "handler", False, "not JSON"),
        (raises, "handler", True, "KeyError"),
        (raises_permanent, "handler", False, "never"),
        (exits, "handler", True, "SystemExit"),
        (stops_iteration, "handler", True, "StopIteration"),
        (cancels_itself, "handler", True, "CancelledError"),
        (exits_the_loop, "handler", True, "SystemExit"),
        (double, "invalid_input", False, "missing a required argument: 'x'"),
    ],
)  # fmt: skip
async def test_failures(
    handler: Any, klass: str, retryable: bool, says: str, store: RunStore, serve: Serve, signals: Signals
) -> None:
    serve(handlers=[handler])
    signal = await one(store, signals, make_ir(function("a", handler.__name__)))
    assert failure(signal) == (klass, retryable)
    assert says in signal["metadata"]["error_message"]


async def test_nesting_up_to_the_limit(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[as_deep_as_allowed])
    assert (await one(store, signals, make_ir(function("a", "as_deep_as_allowed"))))["status"] == "completed"


async def test_an_unknown_handler(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    signal = await one(store, signals, make_ir(function("a", "nobody")))
    assert failure(signal) == ("not_found", False)
    assert "'nobody'" in signal["metadata"]["error_message"]


async def test_a_template_error_names_its_expression(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[echo])
    signal = await one(store, signals, make_ir(function("a", "echo", {"x": "{{ input.missing }}"})), {})
    assert failure(signal) == ("template", False)
    assert "input.missing" in signal["metadata"]["error_message"]


@pytest.mark.parametrize("plain", [True, False])
async def test_timeout(plain: bool, store: RunStore, serve: Serve, signals: Signals) -> None:
    released = threading.Event()

    def hangs() -> None:
        released.wait(10)

    async def waits() -> None:
        await asyncio.Event().wait()

    serve(handlers=[hangs, waits])
    ir = make_ir(function("a", "hangs" if plain else "waits", timeout_ms=30))
    signal = await one(store, signals, ir)
    released.set()
    assert failure(signal) == ("timeout", True)


async def test_handlers_that_hang_hold_up_nobody(store: RunStore, serve: Serve, signals: Signals) -> None:
    released = threading.Event()

    def hangs() -> None:
        released.wait(30)

    serve(handlers=[hangs, in_thread], settings=dataclasses.replace(FAST, slots=2))
    for n in range(2):
        await start(store, f"run_{n}", make_ir(function("a", "hangs", timeout_ms=30)))
    await signals(2)
    await start(store, "run_2", make_ir(function("a", "in_thread", timeout_ms=5_000)))
    answers = await signals(3)
    released.set()
    assert [s["status"] for s in answers] == ["failed", "failed", "completed"]


async def test_a_process_ends_though_a_handler_does_not(
    store: RunStore, redis_url: str, tmp_path: Path, wait_until: Any
) -> None:
    source = "import pathlib, threading\ndef hangs(): pathlib.Path('entered').touch(); threading.Event().wait()\n"
    (tmp_path / "hanging.py").write_text(source)
    command = "runner --types function --handlers hanging --drain 0"
    environment = {**os.environ, "REDIS_URL": redis_url}
    process = subprocess.Popen([sys.executable, "-m", "pavane", *command.split()], cwd=tmp_path, env=environment)
    try:
        await start(store, "run_1", make_ir(function("a", "hangs")))
        await wait_until((tmp_path / "entered").exists, 30)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
    finally:
        process.kill()
        process.wait()
    consumers = await store.redis.xinfo_consumers("wf.tasks.function", "runners")
    assert [(c["name"], c["pending"]) for c in consumers] == [(b"~returned", 1)]  # for another runner


async def test_one_failure_leaves_the_others_alone(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[double])
    ir = make_ir(function("a", "double", {"x": "{{ 12 / input }}"}))
    for n in range(4):
        await start(store, f"run_{n}", ir, n)
    answers = {s["run_id"]: s.get("result_data", s["metadata"].get("error_type")) for s in await signals(4)}
    assert answers == {"run_0": "template", "run_1": 24, "run_2": 12, "run_3": 8}
