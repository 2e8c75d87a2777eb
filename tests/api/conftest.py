"""An application on real servers, spoken to without a socket, and what plays the other services."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from coordinator.admission import Admission
from coordinator.recorder import Recorder
from history.history import History
from lua.answers import StartedTask
from lua.run_store import RunStore
from orchestrator_api.app import create_app
from orchestrator_api.options import ApiOptions
from schemas.ir import IR
from schemas.keys import Keys
from schemas.messages import Task
from tests.api.workflows import HELLO
from tests.play import Answer, Play, echo

NOWHERE = "host=127.0.0.1 port=1 connect_timeout=1"


class PlayAll(Play):
    """Plays child runs too, which have workflows of their own, and paused ones, of which nothing is executed. Its clock
    is ahead of the application's, so that what is due there is due here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.skipped_ms = 50

    async def claim(self, task: Task, runner: str = "runner-1", *, reclaimed: bool = False) -> StartedTask:
        text = await self.store.ir_text(task.run_id)
        assert text is not None
        self.ir = IR.from_json(text)
        newest = replace(task, digest=self.ir.digest)  # the run may have been patched since the task was queued
        return await super().claim(newest, runner, reclaimed=reclaimed)

    async def execute(self, task: Task) -> str:
        started = await self.claim(task)
        if started.state == "parked":
            return started.state
        self.executed.append((task, started))
        return await self.finish(task, started, self.answer(task, started))


@dataclass
class Api:
    """The application, a client of it, and the other services in reach of the test."""

    app: FastAPI
    http: httpx.AsyncClient
    store: RunStore
    history: History

    async def get(self, path: str, status: int = 200, **options: Any) -> Any:
        answer = await self.http.get(path, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        given = {} if body is None else {"json": body}
        answer = await self.http.post(path, **given, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def start(self, workflow: Any = HELLO, input: Any = None, **fields: Any) -> str:
        body = {"workflow": workflow, "input": {"name": "Ada"} if input is None else input, **fields}
        return str((await self.post("/runs", body, 201))["run_id"])

    async def play(self, workflow: Any = HELLO, answer: Answer = echo) -> Play:
        """Execute what is queued, as runner and coordinator, until nothing is."""
        play = PlayAll(self.store.redis, workflow, answer, self.store.keys)
        await play.run_to_end()
        return play

    async def admit(self) -> int:
        return await Admission(self.store, self.history.pool).admit()


def application(store: RunStore, history: History, **options: Any) -> FastAPI:
    return create_app(store, history, ApiOptions(**options))


def client_of(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    # Faults of ours come out as the tracebacks that they are.
    transport = httpx.ASGITransport(app=app, client=options.pop("client", ("127.0.0.1", 5000)))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", **options)


@pytest.fixture
async def history(database_url: str) -> AsyncIterator[History]:
    async with AsyncConnectionPool(database_url, min_size=1, max_size=4, open=False) as pool:
        history = History(pool)
        await history.migrate()
        yield history


@pytest.fixture
async def away() -> AsyncIterator[History]:
    """A history whose Postgres does not answer."""
    pool = AsyncConnectionPool(NOWHERE, min_size=0, max_size=1, open=False, timeout=0.05, reconnect_timeout=0.1)
    await pool.open(wait=False)
    yield History(pool)
    await pool.close()


@pytest.fixture
def store(redis: Redis) -> RunStore:
    return RunStore(redis, Keys())


@pytest.fixture
async def api(store: RunStore, history: History) -> AsyncIterator[Api]:
    app = application(store, history)
    async with client_of(app) as http:
        yield Api(app, http, store, history)


@pytest.fixture
async def alone(store: RunStore, away: History) -> AsyncIterator[Api]:
    """The application while Postgres is away."""
    app = application(store, away)
    async with client_of(app) as http:
        yield Api(app, http, store, away)


@pytest.fixture
def record(redis: Redis, database_url: str, history: History, wait_until: Callable[..., Any]) -> Callable[[], Any]:
    """`await record()`: what waited in the stream is in Postgres, and the stream is empty; what comes later waits."""

    async def empty() -> bool:
        return bool(await redis.xlen(Keys().events) == 0)

    async def run() -> None:
        stop = asyncio.Event()
        recorder = Recorder(redis, Keys(), lambda: psycopg.AsyncConnection.connect(database_url, autocommit=True))
        recording = asyncio.create_task(recorder.run(stop))
        await wait_until(empty)
        stop.set()
        await recording

    return run
