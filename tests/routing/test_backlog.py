"""What runners choose by: the backlog of each model's lane, whatever is done to the runs whose tasks wait there."""

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis

from lua.patching import PatchRefused
from schemas.messages import Failure
from tests.patching.flight import BY, Flight, agent, flow, map_of, set_to
from tests.scripts.workflows import edges

RUNS = [f"run_{n}" for n in range(1, 6)]
RETRY = {"max_attempts": 2, "backoff_ms": 1_000}
WORKFLOW = flow(
    agent("a", retry=RETRY, queue_timeout_ms=60_000),
    map_of(agent("item", retry=RETRY), max_parallel=3),
    agent("b", "m2", retry=RETRY),
    edges=edges("a > each > b"),
)
MODELS = {"a": "/nodes/a/config/model", "item": "/nodes/each/config/nodes/item/config/model"}


class Restless:
    """Does one thing after another to runs whose tasks wait for models."""

    def __init__(self, redis: Redis, rng: random.Random) -> None:
        self.rng = rng
        self.play = Flight(redis, WORKFLOW, self._answer)
        self.held: list[tuple[Any, Any]] = []  # tasks that a runner began

    def _answer(self, *_: Any) -> Any:
        failed = self.rng.random() < 0.3
        return Failure("timeout", "slow", retryable=self.rng.random() < 0.7) if failed else "said"

    async def begin(self) -> None:
        if tasks := await self.play.tasks():
            task = self.rng.choice(tasks)
            started = await self.play.claim(task)
            if started.state == "started":
                self.held.append((task, started))

    async def finish(self) -> None:
        if self.held:
            task, started = self.held.pop(self.rng.randrange(len(self.held)))
            await self.play.finish(task, started, self._answer())

    async def reclaim(self) -> None:
        """Its runner died."""
        if self.held:
            task, _ = self.held[0]
            await self.play.claim(task, "runner-2", reclaimed=True)

    async def route(self) -> None:
        await self.play.settle()

    async def wait(self) -> None:
        await self.play.skip(self.rng.choice([10, 2_000, 70_000]))
        await self.play.tick()

    async def pause(self) -> None:
        await self.play.store.pause_run(self.rng.choice(RUNS), BY)

    async def resume(self) -> None:
        await self.play.store.resume_run(self.rng.choice(RUNS), BY)

    async def retry(self) -> None:
        await self.play.store.retry_run(self.rng.choice(RUNS), BY, paused=self.rng.random() < 0.3)

    async def cancel(self) -> None:
        if self.rng.random() < 0.3:
            await self.play.store.end_run(self.rng.choice(RUNS), "CANCELLED", BY)

    async def patch(self) -> None:
        run_id, node = self.rng.choice(RUNS), self.rng.choice(sorted(MODELS))
        with suppress(PatchRefused):
            options = {"restart": True} if self.rng.random() < 0.3 else {}
            await self.play.patch(set_to(MODELS[node], self.rng.choice(["m1", "m2", "m3"])), run_id=run_id, **options)

    async def end(self) -> None:
        """All runs are over, and what was in them is swept away."""
        for run_id in RUNS:
            await self.play.store.end_run(run_id, "CANCELLED", BY)
        await self.play.settle()
        await self.play.skip(1_000)
        await self.play.tick()

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        often = [self.begin, self.finish, self.route, self.wait]
        return [*often, *often, self.reclaim, self.pause, self.resume, self.retry, self.cancel, self.patch]


@pytest.mark.parametrize("block", range(4))
async def test_backlogs_are_what_is_queued(redis, block):
    for seed in range(block * 3, block * 3 + 3):
        await redis.flushdb()
        rng = random.Random(seed)
        restless = Restless(redis, rng)
        for run_id in RUNS:
            priority = rng.choice(["normal", "interactive"])
            await restless.play.start(run_id, input={"xs": list(range(5))}, priority=priority, batch="b1")
        for number in range(80):
            step = rng.choice(restless.steps())
            await step()
            assert await restless.play.books.backlog() == [], (seed, number, step.__name__)
        await restless.end()
        assert await redis.keys("backlog*") == [], seed
