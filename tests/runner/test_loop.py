"""The runner's loop: nothing is lost, nothing counts twice, whoever dies."""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import orjson
from redis.asyncio import Redis

from agent_runner.handlers import Handlers
from agent_runner.runner import Runner
from agent_runner.settings import RunnerSettings
from lua.run_store import Claim, Finish, RunStore
from schemas.ir import IR
from schemas.keys import Keys
from schemas.limits import LIMITS
from schemas.messages import CompletionSignal, Task
from tests.runner.conftest import FAST, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, function, make_ir, start
from tests.servers import PrivateServers

STREAM = "wf.tasks.function"
IMPATIENT = dataclasses.replace(FAST, heartbeat_ms=20, reclaim_idle_ms=80)


async def noop() -> int:
    return 1


IR_NOOP = make_ir(function("a", "noop"))


class Gate:
    """A handler that waits until the test opens it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = 0

        async def held() -> str:
            self.entered += 1
            await self.opened.wait()
            return "through"

        self.handler = held

    async def reached(self, count: int = 1) -> None:
        async with asyncio.timeout(10):
            while self.entered < count:
                await asyncio.sleep(0)


async def take(store: RunStore, runner_id: str, stream: str = STREAM, *, begin: bool = True) -> tuple[Task, int]:
    """Claim the next task as a runner that dies then."""
    await store.redis.xgroup_create(stream, "runners", id="0", mkstream=True)
    ((_, [(entry, fields)]),) = await store.redis.xreadgroup("runners", runner_id, {stream: ">"}, count=1)
    task = Task(
        fields[b"run"].decode(), fields[b"token"].decode(), fields[b"node"].decode(), "", "", stream, entry.decode()
    )
    if not begin:
        return task, 0
    (started,) = await store.start_task([Claim(task, (), None)], runner_id)
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
        (started,) = await store.start_task([Claim(task, (), None, reclaimed=True)], "dead")
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
    (started,) = await store.start_task([Claim(execution.work.task, (), None, reclaimed=True)], "other")
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


async def test_a_long_task_is_not_stolen(store: RunStore, serve: Serve, signals: Signals) -> None:
    gate = Gate()
    serve("long", handlers=[gate.handler], settings=IMPATIENT)
    await start(store, "run_1", make_ir(function("a", "held", timeout_ms=60_000)))
    await gate.reached()
    deadline = await store.redis.zscore(store.keys.timers, "timeout run_1 run_1.1 1")
    serve("thief", handlers=[gate.handler], settings=IMPATIENT)
    async with asyncio.timeout(10):  # several times its idle limit, by the server's own clock
        while await store.redis.zscore(store.keys.timers, "timeout run_1 run_1.1 1") < deadline + 400:
            await asyncio.sleep(0.01)
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


async def test_stop_lets_running_tasks_end_and_hands_the_others_back(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    gate = Gate()
    one_slot = dataclasses.replace(FAST, slots=1)
    leaving = serve("leaving", one_slot, handlers=[gate.handler])
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    await start(store, "run_2", make_ir(function("a", "held")))
    fetched = await leaving.runner.streams.read([STREAM], 1)
    leaving.runner._take_in(fetched)  # fetched ahead, its slot is taken
    stopping = asyncio.create_task(leaving.stop())
    while not leaving.runner._stopping.is_set():
        await asyncio.sleep(0)
    gate.opened.set()
    await stopping
    (signal,) = await signals(1)
    assert signal["run_id"] == "run_1"
    assert await store.redis.exists(store.keys.runner("leaving")) == 0
    assert await store.redis.zrange(store.keys.runners, 0, -1) == []
    # At the first look of another runner, long before its idle limit.
    serve("other", handlers=[gate.handler])
    _, second = await signals(2)
    assert (second["run_id"], second["attempt"]) == ("run_2", 1)


async def test_what_does_not_end_within_the_drain_is_handed_back(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    gate = Gate()
    leaving = serve("leaving", dataclasses.replace(FAST, drain_ms=20), handlers=[gate.handler])
    await start(store, "run_1", make_ir(function("a", "held")))
    await gate.reached()
    await leaving.stop()
    gate.opened.set()
    serve("other", handlers=[gate.handler])
    (signal,) = await signals(1)
    assert (signal["attempt"], signal["result_data"]) == (2, "through")


async def test_an_engine_that_is_away_holds_its_stream(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    engine = ScriptedEngine()
    serving = serve(engine=engine)
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
    breaker = orjson.loads(await store.redis.hget(store.keys.model("m"), "breaker"))
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
        return not await store.redis.hexists(store.keys.model("m"), "breaker")

    await wait_until(shown_as_back)


async def test_stop_while_the_engine_is_away(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> None:
    engine = ScriptedEngine()
    engine.away = True
    leaving = serve("leaving", dataclasses.replace(FAST, drain_ms=60_000), engine=engine)
    await start(store, "run_1", make_ir(agent("a")))
    await wait_until(lambda: leaving.runner._held)
    await asyncio.wait_for(leaving.stop(), 10)  # nothing to drain: it would wait for the engine
    assert await store.redis.llen(store.keys.signals) == 0
    serve("other", engine=ScriptedEngine())
    (signal,) = await signals(1)
    assert signal["status"] == "completed"


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


async def test_a_run_whose_record_is_broken_harms_nobody(store: RunStore, serve: Serve, signals: Signals) -> None:
    for n in range(5):
        await start(store, f"run_{n}", IR_NOOP)
    await store.redis.hset(store.keys.tokens("run_2"), "run_2.1", "{")
    await store.redis.set(store.keys.ir("run_3"), "no IR")
    serve(handlers=[noop], settings=IMPATIENT)
    assert [s["run_id"] for s in await signals(4)] == ["run_0", "run_1", "run_3", "run_4"]


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
    runner = Runner(store, "r1", IMPATIENT, handlers=Handlers([gate.handler]))
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
        Runner(store, "r1", FAST, handlers=Handlers([noop])),
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


def test_settings_that_make_no_sense() -> None:
    for wrong in ({"slots": 0}, {"heartbeat_ms": 20_000}, {"reclaim_idle_ms": 1_000}):
        try:
            RunnerSettings(**wrong)
        except ValueError:
            continue
        raise AssertionError(wrong)
