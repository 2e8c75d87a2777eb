"""GPUs that are shared: by runners, by parents and their children, by a hot model and a rare one."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agent_runner.engine_key import engine_key
from agent_runner.engines.engine import ChatReply, ChatRequest, Footprint, LoadReply, ToolCall
from lua.patching import Patch, Patched, Patching
from lua.run_store import RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.keys import agent_stream
from schemas.revision import revise
from tests.runner.conftest import FAST, IMPATIENT, Completed, Serve, Serving
from tests.runner.engine import ScriptedEngine
from tests.runner.workflows import agent, make_ir, start

GB = 10**9
GPU = dataclasses.replace(FAST, memory=8 * GB)
MANY = 40
"""Tasks that are worth a switch."""
TASK_S = 0.05


class Card(ScriptedEngine):
    """8 GB, on which each model takes 5.5: what is asked is there, what is loaded fits. Loads wait for `may_load`."""

    def __init__(self, answer: Any = lambda request: "ok", models: tuple[str, ...] = ("m", "n"), at: str = "") -> None:
        super().__init__(answer, models=models)
        self.url = f"http://gpu{at}"
        self.sizes = dict.fromkeys(models, Footprint(5 * GB, 0, None))
        self.may_load = asyncio.Event()
        self.may_load.set()

    async def load(self, model: str, options: Mapping[str, Any]) -> LoadReply:
        assert not self.memory, f"{model} beside {self.memory}"
        self.memory[model] = 0
        await self.may_load.wait()
        return await super().load(model, options)

    async def chat(self, request: ChatRequest) -> ChatReply:
        assert request.model in self.memory, f"{request.model} is asked, and {self.memory} is there"
        return await super().chat(request)


class Answers:
    """Wait, once `held` is cleared, until it is set."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.of: Counter[str] = Counter()  # answered, by prompt

    async def __call__(self, request: ChatRequest) -> str:
        await self.may_end.wait()
        self.of[request.prompt] += 1
        return "ok"


async def at_work(request: ChatRequest) -> str:
    await asyncio.sleep(TASK_S)
    return "ok"


async def queue(store: RunStore, model: str, count: int, name: str = "") -> None:
    """So many tasks in one run."""
    await start(store, f"run_{name or model}", make_ir(*(agent(f"a{n}", model=model) for n in range(count))))


def states(serving: Serving) -> dict[str, str]:
    assert serving.runner.gpu is not None
    return {pool: loaded.state for pool, loaded in serving.runner.gpu.residents.items()}


# -- several runners -----------------------------------------------------------------------------------
async def test_two_runners_never_make_the_same_switch(store: RunStore, serve: Serve, wait_until: Any) -> None:
    """Each model is worth a GPU, and not two: whoever comes second takes the other."""
    for _ in range(15):
        await store.redis.flushdb()
        answers = Answers()
        answers.may_end.clear()
        for model in ("m", "n"):
            await queue(store, model, MANY)
        cards = [Card(answers, at="1"), Card(answers, at="2")]
        serving = [serve(f"r{n}", engine=card, settings=GPU) for n, card in enumerate(cards)]
        await wait_until(lambda cards=cards: all(card.loaded for card in cards))
        assert sorted(card.loaded for card in cards) == [["m"], ["n"]]
        answers.may_end.set()
        await asyncio.gather(*(one.stop() for one in serving))


async def test_a_model_that_a_dead_runner_left_pinned_goes(store: RunStore, serve: Serve, completed: Completed) -> None:
    card = Card()
    card.memory["m"] = 5_500_000_000
    serve(engine=card, settings=GPU)
    await queue(store, "n", 1)
    await completed("run_n")
    assert (card.unloaded, card.loaded) == (["m"], ["n"])


