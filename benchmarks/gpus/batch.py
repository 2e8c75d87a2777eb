"""The batch: items as runs on a stand of real services, of which only the GPUs are simulated, in scaled time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from psycopg import AsyncConnection

from benchmarks.gpus.engine import CARD, SLOTS, Engine, Seen, engines
from benchmarks.gpus.events import ENDS, Event, account, read_events
from benchmarks.gpus.workload import input_of, interactive, screening
from benchmarks.gpusim.gpusim import Item
from benchmarks.gpusim.workloads import MODELS, S_GPUS, bound
from benchmarks.stand import Stand, stand
from lua.connection import connect_redis
from lua.run_store import RunStore
from schemas.keys import Keys
from schemas.submission import make_start

WAIT_S = 0.1
FAST = "fast_"


@dataclass(frozen=True, slots=True)
class Course:
    """How a batch went. Times are simulated seconds."""

    gpus: Sequence[Seen]
    seconds: float
    percent: float  # of the lower bound
    unserved_s: float
    waits_s: Sequence[float]  # of interactive requests, sorted

    @property
    def loads(self) -> int:
        return sum(gpu.loads for gpu in self.gpus)

    @property
    def slots(self) -> float:
        """Of each GPU's, how many are in use while it computes, on average."""
        running: Counter[int] = Counter()
        for gpu in self.gpus:
            running.update({count: seconds for count, seconds in gpu.running_s.items() if count})
        return sum(count * seconds for count, seconds in running.items()) / running.total()

    @property
    def active(self) -> float:
        """The share of the time in which a GPU computes; mean of the GPUs."""
        return fmean(sum(one.seconds for one in gpu.segments if one.active) / gpu.now for gpu in self.gpus)


def run_batch(items: Sequence[Item], gpus: int, speed: float, *, asked: Sequence[Item] = ()) -> Course:
    """All items at once on so many GPUs; `asked`: interactive requests, each at its time, as long as items are left."""
    with (
        engines(gpus, speed) as cards,
        stand(runners=0, services=[_runner(card, number) for number, card in enumerate(cards)]) as at,
    ):
        return asyncio.run(_measure(at, cards, items, asked, speed))


def lower_bound(items: Sequence[Item], gpus: int) -> float:
    """Simulated seconds that no schedule beats."""
    seconds: float = bound(MODELS, S_GPUS * gpus, items, SLOTS)["total"]
    return seconds


def _runner(card: Engine, number: int) -> list[str]:
    named = ["--id", f"gpu-{number}", "--kind", CARD.name, "--memory", f"{CARD.usable_gb:g}GB", "--slots", str(SLOTS)]
    return ["runner", "--engine", "simulated", "--url", card.url, *named]


async def _measure(
    at: Stand, cards: Sequence[Engine], items: Sequence[Item], asked: Sequence[Item], speed: float
) -> Course:
    store = RunStore(connect_redis(at.redis_url), Keys())
    ir = screening()
    starts = [make_start(f"item_{n}", ir, input_of(item), request="s").arguments() for n, item in enumerate(items)]
    while await store.redis.zcard(store.keys.runners) < len(cards):  # noqa: ASYNC110 - the condition is in Redis
        await asyncio.sleep(WAIT_S)
    before = [card.look() for card in cards]
    for first in range(0, len(starts), 100):
        await store.start_runs(starts[first : first + 100])
    asking = asyncio.create_task(_ask(store, asked, speed))
    await _over(store, but=FAST.encode())
    after = [card.look() for card in cards]
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await _over(store)
    await store.redis.aclose()
    models = {name: node.analysis.pool for name, node in ir.nodes.items()}
    found = account(await _recorded(at), models, FAST)
    seconds = found.seconds * speed
    return Course(
        [now.since(then) for then, now in zip(before, after, strict=True)],
        seconds,
        100 * lower_bound(items, len(cards)) / seconds,
        found.unserved_s * speed,
        sorted(waited * speed for waited in found.waits_s),
    )


async def _over(store: RunStore, *, but: bytes = b"\0") -> None:
    """Until no run is live `but` those whose ids begin so."""
    while True:
        live: list[bytes] = await store.redis.zrange(store.keys.live_runs, 0, -1)
        if all(run_id.startswith(but) for run_id in live):
            return
        await asyncio.sleep(WAIT_S)


async def _ask(store: RunStore, asked: Sequence[Item], speed: float) -> None:
    """One task each, at its time."""
    began = time.monotonic()
    irs = {model: interactive(model) for item in asked for _, model, _ in item.path}
    for number, item in enumerate(asked):
        await asyncio.sleep(max(began + item.arr / speed - time.monotonic(), 0.0))
        ((_, model, seconds),) = item.path
        start = make_start(
            f"{FAST}{number}", irs[model], {"work": seconds}, request=f"{number}", priority="interactive"
        )
        await store.start_run(**start.arguments())


async def _recorded(at: Stand) -> list[Event]:
    """All events, once each run's last one is among them. Raises RuntimeError where one has not completed."""
    async with await AsyncConnection.connect(at.database_url, autocommit=True) as connection:
        while True:
            events = await read_events(connection)
            runs = {event.run_id for event in events}
            ends = [event.type for event in events if event.type in ENDS]
            if len(ends) == len(runs):
                break
            await asyncio.sleep(WAIT_S)
    if set(ends) != {"run_completed"}:
        raise RuntimeError("not every run has completed")
    return events
