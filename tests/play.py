"""Plays runs against the real scripts and the real coordinator code, with no process and no clock of its own.

`Play` is runner and coordinator in one: it reads tasks from their streams, answers them from a script and routes the
signals, one at a time and in whatever order the test chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis

from coordinator.ir_cache import IRCache
from coordinator.signal_batch import SignalBatch
from coordinator.timers import Timers
from lua.answers import StartedTask, Token, read_token
from lua.run_store import Claim, Finish, RunStore
from schemas.compiler.compiler import compile_workflow
from schemas.events import Event, read_event
from schemas.ir import IR
from schemas.keys import Keys, scope_of
from schemas.messages import CompletionSignal, Failure, Task, read_signal
from schemas.values import encode_value

Answer = Callable[[Task, StartedTask], Any]
"""What a task gives: a JSON value, or a Failure."""


def echo(task: Task, started: StartedTask) -> Any:
    return {"node": task.node_id}


@dataclass
class Play:
    """Runs of one workflow on one Redis."""

    redis: Redis
    workflow: Mapping[str, Any]
    answer: Answer = echo
    keys: Keys = field(default_factory=Keys)
    executed: list[tuple[Task, StartedTask]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.skipped_ms = 0
        server = RunStore(self.redis, self.keys)

        async def clock() -> int:
            return await server.now() + self.skipped_ms

        self.store = RunStore(self.redis, self.keys, clock=clock)
        self.irs = IRCache(self.store)
        self.batch = SignalBatch(self.store, self.irs)
        self.ir: IR = compile_workflow(self.workflow).ir

    async def skip(self, ms: int) -> int:
        """Let time pass; the time then."""
        self.skipped_ms += ms
        return await self.store.now()

    # -- steps -------------------------------------------------------------------------------------
    async def start(self, run_id: str = "run_1", input: Any = None, **fields: str) -> str:
        given = {"workflow": self.ir.workflow_id, "version": "", "request": run_id, "retention_ms": "60000"}
        text, artifact = encode_value({} if input is None else input)
        event = {"workflow_id": self.ir.workflow_id, "input": orjson.Fragment(text)}
        started = await self.store.start_run(
            run_id, self.ir, given | fields, text, event=event, artifacts=[artifact] if artifact else []
        )
        return str(started)

    async def tasks(self) -> list[Task]:
        """Everything on the streams that nobody has claimed, oldest first."""
        found: list[Task] = []
        for name in sorted(await self.redis.smembers(self.keys.streams)):
            stream = name.decode()
            for entry, fields in await self.redis.xrange(self.keys.stream(stream)):
                plain = {key.decode(): value.decode() for key, value in fields.items()}
                token = await self.token(plain["run"], plain["token"])
                if token and token.state == "queued":
                    found.append(
                        Task(plain["run"], plain["token"], plain["node"], plain["scope"], plain["digest"],
                             stream, entry.decode())
                    )  # fmt: skip
        return sorted(found, key=lambda task: tuple(map(int, task.entry.split("-"))))

    async def claim(self, task: Task, runner: str = "runner-1", *, reclaimed: bool = False) -> StartedTask:
        node = self.ir.nodes[task.node_id]
        reads = self.ir.addresses(node.id, node.analysis.task_reads)
        claim = Claim(task, task.digest, reads, node.timeout_ms, reclaimed)
        return (await self.store.start_task([claim], runner))[0]

    async def finish(self, task: Task, started: StartedTask, result: Any) -> str:
        signal, artifact = outcome_signal(task, started, result)
        return (await self.store.finish_task([Finish(task, signal, artifact)]))[0]

    async def execute(self, task: Task) -> str:
        started = await self.claim(task)
        assert started.state == "started", started
        self.executed.append((task, started))
        return await self.finish(task, started, self.answer(task, started))

    async def signals(self) -> list[bytes]:
        popped = await self.redis.lpop(self.keys.signals, 1000)
        return list(popped or [])

    async def route(self, raws: Iterable[bytes] | None = None) -> int:
        """Route the given signals, or all that wait; how many."""
        raws = await self.signals() if raws is None else list(raws)
        await self.batch.route([read_signal(raw) for raw in raws])
        return len(raws)

    async def settle(self) -> None:
        """Route until no signal is left."""
        while await self.route():
            pass

    async def run_to_end(self, choose: Callable[[Sequence[Task]], int] = lambda tasks: 0, limit: int = 1_000) -> None:
        """Execute one task after the other, `choose` says which, until there is none. Backoffs take no time."""
        for _ in range(limit):
            await self.settle()
            if await self.tick():
                continue
            tasks = await self.tasks()
            if tasks:
                await self.execute(tasks[choose(tasks)])
            elif not await self._release_delayed():
                return
        raise AssertionError(f"no end after {limit} tasks")

    async def tick(self) -> int:
        """Handle the timers that are due; how many there were."""
        handled = 0
        while due := await self.redis.zcount(self.keys.timers, "-inf", await self.store.now()):
            handled += due
            await Timers(self.store).handle_due()
        return handled

    async def _release_delayed(self) -> bool:
        members = [m.decode().split(" ") for m in await self.redis.zrange(self.keys.timers, 0, -1)]
        retries = [m for m in members if m[0] == "retry"]
        for _, run_id, token_id, attempt in retries:
            await self.store.queue_task(run_id, token_id, int(attempt))
        return bool(retries)

    # -- what can be seen --------------------------------------------------------------------------
    async def token(self, run_id: str, token_id: str) -> Token | None:
        record = await self.redis.hget(self.keys.tokens(run_id, scope_of(run_id, token_id)), token_id)
        return read_token(record) if record else None

    async def tokens(self, run_id: str = "run_1") -> dict[str, Token]:
        """All tokens of the run, those in the items of its maps too."""
        found: dict[str, Token] = {}
        for key in [self.keys.tokens(run_id), *await self.redis.keys(f"{self.keys.tokens(run_id)}/*")]:
            records = await self.redis.hgetall(key)
            found |= {token_id.decode(): read_token(record) for token_id, record in records.items()}
        return found

    async def states(self, run_id: str = "run_1") -> list[tuple[str, str]]:
        """(node, state) of every token, sorted."""
        return sorted((token.node, token.state) for token in (await self.tokens(run_id)).values())

    async def field(self, name: str, run_id: str = "run_1") -> str:
        value = await self.redis.hget(self.keys.run(run_id), name)
        return value.decode() if value else ""

    async def status(self, run_id: str = "run_1") -> str:
        return await self.field("status", run_id)

    async def outputs(self, run_id: str = "run_1") -> dict[str, Any]:
        stored = await self.redis.hgetall(self.keys.context(run_id))
        return {node.decode(): orjson.loads(text) for node, text in stored.items()}

    async def events(self, run_id: str | None = "run_1") -> list[Event]:
        entries = await self.redis.xrange(self.keys.events)
        events = [read_event(fields) for _, fields in entries]
        return [event for event in events if run_id in (None, event.run_id)]

    async def counter(self, kind: str) -> int:
        return int(await self.redis.hget(self.keys.counters, kind) or 0)

    def path(self) -> list[str]:
        """Nodes of the tasks executed so far, in order."""
        return [task.node_id for task, _ in self.executed]


def outcome_signal(task: Task, started: StartedTask, result: Any) -> tuple[CompletionSignal, Any]:
    """The completion signal of a result, with its artifact if it is large."""
    head = (task.token_id, task.run_id, task.node_id, started.attempt)
    if isinstance(result, Failure):
        metadata = {
            "error_type": result.klass,
            "error_message": result.message,
            "retryable": result.retryable,
        }
        return CompletionSignal(*head, "failed", metadata=metadata), None
    text, artifact = encode_value(result)
    if artifact:
        return CompletionSignal(*head, "completed", result_ref=text), artifact
    return CompletionSignal(*head, "completed", result=result), None