async def test_what_a_dead_runner_held_is_done_though_its_stream_never_empties(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    await queue(store, "m", 3, "held")
    stream = store.keys.stream(agent_stream("m"))
    await store.redis.xgroup_create(stream, "runners", id="0", mkstream=True)
    await store.redis.xreadgroup("runners", "dead", {stream: ">"}, count=3)
    async with fed(store, "m"):
        serve(engine=Card(at_work), settings=IMPATIENT)
        await completed("run_held")


@asynccontextmanager
async def fed(store: RunStore, model: str) -> AsyncIterator[None]:
    """The model's stream never empties."""

    enough = asyncio.Event()

    async def feed() -> None:
        number = 0
        while not enough.is_set():
            if await queued(store, model) < MANY:
                await queue(store, model, MANY, f"fed_{number}")
                number += 1
            await asyncio.sleep(TASK_S / 10)

    feeding = asyncio.create_task(feed())
    try:
        while not await queued(store, model):
            await asyncio.sleep(TASK_S / 10)
        yield
    finally:
        enough.set()
        await feeding


async def queued(store: RunStore, model: str) -> int:
    return int(await store.redis.hget(store.keys.backlog, model) or 0)


async def test_a_rare_model_beside_a_hot_one(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    """Its turn comes by the ageing bound, and the hot one's again after it."""
    left: list[int] = []

    async def answer(request: ChatRequest) -> str:
        if request.model == "n":
            left.append(await queued(store, "m"))
        return await at_work(request)

    card = Card(answer)
    for model in ("m", "n"):  # known to load quickly: the bound follows from that, not from how busy this machine is
        await store.measure_model("gpu", model, "load_s", 0.02, 1.0)
        await store.measure_model("gpu", model, "drain_s", 0.02, 1.0)
    async with fed(store, "m"):
        serve(engine=card, settings=GPU)
        await wait_until(lambda: len(card.asked) > MANY)
        await queue(store, "n", 1, "rare")
        await wait_until(lambda: left, 40)
        asked = len(card.asked)
        await wait_until(lambda: len(card.asked) > asked + 2 * MANY)
    assert left[0] > 0, "the hot stream was empty, and anybody is served then"
    assert card.loaded == ["m", "n", "m"]


# -- a parent and its child on one GPU -----------------------------------------------------------------
CHILD = {"id": "child", "nodes": [{"id": "ask", "type": "agent", "config": {"model": "n", "prompt": "child"}}]}
TOOL = {"workflow": {"name": "child", "description": "Runs a workflow.", "document": CHILD}}
PARENT = make_ir(agent("a", prompt="parent", tools=[TOOL]))


class Family:
    """The parent's model calls the child, and says what it heard; the child's answers wait for `may_end`."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.children = 0

    async def child(self) -> str:
        self.children += 1
        await self.may_end.wait()
        return "heard"

    def __call__(self, request: ChatRequest) -> Any:
        if request.model == "n":
            return self.child()
        return "done" if request.turns else ChatReply("", 3, 2, 1, 7, [ToolCall("child", {})])


async def test_a_child_run_needs_the_gpu_of_its_parent(store: RunStore, serve: Serve, completed: Completed) -> None:
    family = Family()
    family.may_end.set()
    card = Card(family)
    serve(engine=card, settings=GPU)
    await start(store, "run_1", PARENT)
    await completed("run_1")
    assert card.loaded == ["m", "n", "m"]


async def test_many_parents_and_their_children_on_one_gpu(store: RunStore, serve: Serve, completed: Completed) -> None:
    """More than slots: no deadlock, and each child is asked once."""
    family = Family()
    family.may_end.set()
    card = Card(family)
    serve(engine=card, settings=GPU)
    count = 3 * GPU.slots
    for number in range(count):
        await start(store, f"run_{number}", PARENT)
    for number in range(count):
        await completed(f"run_{number}")
    assert family.children == count
    assert len(card.asked) == 3 * count
    assert len(card.loaded) <= count // 2, card.loaded


async def test_a_stop_while_parents_wait_for_their_children(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    """The stop is not kept waiting by them; the next runner asks again what was not answered."""
    family, count = Family(), 3 * GPU.slots
    for number in range(count):
        await start(store, f"run_{number}", PARENT)
    first = serve("r1", engine=Card(family), settings=dataclasses.replace(GPU, drain_ms=200))
    await wait_until(lambda: family.children)
    await first.stop()
    family.may_end.set()
    card = Card(family)
    serve("r2", engine=card, settings=GPU)
    for number in range(count):
        await completed(f"run_{number}")
    assert len(card.loaded) <= count // 2, card.loaded


async def test_who_loses_its_engine_lets_its_tasks_go(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    """Though it lives. The parent would wait for its model for as long as another runner has the engine."""
    family = Family()
    family.may_end.set()

    def answer(request: ChatRequest) -> Any:
        lost.may_load.clear()
        return family(request)

    lost = Card(answer)
    loser = serve("r1", engine=lost, settings=dataclasses.replace(GPU, reclaim_idle_ms=500))
    await start(store, "run_1", PARENT)
    await wait_until(lambda: states(loser) == {"n": "loading"})
    key = engine_key("http://gpu", "here")
    theirs = {"runner": "other", "gpu": "", "kind": "", "models": {}, "expires_at": await store.now() + 60_000}
    await store.redis.hset(store.keys.leases, key, json.dumps(theirs))
    await wait_until(lambda: loser.runner.description.state == "waiting")
    assert not states(loser)
    card = Card(family, at="2")
    serve("r2", engine=card, settings=dataclasses.replace(GPU, reclaim_idle_ms=500))
    await completed("run_1")
    assert [request.model for request in lost.asked] == ["m"]


# -- somebody edits a run meanwhile --------------------------------------------------------------------
def document(model: str, prompt: str) -> dict[str, Any]:
    return {"id": "one", "nodes": [{"id": "a", "type": "agent", "config": {"model": model, "prompt": prompt}}]}


async def move(store: RunStore, run_id: str, model: str) -> None:
    operations = [{"op": "replace", "path": "/nodes/a/config/model", "value": model}]
    (result,) = await Patching(store).patch_all([run_id], Patch(lambda ir: revise(ir, operations), {"by": "test"}))
    assert isinstance(result, Patched)


async def test_runs_are_edited_while_their_tasks_wait_at_a_model_that_drains(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    """Fetched ahead, they are not started yet: a pause, a cancel and a patch still count."""
    answers = Answers()
    card = Card(answers)
    serving = serve(engine=card, settings=GPU)
    await queue(store, "m", 200, "warm_up")
    await completed("run_warm_up")  # quickly, so that much is fetched ahead from now on
    answers.may_end.clear()
    runs = [f"run_{number}" for number in range(GPU.slots + 6)]
    for run_id in runs:
        await start(store, run_id, compile_workflow(document("m", run_id)).ir)
    await wait_until(lambda: len(serving.runner.executions) == GPU.slots and len(fetched(serving)) == 6)
    waiting = fetched(serving)
    await queue(store, "n", MANY)
    await wait_until(lambda: states(serving) == {"m": "draining"})
    paused, cancelled, moved, *others = waiting
    assert await store.pause_run(paused, {"by": "test"})
    assert await store.end_run(cancelled, "CANCELLED", {"by": "test"})
    await move(store, moved, "n")
    answers.may_end.set()
    for run_id in {*runs, "run_n"} - {paused, cancelled}:
        await completed(run_id)
    assert not answers.of[paused] + answers.of[cancelled]
    assert card.loaded == ["m", "n"]
    assert await store.resume_run(paused, {"by": "test"})
    await completed(paused)
    assert {answers.of[run_id] for run_id in (paused, moved, *others)} == {1}
    asked = {request.prompt: request.model for request in card.asked}
    assert (asked[moved], asked[paused]) == ("n", "m")


def fetched(serving: Serving) -> list[str]:
    """Runs whose task was fetched and waits for a slot."""
    return sorted(one.task.run_id for one in serving.runner._buffer._of("m"))


async def test_a_task_is_moved_to_a_model_that_is_just_loaded(
    store: RunStore, serve: Serve, completed: Completed, wait_until: Any
) -> None:
    card = Card(models=("m", "n", "o"))
    card.may_load.clear()
    serving = serve(engine=card, settings=GPU)
    await queue(store, "m", 1)
    await wait_until(lambda: states(serving) == {"m": "loading"})
    await start(store, "run_1", compile_workflow(document("n", "moved")).ir)
    await move(store, "run_1", "m")
    card.may_load.set()
    for run_id in ("run_m", "run_1"):
        await completed(run_id)
    assert card.loaded == ["m"]
