"""Agent tasks through a whole runner on real Redis and a scripted engine."""

import asyncio
import dataclasses
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from agent_runner.buffer import Buffer
from agent_runner.engines.engine import ChatRequest, EngineError
from agent_runner.executions import Executions
from agent_runner.gpu import Gpu
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.hands import Hands
from agent_runner.measures import Measures
from agent_runner.model_intake import ModelIntake
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from lua.run_store import RunStore
from schemas.keys import agent_stream
from schemas.limits import LIMITS
from tests.runner.conftest import FAST, Serve, Signals
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, function, make_ir, start

SCHEMA = {
    "type": "object",
    "required": ["score"],
    "properties": {"score": {"type": "integer", "minimum": 0}},
}


async def one(store: RunStore, signals: Signals, ir: Any, value: Any = None, **options: Any) -> dict[str, Any]:
    await start(store, "run_1", ir, value, **options)
    (signal,) = await signals(1)
    return signal


async def test_text_answer(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine(lambda request: "fine")
    serve(engine=engine)
    ir = make_ir(
        agent("a", prompt="Grade:\n{{ input.text }}", system="Be {{ input.mood }}.", options={"num_ctx": 4096},
              extra={"timeout_ms": 5_000})
    )  # fmt: skip
    signal = await one(store, signals, ir, {"text": "T", "mood": "kind"})
    assert signal["result_data"] == {"text": "fine"}
    assert signal["metadata"] == {
        "tool_calls": 0, "tokens_used": 5, "prompt_tokens": 3, "completion_tokens": 2, "execution_time_ms": 7,
        "llm_model": "m", "runner": "r1",
        "load_ms": 40,  # it was the first to use that load
        "wait_ms": 1, "gpu_ms": signal["metadata"]["gpu_ms"],
    }  # fmt: skip
    assert engine.asked == [ChatRequest("m", "Grade:\nT", 5.0, "Be kind.", None, {"num_ctx": 4096})]
    assert engine.loaded == ["m"]


async def test_one_task_carries_the_load_and_all_share_the_engines_time(
    store: RunStore, serve: Serve, signals: Signals
) -> None:
    async def answer(request: ChatRequest) -> str:
        if request.prompt == "refused":
            raise EngineError("invalid_input", "400")
        return "ok"

    serving = serve(engine=ScriptedEngine(answer))
    await start(store, "run_1", make_ir(*(agent(f"a{n}", prompt="refused" if n % 3 else "sound") for n in range(12))))
    told = [signal["metadata"] for signal in await signals(12)]
    assert {metadata.get("error_type") for metadata in told} == {None, "invalid_input"}
    assert sorted(metadata["load_ms"] for metadata in told) == [*[0] * 11, 40]
    assert {(metadata["llm_model"], metadata["runner"]) for metadata in told} == {("m", "r1")}
    assert serving.runner.gpu is not None
    busy_ms = serving.runner.gpu._time.busy_s * 1000
    assert sum(metadata["gpu_ms"] for metadata in told) == pytest.approx(busy_ms, abs=12 * 0.05 + 1e-6)


async def test_a_value_as_prompt_is_compact_json(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine()
    serve(engine=engine)
    await one(store, signals, make_ir(agent("a", prompt="{{ input }}")), {"k": [1, 2]})
    assert engine.asked[0].prompt == '{"k":[1,2]}'


async def test_json_answer(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine(lambda request: '{"score": 81}')
    serve(engine=engine)
    signal = await one(store, signals, make_ir(agent("a", response_format=SCHEMA)))
    assert signal["result_data"] == {"score": 81}
    assert engine.asked[0].response_format == SCHEMA


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Sure! {", "not JSON"),
        ("", "not JSON"),
        ('{"score": -1}', "$.score"),
        ('{"points": 3}', "'score' is a required property"),
        ('["score"]', "is not of type 'object'"),
        ('{"score": NaN}', "not JSON"),
        ('{"score": "\ud800"}', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
async def test_an_answer_that_misses_its_schema(
    text: str, says: str, store: RunStore, serve: Serve, signals: Signals
) -> None:
    serve(engine=ScriptedEngine(lambda request: text))
    metadata = (await one(store, signals, make_ir(agent("a", response_format=SCHEMA))))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == ("invalid_output", True)
    assert says in metadata["error_message"]
    assert (metadata["llm_model"], metadata["runner"], metadata["load_ms"]) == ("m", "r1", 40)
    assert metadata["raw"] == text.encode("utf-8", "replace").decode()[:16_384]
    assert metadata["completion_tokens"] == 2


async def test_lone_surrogates_in_a_text_answer(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(engine=ScriptedEngine(lambda request: "a\ud800b"))
    assert (await one(store, signals, make_ir(agent("a"))))["result_data"] == {"text": "a?b"}


async def test_a_prompt_over_the_limit(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine()
    serve(engine=engine)
    prompt = "{{ input }}" * 3
    signal = await one(store, signals, make_ir(agent("a", prompt=prompt)), "x" * (LIMITS.prompt_bytes // 3 + 1))
    # Whichever of the two bounds sees it first, the item fails for good and no model is asked.
    assert signal["metadata"]["error_type"] in ("too_large", "template")
    assert signal["metadata"]["retryable"] is False
    assert engine.asked == []


async def test_a_template_error(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine()
    serve(engine=engine)
    ir = make_ir(agent("a", prompt="{{ ctx.b.output.summary }}", reads=["b"]))
    metadata = (await one(store, signals, ir, outputs={"b": {"summary": None}}))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == ("template", False)
    assert (metadata["llm_model"], metadata["runner"]) == ("m", "r1")
    assert "ctx.b.output.summary" in metadata["error_message"]
    assert engine.asked == []


async def test_a_model_that_the_engine_lacks(store: RunStore, serve: Serve, signals: Signals, wait_until: Any) -> None:
    """Its tasks wait, and it is said why; those of others go on."""
    engine = ScriptedEngine()
    serve(engine=engine)
    await start(store, "run_1", make_ir(agent("a", model="unheard:7b")))
    await start(store, "run_2", make_ir(agent("a", model="m")))
    (present,) = await signals(1)
    assert present["status"] == "completed"
    shown = await wait_until(lambda: store.redis.hget(store.keys.model("unheard:7b"), "breaker|r1"))
    assert "'unheard:7b' is not on the engine" in orjson.loads(shown)["reason"]
    engine.held.append("unheard:7b")
    assert {signal["status"] for signal in await signals(2)} == {"completed"}


@pytest.mark.parametrize(("klass", "retryable"), [("timeout", True), ("invalid_input", False)])
async def test_engine_errors(klass: Any, retryable: bool, store: RunStore, serve: Serve, signals: Signals) -> None:
    def refuse(request: ChatRequest) -> str:
        raise EngineError(klass, "no")

    serve(engine=ScriptedEngine(refuse))
    metadata = (await one(store, signals, make_ir(agent("a"))))["metadata"]
    assert (metadata["error_type"], metadata["retryable"]) == (klass, retryable)


@pytest.mark.parametrize("klass", ["rate_limit", "engine_busy"])
async def test_a_busy_model_costs_no_attempt(klass: Any, store: RunStore, serve: Serve, signals: Signals) -> None:
    refusals = iter([True, True])

    def refuse_twice(request: ChatRequest) -> str:
        if next(refusals, False):
            raise EngineError(klass, "no")
        return "ok"

    serve(engine=ScriptedEngine(refuse_twice))
    signal = await one(store, signals, make_ir(agent("a")))
    assert (signal["status"], signal["attempt"]) == ("completed", 1)


async def test_timeout(store: RunStore, serve: Serve, signals: Signals) -> None:
    async def hang() -> str:
        await asyncio.Event().wait()
        return ""

    serve(engine=ScriptedEngine(lambda request: hang()))
    signal = await one(store, signals, make_ir(agent("a", extra={"timeout_ms": 30})))
    assert (signal["metadata"]["error_type"], signal["metadata"]["retryable"]) == ("timeout", True)


async def test_stays_with_a_model_until_its_stream_is_empty(
    store: RunStore, serve: Serve, signals: Signals, wait_until: Any
) -> None:
    order: list[str] = []

    def note(request: ChatRequest) -> str:
        order.append(request.model)
        return "ok"

    for n in range(30):
        await start(store, f"run_{n}", make_ir(agent("a", model="m"), agent("b", model="n")))
    await start(store, "run_30", make_ir(agent("b", model="n")))
    engine = ScriptedEngine(note)
    serving = serve(engine=engine)
    await signals(61)
    assert order == ["n"] * 31 + ["m"] * 30  # the longest stream first
    assert engine.loaded == ["n", "m"]
    await serving.runner.heartbeat.beat()
    assert await store.redis.hget(store.keys.model("n"), "loads") == b"1"
    beat = await store.redis.hgetall(store.keys.runner("r1"))
    assert (beat[b"focus_model"], beat[b"loads"], beat[b"residents"]) == (b"m", b"2", b"m")
    assert beat[b"reason"]


async def test_interactive_tasks_of_the_model_go_first(store: RunStore, serve: Serve, signals: Signals) -> None:
    order: list[str] = []

    def note(request: ChatRequest) -> str:
        order.append(request.prompt)
        return "ok"

    ir = make_ir(agent("a", prompt="{{ run.id }}"))
    for n in range(12):
        await start(store, f"run_{n}", ir)
    await start(store, "run_now", ir, priority="interactive")
    serve(engine=ScriptedEngine(note))
    await signals(13)
    assert order[0] == "run_now"


async def test_a_model_that_is_new_to_the_runner_wakes_it(store: RunStore, serve: Serve, signals: Signals) -> None:
    serve(engine=ScriptedEngine())
    await start(store, "run_1", make_ir(agent("a", model="m")))
    await signals(1)
    await start(store, "run_2", make_ir(agent("a", model="n")))
    await signals(2)


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent from here on: `pipeline`, or the name of a single command."""
    sent: list[str] = []
    execute, execute_command = Pipeline.execute, Redis.execute_command

    async def pipelined(self: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append("pipeline")
        return await execute(self, *args, **kwargs)

    async def alone(self: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(args[0])
        return await execute_command(self, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "execute", pipelined)
    monkeypatch.setattr(Redis, "execute_command", alone)
    return sent


def model_intake(store: RunStore, settings: RunnerSettings = FAST) -> ModelIntake:
    def changed() -> None:
        intake.wake()

    hands, measures = Hands(Buffer(), Executions()), Measures(store, "")
    gpu = Gpu(GuardedEngine(ScriptedEngine(), changed=changed), hands, measures, changed)
    intake = ModelIntake(
        store, Streams(store, "r1"), settings, hands, gpu, measures, engine="engine:80", runner_id="r1"
    )
    return intake


async def test_a_look_is_one_round_trip_however_many_models_there_were(store: RunStore, round_trips: list[str]) -> None:
    streams = [agent_stream(f"m{n}") for n in range(300)]
    await store.redis.sadd(store.keys.streams, *streams)
    for stream in streams[:20]:  # of these a stream is left, without a task
        await store.redis.xadd(stream, {"x": "y"}, maxlen=0, approximate=False)
    intake = model_intake(store, dataclasses.replace(FAST, block_ms=10_000))
    assert await intake.fetch() == []  # now it knows where the streams end
    round_trips.clear()
    waiting = asyncio.create_task(intake.fetch())
    while "EVALSHA" not in round_trips:
        await asyncio.sleep(0)
    intake.stop()
    assert await waiting == []
    assert [name for name in round_trips if name != "XREAD"] == ["EVALSHA"]
    assert len(await store.redis.keys("wf.tasks.*")) == 20
    await intake.close()


async def test_a_stream_that_does_not_exist_yet_is_waited_for(
    store: RunStore, round_trips: list[str], wait_until: Any
) -> None:
    await store.redis.sadd(store.keys.streams, agent_stream("m"))
    intake = model_intake(store, dataclasses.replace(FAST, block_ms=14_000))
    await intake.fetch()
    waiting = asyncio.create_task(intake.fetch())
    await wait_until(lambda: "XREAD" in round_trips)
    await start(store, "run_1", make_ir(agent("a")))
    assert await asyncio.wait_for(waiting, 10) == []  # long before the wait is over
    while not (fetched := await asyncio.wait_for(intake.fetch(), 10)):
        pass
    assert [one.task.run_id for one in fetched] == ["run_1"]
    await intake.close()


async def test_slots_bound_what_runs_at_once(store: RunStore, serve: Serve, signals: Signals) -> None:
    gate = asyncio.Event()

    async def pause() -> str:
        await gate.wait()
        return "ok"

    engine = ScriptedEngine(lambda request: pause())
    for n in range(20):
        await start(store, f"run_{n}", make_ir(agent("a")))
    serve(engine=engine)
    while engine.at_once < FAST.slots:
        await asyncio.sleep(0)
    pending = await store.redis.xpending(agent_stream("m"), "runners")
    assert pending["pending"] <= FAST.slots
    gate.set()
    await signals(20)
    assert engine.most_at_once == FAST.slots


async def test_what_was_loaded_is_let_go_at_the_end(store: RunStore, serve: Serve, signals: Signals) -> None:
    engine = ScriptedEngine()
    serving = serve(engine=engine)
    await one(store, signals, make_ir(agent("a")))
    await serving.stop()
    assert (engine.unloaded, engine.closed) == (["m"], True)


async def test_a_node_of_another_type_is_refused(store: RunStore, serve: Serve, signals: Signals) -> None:
    """Somebody's entry on the wrong stream."""
    serve(engine=ScriptedEngine())
    await start(store, "run_1", make_ir(function("a", "f")))
    record = orjson.loads(await store.redis.hget(store.keys.tokens("run_1"), "run_1.1"))
    fields = {"run": "run_1", "token": "run_1.1", "node": "a", "scope": "", "digest": ""}
    record["stream"] = agent_stream("m")
    record["entry"] = (await store.redis.xadd(agent_stream("m"), fields)).decode()
    await store.redis.hset(store.keys.tokens("run_1"), "run_1.1", orjson.dumps(record))
    await store.redis.sadd(store.keys.streams, agent_stream("m"))
    (signal,) = await signals(1)
    assert signal["metadata"]["error_type"] == "invalid_input"
