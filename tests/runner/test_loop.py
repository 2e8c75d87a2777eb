"""The runner's loop: nothing is lost, nothing counts twice, whoever dies."""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from agent_runner.handlers import Handlers
from agent_runner.nodes.function import FunctionNodes
from agent_runner.runner import Runner
from lua.run_store import Claim, Finish, RunStore
from schemas.expressions import parser
from schemas.expressions.expression import parse_expression
from schemas.keys import Keys
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Task, read_task
from tests.runner.conftest import FAST, IMPATIENT, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.gate import Gate
from tests.runner.workflows import IR_NOOP, STREAM, agent, function, make_ir, noop, start
from tests.servers import PrivateServers


async def take(store: RunStore, runner_id: str, stream: str = STREAM, *, begin: bool = True) -> tuple[Task, int]:
    """Claim the next task as a runner that dies then."""
    await store.redis.xgroup_create(stream, "runners", id="0", mkstream=True)
    ((_, [(entry, fields)]),) = await store.redis.xreadgroup("runners", runner_id, {stream: ">"}, count=1)
    task = read_task(stream, entry.decode(), {name.decode(): text.decode() for name, text in fields.items()})
    assert task is not None
    if not begin:
        return task, 0
    (started,) = await store.start_task([Claim(task, task.digest, (), None)], runner_id)
    assert started.state == "started"
    return task, started.attempt


async def test_many_tasks_each_executed_once(store: RunStore, serve: Serve, signals: Signals) -> None:
    executed: Counter[str] = Counter()

    async def count(run: str) -> str:
        executed[run] += 1
        return run

    ir = make_ir(function("a", "count", {"run": "{{ run.id }}"}))
    for name in ("r1", "r2"):
        serve(name, handlers=[count])
    for n in range(300):
        await start(store, f"run_{n}", ir)
    answers = await signals(300)
    assert {s["result_data"] for s in answers} == {f"run_{n}" for n in range(300)} == set(executed)
    assert set(executed.values()) == {1}


async def test_many_irs(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[noop])
    for n in range(40):
        await start(store, f"run_{n}", make_ir(function("a", "noop"), workflow_id=f"w_{n}"))
    assert {s["status"] for s in await signals(40)} == {"completed"}


async def test_a_dead_runners_task_is_executed_again(store: RunStore, serve: Serve, signals: Signals) -> None:
    await start(store, "run_1", IR_NOOP)
    await take(store, "dead")
    serve(handlers=[noop], settings=IMPATIENT)
    (signal,) = await signals(1)
    assert (signal["attempt"], signal["status"]) == (2, "completed")
    token = orjson.loads(await store.redis.hget(store.keys.tokens("run_1"), "run_1.1"))
    assert (token["runner"], token["interruptions"]) == ("r1", 1)


