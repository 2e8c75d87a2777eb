"""Where a runner's tasks come from: fixed streams for a task runner, one model's at a time for an agent runner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import RedisError

from agent_runner.executions import Executions
from agent_runner.scheduler import Backlog, View, next_model
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.work import INTERACTIVE, Fetched
from lua.run_store import RunStore
from schemas.keys import RUNNERS_GROUP, agent_stream, task_stream

_AGENT = agent_stream("")


class Intake(Protocol):
    """Fetches tasks. Neither method waits longer than `block_ms`."""

    focus: str | None  # the model that it serves now
    reason: str  # why that one; for people

    async def fetch(self, count: int) -> list[Fetched]: ...

    async def reclaim(self, count: int) -> list[Fetched]:
        """Tasks that dead runners held."""

    def wake(self) -> None:
        """An execution ended: a decision may come out differently now."""


class TaskIntake:
    """The streams of task types that need no engine."""

    focus: str | None = None
    reason = ""

    def __init__(self, streams: Streams, settings: RunnerSettings, types: Sequence[str]) -> None:
        self._streams = streams
        self._settings = settings
        names = [task_stream(node_type) for node_type in types]
        self._names = [*(name + INTERACTIVE for name in names), *names]
        self._types = len(names)

    async def fetch(self, count: int) -> list[Fetched]:
        of_each = -(-count // self._types)  # a read gives so many of each stream
        return await self._streams.read(self._names, of_each, self._settings.block_ms)

    async def reclaim(self, count: int) -> list[Fetched]:
        taken: list[Fetched] = []
        for name in self._names:
            if len(taken) < count:
                idle = self._settings.reclaim_idle_ms
                taken += await self._streams.take_over(name, idle, count - len(taken))
        return taken

    def wake(self) -> None:
        """Nothing here depends on what runs."""


@dataclass(slots=True)
class _Survey:
    """One look at all agent streams: their backlogs, and the entry up to which they were seen."""

    models: dict[str, Backlog]
    last: dict[str, bytes]  # stream -> last generated entry id


class ModelIntake:
    """The agent streams, one model at a time; `scheduler.next_model` says which."""

    def __init__(self, store: RunStore, streams: Streams, settings: RunnerSettings, executions: Executions) -> None:
        self.focus: str | None = None
        self.reason = ""
        self._store = store
        self._streams = streams
        self._settings = settings
        self._executions = executions
        self._orphans: dict[str, int] = {}  # stream -> entries whose runner is dead
        self._barren: dict[str, bytes] = {}  # stream -> last entry id at which a read of it gave nothing
        self._names: list[str] = []  # agent streams that tasks were ever meant for
        self._changed = asyncio.Event()

    async def fetch(self, count: int) -> list[Fetched]:
        if self.focus is not None and (fetched := await self._read(self.focus, count)):
            return fetched
        self._changed.clear()
        survey = await self._look()
        choice = next_model(View(survey.models, self.focus, self._executions.running, self._settings.slots))
        self.focus, self.reason = choice.model, choice.reason
        if self.focus is None or not survey.models.get(self.focus, Backlog()).total:
            await self._news(survey)
            return []
        fetched = await self._read(self.focus, count) or await self._adopt(self.focus, count)
        if not fetched:
            self._barren.update({name: survey.last[name] for name in _lanes(self.focus) if name in survey.last})
        return fetched

    async def reclaim(self, count: int) -> list[Fetched]:
        """Of the focus alone: another model's wait until the scheduler chooses it."""
        self._orphans = await self._find_orphans()
        if self.focus is not None and any(name in self._orphans for name in _lanes(self.focus)):
            return await self._adopt(self.focus, count)
        if self._orphans:
            self.wake()
        return []

    def wake(self) -> None:
        self._changed.set()

    async def _read(self, model: str, count: int) -> list[Fetched]:
        return await self._streams.read(_lanes(model), count)

    async def _adopt(self, model: str, count: int) -> list[Fetched]:
        taken: list[Fetched] = []
        for name in _lanes(model):
            if self._orphans.pop(name, 0) and len(taken) < count:
                idle = self._settings.reclaim_idle_ms
                taken += await self._streams.take_over(name, idle, count - len(taken))
        return taken

    async def _ask(self, *questions: Callable[[Any, str], object]) -> list[tuple[Any, ...]]:
        """(name, answer, ...) of each agent stream that exists: in one round trip, two when there are new names."""
        while True:
            names = self._names
            pipe = self._store.redis.pipeline(transaction=False)
            pipe.smembers(self._store.keys.streams)
            for name in names:
                for question in questions:
                    question(pipe, self._store.keys.stream(name))
            members, *answers = await pipe.execute(raise_on_error=False)
            if isinstance(members, RedisError):
                raise members
            self._names = sorted(name for member in members if (name := member.decode()).startswith(_AGENT))
            if set(self._names) <= set(names):
                of_each = zip(names, *(answers[at :: len(questions)] for at in range(len(questions))), strict=True)
                return [row for row in of_each if not any(isinstance(answer, RedisError) for answer in row)]

    async def _look(self) -> _Survey:
        rows = await self._ask(lambda pipe, key: pipe.xinfo_stream(key), lambda pipe, key: pipe.xinfo_groups(key))
        survey = _Survey({}, dict.fromkeys(self._names, b"0-0"))  # those that do not exist yet are waited for as well
        for name, stream, groups in rows:
            last = stream["last-generated-id"]
            survey.last[name] = last
            fresh = 0 if self._barren.get(name) == last else _undelivered(stream, groups)
            _add(survey.models, name, fresh + self._orphans.get(name, 0))
        return survey

    async def _news(self, survey: _Survey) -> None:
        """Wait until an entry comes to any stream, or an execution ends. Reads without consuming."""
        waits = [asyncio.ensure_future(self._changed.wait())]
        if survey.last:
            positions: Any = {self._store.keys.stream(name): last for name, last in survey.last.items()}
            look = self._store.redis.xread(positions, count=1, block=self._settings.block_ms)
            waits.append(asyncio.ensure_future(look))
        try:
            timeout = self._settings.block_ms / 1000 + (1 if survey.last else 0)  # the read ends by itself
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()  # a connection error is the caller's
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _find_orphans(self) -> dict[str, int]:
        count, idle = self._settings.slots, self._settings.reclaim_idle_ms
        rows = await self._ask(lambda pipe, key: pipe.xpending_range(key, RUNNERS_GROUP, "-", "+", count, idle=idle))
        return {name: len(found) for name, found in rows if found}


def _lanes(model: str) -> tuple[str, str]:
    name = agent_stream(model)
    return name + INTERACTIVE, name


def _undelivered(stream: dict[str, Any], groups: list[dict[str, Any]]) -> int:
    """Entries that no runner was given. Exact, since what is acknowledged is deleted in the same step."""
    group = next((g for g in groups if g["name"] == RUNNERS_GROUP.encode()), None)
    if group is None:
        return int(stream["length"])
    if group["last-delivered-id"] == stream["last-generated-id"]:
        return 0
    return max(int(stream["length"]) - int(group["pending"]), 1)


def _add(models: dict[str, Backlog], name: str, count: int) -> None:
    model = name.removeprefix(_AGENT).removesuffix(INTERACTIVE)
    known = models.get(model, Backlog())
    if name.endswith(INTERACTIVE):
        models[model] = Backlog(known.queued, known.interactive + count)
    else:
        models[model] = Backlog(known.queued + count, known.interactive)
