"""The runner: claims tasks, executes them, stores their outcomes. Four loops that only meet in this process's memory.

    fetch -> buffer -> start (start_task) -> executions -> finish (finish_task)
    reclaim -> buffer

Each loop has one round trip in flight and takes all that waits into it, so the batches grow by themselves under load.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from redis.exceptions import RedisError

from agent_runner import outcome
from agent_runner.backoff import Backoff, passes
from agent_runner.buffer import Buffer
from agent_runner.claims import Claimed, Claims
from agent_runner.description import Description
from agent_runner.engine_key import engine_key
from agent_runner.engines.engine import Engine
from agent_runner.executions import Execution, Executions
from agent_runner.failure import TaskFailed
from agent_runner.gpu import Gpu
from agent_runner.guarded_engine import GuardedEngine
from agent_runner.hands import Hands
from agent_runner.heartbeat import Heartbeat
from agent_runner.intake import Intake, TaskIntake
from agent_runner.measures import Measures
from agent_runner.model_intake import ModelIntake
from agent_runner.nodes.agent import AgentNodes
from agent_runner.settings import RunnerSettings
from agent_runner.streams import Streams
from agent_runner.tools.toolbox import Toolbox, ToolSources
from agent_runner.wakeup import Wakeup
from agent_runner.work import Fetched, NodeKind, Work
from lua.run_store import Finish, RunStore
from schemas.expressions.error import TemplateError
from schemas.expressions.expression import parse_expression
from schemas.ids import NAME

log = logging.getLogger("pavane.runner")

CANCEL_S = 5.0  # for a handler that catches its cancellation
BATCH = 64  # tasks started or finished in one round trip
BATCH_BYTES = 16_000_000  # of artifacts in one round trip
COORDINATOR_BEHIND = 1_000
"""With so many signals waiting, entries grow idle because they are not routed yet, not because a runner died."""

T = TypeVar("T")
A = TypeVar("A")


class Runner:
    """One runner on one shard. Give it `nodes`, by type, or the `engine` of one GPU for agent nodes.

    `await run(stop)` serves until `stop` is set, then drains: running tasks end (at most `drain_ms`), what was not
    started is handed back, the heartbeat is removed. Raises nothing; Redis may come and go. A runner runs once.
    """

    def __init__(
        self, store: RunStore, runner_id: str, settings: RunnerSettings | None = None, *,
        nodes: Mapping[str, NodeKind] | None = None, engine: Engine | None = None, tools: ToolSources | None = None,
    ) -> None:  # fmt: skip
        """`tools` is what agents' tools are made of.

        Raises ValueError for an id that is no NAME, and for a runner that would have nothing to do.
        """
        if NAME.fullmatch(runner_id) is None:
            raise ValueError(f"the runner id {runner_id[:200]!r} must match {NAME.pattern}")
        if bool(nodes) == (engine is not None):
            raise ValueError("a runner has either nodes or an engine")
        self.store = store
        self.runner_id = runner_id
        self.settings = settings = settings or RunnerSettings()
        self.executions = Executions(self._slots_changed)
        self.streams = Streams(store, runner_id)
        self.gpu: Gpu | None = None
        self._buffer = Buffer()
        self._hands = Hands(self._buffer, self.executions)
        self.intake: Intake
        self._nodes: Mapping[str, NodeKind]
        if engine is not None:
            self.gpu, self.intake = self._of_engine(engine)
            toolbox = Toolbox(store, tools or ToolSources(), self.executions.aside)
            self._nodes = {"agent": AgentNodes(self.gpu, store, toolbox)}
        else:
            self._nodes = dict(nodes or {})
            self.intake = TaskIntake(self.streams, settings, list(self._nodes), self._hands)
        self._claims = Claims(store, runner_id, frozenset(self._nodes), settings.default_timeout_ms)
        models = self.intake if isinstance(self.intake, ModelIntake) else None
        self.description = Description(settings, list(self._nodes), self.executions, models)
        self.heartbeat = Heartbeat(store, runner_id, settings, self.streams, self.executions, self.description, models)
        self._outcomes: list[tuple[Execution | None, Finish]] = []
        self._stopping = asyncio.Event()
        self._drained = False
        self._settling, self._settled = asyncio.Lock(), False
        self._ready, self._to_finish, self._quiet = Wakeup(), Wakeup(), Wakeup()

    def _of_engine(self, engine: Engine) -> tuple[Gpu, ModelIntake]:
        measures = Measures(self.store, self.settings.kind)
        gpu = Gpu(GuardedEngine(engine, changed=self._engine_changed), self._hands, measures, self._engine_changed)
        key = engine_key(engine.url, socket.gethostname())
        intake = ModelIntake(
            self.store, self.streams, self.settings, self._hands, gpu, measures, engine=key, runner_id=self.runner_id
        )
        return gpu, intake

    async def run(self, stop: asyncio.Event) -> None:
        # The first expression of a process loads the parser. Nothing else goes on meanwhile, on a busy machine for a
        # second or more: so it is done before there is a lease that could end.
        parse_expression("true")
        log.info("runner %s serves %s", self.runner_id, ", ".join(self._nodes))
        serving = [self._repeat(step, self._stopping.is_set) for step in (self._fetch, self._start, self._reclaim)]
        serving_tasks = [asyncio.create_task(loop) for loop in serving]
        storing = asyncio.create_task(self._repeat(self._finish, lambda: self._drained and not self._outcomes))
        beating = asyncio.create_task(self.heartbeat.run())
        try:
            await stop.wait()
            await self._drain(serving_tasks, storing)
        finally:
            self._stopping.set()
            self.heartbeat.stop()
            executing = [execution.task for execution in self.executions if execution.task is not None]
            await _cancel([*serving_tasks, storing, beating, *executing])
            await self._leave()

    # -- the loops ---------------------------------------------------------------------------------
    async def _settle(self) -> None:
        async with self._settling:
            if not self._settled:
                if left := await self.streams.return_former():
                    log.info("%d tasks that a former process of this id held are free", left)
                self._settled = True

    async def _fetch(self) -> None:
        await self._settle()
        self._take_in(await self.intake.fetch())

    async def _reclaim(self) -> None:
        await self._settle()
        waiting: int = await self.store.redis.llen(self.store.keys.signals)
        if waiting < COORDINATOR_BEHIND:
            self._take_in(await self.intake.reclaim(BATCH))
        if isinstance(self.intake, ModelIntake):
            await self._hand_over([one for one in self.executions if self.intake.is_stranded(one)])
        await self._pause(self.settings.reclaim_ms / 1000)

    async def _hand_over(self, stranded: Sequence[Execution]) -> None:
        """They wait for an engine that is another runner's, or away for long: somebody else may have one."""
        if not stranded:
            return
        log.warning("%d tasks wait for an engine; they are handed back", len(stranded))
        await _cancel([one.task for one in stranded if one.task is not None])
        for one in stranded:  # first, so that they grow idle, and are somebody's again, if Redis is away now
            self.executions.forget(one)
        # What another runner may have taken over already is not taken from it.
        await self.streams.hand_back(one.work.task for one in stranded if not one.doubtful)

    async def _start(self) -> None:
        batch: list[Fetched] = []

        def is_next() -> bool:
            if not self._stopping.is_set() and not batch:
                batch.extend(self._buffer.take(self._free, BATCH))
            return self._stopping.is_set() or bool(batch)

        await self._ready.until(is_next)
        if not batch:
            return
        try:
            for claimed in await self._apart(self._claims.start, batch):
                self._begin(claimed)
        except BaseException:
            # Those that were started all the same answer `started` again to this runner: none is left behind.
            self._buffer.put_back(batch)
            raise
        self._buffer.settle(batch)
        self._hands_changed()

    async def _finish(self) -> None:
        await self._to_finish.until(lambda: self._outcomes or self._drained)
        batch = self._next_outcomes()
        if not batch:
            return
        await self._apart(self.store.finish_task, [finish for _, finish in batch])
        # fenced, held and over are no news: another attempt counts, or the run has ended.
        del self._outcomes[: len(batch)]
        for execution, _ in batch:
            if execution is not None:
                self.executions.forget(execution)
        self._quiet.notify()

    async def _repeat(self, step: Callable[[], Awaitable[None]], until: Callable[[], bool] | None = None) -> None:
        """A loop that nothing ends but `until` (the stop, if not given)."""
        over = until or self._stopping.is_set
        backoff = Backoff()
        while not over():
            try:
                await step()
                backoff.reset()
            except (RedisError, OSError) as error:
                if not backoff.failures:
                    log.warning("%s waits for redis: %s", step.__name__.strip("_"), error)
                await self._pause(backoff.next_s())
            except Exception:
                log.exception("%s failed; it goes on", step.__name__.strip("_"))
                await self._pause(backoff.next_s())

    # -- one task ----------------------------------------------------------------------------------
    def _begin(self, claimed: Claimed) -> None:
        for work in claimed.work:
            execution = self.executions.begin(work)
            execution.task = asyncio.create_task(self._execute(execution))
        if claimed.finishes:
            self._outcomes += [(None, finish) for finish in claimed.finishes]
            self._to_finish.notify()

    async def _execute(self, execution: Execution) -> None:
        try:
            finish = await self._outcome(execution.work)
            self._outcomes.append((execution, finish))
            if isinstance(self.intake, ModelIntake):
                self.intake.ended(execution.work.pool, completed=finish.signal.status == "completed")
            self._to_finish.notify()
        finally:
            self.executions.end(execution)

    async def _outcome(self, work: Work) -> Finish:
        """Execute it; whatever happens is an outcome, except that the runner stops."""
        facts = {"runner": self.runner_id, **({"llm_model": work.model} if work.model else {})}
        try:
            variables = await self._variables(work)
            result = await self._nodes[work.node.type].execute(work, variables)
            return outcome.completed(work.task, work.attempt, result.output, {**result.metadata, **facts})
        except TemplateError as error:
            failure = TaskFailed("template", str(error))
        except TaskFailed as error:
            failure = error
        except Exception as error:
            log.exception("%s of %s failed in the runner", work.node.id, work.task.run_id)
            failure = TaskFailed("interrupted", f"the runner failed: {type(error).__name__}: {error}")
        failure.metadata |= facts
        return outcome.failed(work.task, work.attempt, failure)

    async def _variables(self, work: Work) -> Mapping[str, Any]:
        backoff = Backoff()
        while True:
            try:
                return await self._claims.variables(work)
            except (RedisError, OSError) as error:  # only large values are loaded here
                if not passes(error):
                    raise
                await asyncio.sleep(backoff.next_s())

    # -- stopping ----------------------------------------------------------------------------------
    async def _drain(self, serving: Sequence[asyncio.Task[None]], storing: asyncio.Task[None]) -> None:
        """Let what runs end, unless it waits for an engine that is away."""
        self._stopping.set()
        self.description.draining = True
        self.heartbeat.soon()
        self._ready.notify()
        self.intake.stop()
        await asyncio.wait(serving)
        limit_s = self.settings.drain_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                await self._quiet.until(lambda: self.executions.running == (self.gpu.waiting if self.gpu else 0))
        except TimeoutError:
            log.warning("%d tasks still run after drain_ms; they are handed back", self.executions.running)
        await _cancel([e.task for e in self.executions if e.task is not None and not e.ended])
        self._drained = True
        self._to_finish.notify()
        await asyncio.wait([storing], timeout=limit_s)
        if self._outcomes:
            log.warning("%d outcomes could not be stored; their tasks are executed again", len(self._outcomes))

    async def _leave(self) -> None:
        unstarted = [fetched.task for fetched in self._buffer.clear()]
        unstored = [execution.work.task for execution in self.executions if not execution.doubtful]
        try:
            await self.streams.hand_back([*unstarted, *unstored])
            await self.streams.leave()
            await self.heartbeat.end()
        except (RedisError, OSError) as error:
            log.warning("left without goodbye: %s", error)
        for nodes in self._nodes.values():
            await nodes.close()
        try:
            await self.intake.close()  # its models are free for others only now
        except (RedisError, OSError) as error:
            log.warning("the lease is left to expire: %s", error)
        log.info("runner %s stopped; %d tasks handed back", self.runner_id, len(unstarted) + len(unstored))

    # -- small things ------------------------------------------------------------------------------
    def _free(self, pool: str) -> int:
        """Of the pool's slots; below 0: none, not even for an interactive task."""
        slots = self.intake.slots(pool)
        return slots - self._hands.busy(pool) if slots else -1

    def _take_in(self, tasks: Sequence[Fetched]) -> None:
        fresh = []
        for fetched in tasks:
            execution = self.executions.get(fetched.task.token_id) if fetched.reclaimed else None
            if execution is not None and execution.work.task.entry == fetched.task.entry:
                execution.doubtful = False  # nobody took it over while this process stood still
            elif not fetched.reclaimed or not self._has(fetched.task.token_id):
                fresh.append(fetched)
        if fresh:
            self._buffer.put(fresh)
            self._ready.notify()

    def _has(self, token_id: str) -> bool:
        """Whether a task is in this runner's hands and not executed yet: its entry may grow idle meanwhile."""
        return token_id in self._buffer

    def _next_outcomes(self) -> list[tuple[Execution | None, Finish]]:
        size, count = 0, 0
        for _, finish in self._outcomes[:BATCH]:
            size += len(finish.artifact.packed) if finish.artifact else 0
            if count and size > BATCH_BYTES:
                break
            count += 1
        return self._outcomes[:count]

    async def _apart(self, call: Callable[[Sequence[A]], Awaitable[T]], batch: Sequence[A]) -> list[T]:
        """Call with the whole batch; where one of it is refused, with each alone, so that it harms nobody else."""
        try:
            return [await call(batch)]
        except Exception as error:
            if passes(error):
                raise
            if len(batch) == 1:
                log.error("left alone, to be reclaimed: %s: %s", batch[0], error)
                return []
        answers = []
        for one in batch:
            answers += await self._apart(call, [one])
        return answers

    async def _pause(self, seconds: float) -> None:
        """Until the stop, at most so long; after it, so long: outcomes are stored during the drain."""
        if self._stopping.is_set():
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _slots_changed(self, pool: str, running: int) -> None:
        if isinstance(self.intake, ModelIntake):
            self.intake.measure(pool, running)
        self._hands_changed()

    def _engine_changed(self) -> None:
        self.heartbeat.soon()
        self._hands_changed()

    def _hands_changed(self) -> None:
        if self.gpu is not None:
            self.gpu.look_again()
        self.intake.wake()
        self._ready.notify()
        self._quiet.notify()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel and wait, but not for a task that will not be cancelled."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_S)