async def test_what_a_dead_runner_only_fetched_is_its_first_attempt(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    await start(store, "run_1", IR_NOOP)
    await take(store, "dead", begin=False)
    serve(handlers=[noop], settings=IMPATIENT)
    (signal,) = await signals(1)
    assert signal["attempt"] == 1


async def test_a_dead_runners_model_task_comes_back_too(store: RunStore, serve: Serve, signals: Signals) -> None:
    """Though nothing new is on that model's stream, and the runner serves another one."""
    await start(store, "run_1", make_ir(agent("a", model="n")))
    await take(store, "dead", "wf.tasks.agent.n")
    serve(engine=ScriptedEngine(), settings=IMPATIENT)
    await start(store, "run_2", make_ir(agent("a", model="m")))
    first, second = await signals(2)
    assert (first["attempt"], second["attempt"]) == (2, 1)


async def test_a_stored_outcome_is_signalled_and_not_executed_again(
    store: RunStore, serve: Serve, wait_until: Any
) -> None:
    gate = Gate()
    await start(store, "run_1", make_ir(function("a", "held")))
    task, attempt = await take(store, "dead")
    signal = CompletionSignal(task.token_id, "run_1", "a", attempt, "completed", 5)
    assert await store.finish_task([Finish(task, signal)]) == ["finished"]
    await store.redis.delete(store.keys.signals)  # a coordinator took it and died
    serve(handlers=[gate.handler], settings=IMPATIENT)

    async def signalled() -> int:
        return int(await store.redis.llen(store.keys.signals))

    await wait_until(signalled)
    assert gate.entered == 0


async def test_a_task_whose_runners_keep_dying_fails_for_good(store: RunStore, serve: Serve, signals: Signals) -> None:
    await start(store, "run_1", IR_NOOP)
    task, _ = await take(store, "dead")
    for _ in range(LIMITS.interruptions):
        (started,) = await store.start_task([Claim(task, task.digest, (), None, reclaimed=True)], "dead")
        assert started.state == "started"
    serve(handlers=[noop], settings=IMPATIENT)
    (signal,) = await signals(1)
    assert (signal["metadata"]["error_type"], signal["metadata"]["retryable"]) == ("interrupted", False)


async def test_a_zombies_outcome_changes_nothing(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    """It stood still while another runner took its task over; then it answers."""
    gate = Gate()
    serving = serve("zombie", handlers=[gate.handler])
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    execution = next(iter(serving.runner.executions))
    task = execution.work.task
    (started,) = await store.start_task([Claim(task, task.digest, (), None, reclaimed=True)], "other")
    assert started.attempt == 2
    gate.opened.set()

    async def fenced() -> Any:
        return await store.redis.hget(store.keys.counters, "fenced")

    assert await wait_until(fenced) == b"1"
    assert await store.redis.llen(store.keys.signals) == 0
    signal = CompletionSignal(execution.work.task.token_id, "run_1", "a", 2, "completed", "other's")
    await store.finish_task([Finish(execution.work.task, signal)])
    (counted,) = await signals(1)
    assert counted["result_data"] == "other's"


async def test_a_long_task_is_not_stolen(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> None:
    gate, settings = Gate(), dataclasses.replace(IMPATIENT, reclaim_idle_ms=200)
    serve("long", handlers=[gate.handler], settings=settings)
    await start(store, "run_1", make_ir(function("a", "held", timeout_ms=60_000)))
    await gate.reached()
    timer = "timeout run_1 run_1.1 1"
    deadline = await store.redis.zscore(store.keys.timers, timer)
    serve("thief", handlers=[gate.handler], settings=settings)

    async def held_long() -> bool:  # several times its idle limit, by the server's own clock
        return bool(await store.redis.zscore(store.keys.timers, timer) >= deadline + 600)

    await wait_until(held_long)
    gate.opened.set()
    (signal,) = await signals(1)
    assert (signal["attempt"], gate.entered) == (1, 1)


async def test_a_start_that_takes_long_is_not_taken_over_by_the_same_runner(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    gate, starting = Gate(), asyncio.Event()
    start_task = store.start_task

    async def slow(claims: Any, runner_id: str) -> Any:
        starting.set()
        await may_start.wait()
        return await start_task(claims, runner_id)

    may_start = asyncio.Event()
    store.start_task = slow  # type: ignore[method-assign]
    await start(store, "run_1", make_ir(function("a", "held")))
    serve(handlers=[gate.handler], settings=IMPATIENT)
    await starting.wait()

    async def reclaimed() -> bool:  # it has asked for idle entries since, and got its own
        (entry,) = await store.redis.xpending_range(STREAM, "runners", "-", "+", 1)
        return int(entry["times_delivered"]) > 1

    await wait_until(reclaimed)
    may_start.set()
    await gate.reached()
    gate.opened.set()
    (signal,) = await signals(1)
    assert (signal["attempt"], gate.entered) == (1, 1)


async def test_after_standing_still_it_takes_up_its_own_task(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    gate = Gate()
    serving = serve(handlers=[gate.handler], settings=dataclasses.replace(IMPATIENT, reclaim_ms=200))
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    execution = next(iter(serving.runner.executions))
    execution.doubtful = True  # as the heartbeat marks it: not refreshed, so that another runner may have it
    await wait_until(lambda: not execution.doubtful)
    gate.opened.set()
    (signal,) = await signals(1)
    assert (signal["attempt"], gate.entered) == (1, 1)


async def test_the_parser_is_there_before_there_is_a_lease(
    store: RunStore, serve: Serve, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first task would hold up the loop, and with it the renewal."""
    parser._celpy.cache_clear()
    parse_expression.cache_clear()
    was_there: list[bool] = []
    ask = store.lease_models

    async def noted(*args: Any, **more: Any) -> Any:
        was_there.append(parser._celpy.cache_info().currsize == 1)
        return await ask(*args, **more)

    monkeypatch.setattr(store, "lease_models", noted)
    serve(engine=ScriptedEngine())
    await wait_until(lambda: was_there)
    assert was_there[0]


async def test_an_engine_that_is_away_holds_its_stream(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    engine = ScriptedEngine()
    serving = serve("r1", dataclasses.replace(FAST, prefetch=4), engine=engine)
    await start(store, "run_0", make_ir(agent("a", extra={"timeout_ms": 50})))
    await signals(1)
    engine.away = True
    for n in range(1, 30):
        await start(store, f"run_{n}", make_ir(agent("a", extra={"timeout_ms": 50})))

    async def held() -> bool:
        return await store.redis.hget(store.keys.runner("r1"), "state") == b"held"

    await wait_until(held)
    beat = await store.redis.hgetall(store.keys.runner("r1"))
    assert beat[b"held"] == b"no engine at http://engine"
    assert int(beat[b"held_since"]) > 0
    shown = await wait_until(lambda: store.redis.hget(store.keys.model("m"), "breaker|r1"))  # by the same beat, later
    breaker = orjson.loads(shown)
    assert (breaker["state"], breaker["runner"]) == ("open", "r1")
    pending = (await store.redis.xpending("wf.tasks.agent.m", "runners"))["pending"]
    await serving.runner.heartbeat.beat()
    # Nothing more is claimed, and nothing fails, whatever the tasks' timeouts.
    assert (await store.redis.xpending("wf.tasks.agent.m", "runners"))["pending"] == pending < 20
    assert await store.redis.llen(store.keys.signals) == 1
    engine.away = False
    answers = await signals(30)
    assert {(s["status"], s["attempt"]) for s in answers} == {("completed", 1)}

    async def shown_as_back() -> bool:
        return not await store.redis.hexists(store.keys.model("m"), "breaker|r1")

    await wait_until(shown_as_back)


async def test_redis_that_comes_back_empty(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(handlers=[noop])
    await start(store, "run_1", IR_NOOP)
    await signals(1)
    await store.redis.flushdb()
    await start(store, "run_2", IR_NOOP)
    (signal,) = await signals(1)
    assert signal["run_id"] == "run_2"


async def test_redis_that_is_killed_and_comes_back(private_servers: PrivateServers, wait_until: Any) -> None:
    server = private_servers.valkey()
    redis: Redis = Redis.from_url(server.url)
    store = RunStore(redis, Keys())
    gate, stop = Gate(), asyncio.Event()
    runner = Runner(store, "r1", IMPATIENT, nodes={"function": FunctionNodes(Handlers([gate.handler]))})
    serving = asyncio.create_task(runner.run(stop))
    for n in range(3):
        await start(store, f"run_{n}", make_ir(function("a", "held")))
    await gate.reached(3)
    await asyncio.to_thread(server.kill)
    gate.opened.set()
    await wait_until(lambda: runner.executions.running == 0)
    await asyncio.to_thread(server.start)

    async def stored() -> bool:
        return len({orjson.loads(raw)["run_id"] for raw in await redis.lrange(store.keys.signals, 0, -1)}) == 3

    await wait_until(stored, 20)
    stop.set()
    await serving
    await redis.aclose()


async def test_a_prefix_is_kept_to(redis: Redis, wait_until: Any) -> None:
    store = RunStore(redis, Keys("{s3}:"))
    await start(store, "run_1", IR_NOOP)
    await start(store, "run_2", make_ir(agent("a")))
    stop = asyncio.Event()
    runners = [
        Runner(store, "r1", FAST, nodes={"function": FunctionNodes(Handlers([noop]))}),
        Runner(store, "r2", FAST, engine=ScriptedEngine()),
    ]
    serving = [asyncio.create_task(runner.run(stop)) for runner in runners]

    async def both() -> bool:
        return await redis.llen(store.keys.signals) == 2

    await wait_until(both)
    stop.set()
    await asyncio.gather(*serving)
    assert [key for key in await redis.keys() if not key.startswith(b"{s3}:")] == []


async def test_heartbeat(store: RunStore, serve: Serve, wait_until: Any) -> None:
    serve(handlers=[noop], settings=dataclasses.replace(FAST, gpu="none"))

    async def beat() -> Any:
        return await store.redis.hgetall(store.keys.runner("r1"))

    fields = await wait_until(beat)
    assert (fields[b"state"], fields[b"slots"], fields[b"gpu"], fields[b"types"]) == (
        b"idle",
        b"8",
        b"none",
        b"function",
    )
    assert 0 < await store.redis.pttl(store.keys.runner("r1")) <= FAST.heartbeat_ttl_ms
    assert abs(await store.redis.zscore(store.keys.runners, "r1") - await store.now()) < 5_000
