"""Past states: what GET /runs/{id} answered while runs went on is what their events say, long after."""

import asyncio
from functools import partial
from typing import Any

import psycopg

from coordinator.recorder import Recorder
from lua.run_store import RunStore
from schemas.messages import Failure
from tests.api.conftest import Api, PlayAll
from tests.recorder.stream import Stream

SAMPLED: dict[str, Any] = {
    "id": "sampled",
    "nodes": [
        {"id": "draft", "type": "function", "config": {"handler": "draft"}},
        {"id": "note", "type": "function", "config": {"handler": "note"}},
        {"id": "both", "type": "join", "config": {}},
        {"id": "again", "type": "loop",
         "config": {"condition": {"type": "cel", "expression": "iteration < 2"}, "loop_back_to": "polish",
                    "max_iterations": 3, "break_path": ["all"]}},
        {"id": "polish", "type": "function", "config": {"handler": "polish"}},
        {"id": "all", "type": "map",
         "config": {"items": "input.names", "edges": [],
                    "nodes": [{"id": "judge", "type": "function", "config": {"handler": "judge"}}]}},
        {"id": "send", "type": "function", "config": {"handler": "send"}, "retry": {"max_attempts": 2}},
    ],
    "edges": [
        {"from": "draft", "to": "both"}, {"from": "note", "to": "both"}, {"from": "both", "to": "polish"},
        {"from": "polish", "to": "again"}, {"from": "all", "to": "send"},
    ],
}  # fmt: skip
SHARED = (
    "run_id", "seq", "status", "workflow_id", "version", "revision", "batch_id", "key", "labels", "priority", "parent",
    "input", "outputs", "output", "error", "counter", "created_at", "ended_at",
)  # fmt: skip
LARGE = {"text": "x" * 20_000}


def answer(task: Any, started: Any) -> Any:
    if task.node_id == "send" and (task.run_id == "run_bad" or started.attempt == 1):
        return Failure("timeout", "it took too long", retryable=True)
    return LARGE if task.node_id == "note" else {"node": task.node_id}


class Watched(PlayAll):
    """Waits after every claim, and after every routed signal, until somebody has looked."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.looked = asyncio.Event()

    async def look(self) -> None:
        for _ in range(2):  # what is being read now may have begun before
            self.looked.clear()
            await self.looked.wait()

    async def claim(self, *given: Any, **more: Any) -> Any:
        started = await super().claim(*given, **more)
        await self.look()
        return started

    async def route(self, raws: Any = None) -> int:
        routed = await super().route(raws)
        if routed:
            await self.look()
        return routed


def shared(run: dict[str, Any]) -> dict[str, Any]:
    """What both answers have, but for what is read a moment later than the rest: usage, and how far a map is."""
    tokens = [(token["token_id"], token["node_id"], token["state"], token["attempt"]) for token in run["live_tokens"]]
    return {name: run[name] for name in SHARED} | {"tokens": tokens}


async def test_what_was_answered_while_runs_went_on(api: Api, record: Any) -> None:
    names = {"names": ["a", "b", "c"]}
    runs = [await api.start(SAMPLED, names, run_id=run_id) for run_id in ("run_good", "run_bad")]
    samples: list[dict[str, Any]] = []
    over = asyncio.Event()

    async def sample() -> None:
        while not over.is_set():
            samples.extend([await api.get(f"/runs/{run_id}") for run_id in runs])
            play.looked.set()

    play = Watched(api.store.redis, SAMPLED, answer, api.store.keys)
    sampling = asyncio.create_task(sample())
    for task in await play.tasks():
        await play.execute(task)
        await play.settle()
    await api.post("/runs/run_good/pause")
    await play.run_to_end()
    await record()
    await api.post("/runs/run_good/resume")
    await play.run_to_end()
    over.set()
    await sampling
    samples += [await api.get(f"/runs/{run_id}") for run_id in runs]
    await record()

    seen = {(one["run_id"], one["seq"]) for one in samples}
    assert len(seen) > 30 and {one["status"] for one in samples} == {"RUNNING", "PAUSED", "COMPLETED", "FAILED"}
    states = {token["state"] for one in samples for token in one["live_tokens"]}
    assert {"queued", "running", "waiting", "mapping", "delayed"} <= states
    past = {(run, seq): shared(await api.get(f"/runs/{run}/state?at={seq}")) for run, seq in seen}
    for one in samples:
        assert past[one["run_id"], one["seq"]] == shared(one)
    assert past["run_good", samples[-2]["seq"]]["outputs"]["note"] == LARGE


async def test_a_state_is_told_from_the_snapshot_before_it(
    api: Api, store: RunStore, database_url: str, wait_until: Any, database: psycopg.AsyncConnection
) -> None:
    stream, stop = Stream(store.redis), asyncio.Event()
    await stream.begin("run_1", revision=1, input="\0")
    for number in range(1, 31):
        await stream.step("run_1", number, number)
    connect = partial(psycopg.AsyncConnection.connect, database_url, autocommit=True)
    recorder = Recorder(store.redis, store.keys, connect, snapshot_every=10)
    recording = asyncio.create_task(recorder.run(stop))
    await wait_until(lambda: recorder.recorded == 31)
    stop.set()
    await recording
    for number in range(31, 36):  # on their way
        await stream.step("run_1", number, number)
    states = {at: await api.get(f"/runs/run_1/state?at={at}") for at in (10, 25, 31, 33, 36)}
    assert {at: state["outputs"][f"n{at - 1}"] for at, state in states.items()} == {at: at - 1 for at in states}
    assert [event.data["input"] for event in await api.history.events.revisions("run_1")] == ["\0"]

    await database.execute("DELETE FROM execution_events WHERE seq BETWEEN 2 AND 20")  # nobody reads these
    assert {at: await api.get(f"/runs/run_1/state?at={at}") for at in (25, 31, 33, 36)} == {
        at: state for at, state in states.items() if at > 20
    }
    problem = await api.get("/runs/run_1/state?at=5", 409)
    assert (problem["first"], problem["last"]) == (2, 20)
    assert problem["detail"].startswith("Events 2 to 20 of run_1 are not recorded")
