"""What the batch stands beside: the same items item first on the same engines, and by the yardstick's simulation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agent_runner.engines.engine import ChatRequest
from agent_runner.engines.ollama import OllamaEngine
from benchmarks.gpus.engine import SLOTS, Seen, engines
from benchmarks.gpusim.gpusim import GPU, Item, Sim
from benchmarks.gpusim.policy import Base
from benchmarks.gpusim.workloads import MODELS, S_GPUS
from pavane.planning.timeline import Segment, Timeline

HOP_S = 0.03  # of the yardstick: from the end of a task to the next stream
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the yardstick says. Times are simulated seconds."""

    seconds: float
    loads: int
    first_gpu: Sequence[Segment]


class WatchedSim(Sim):
    """Remembers what its first GPU did."""

    def __init__(self, items: Sequence[Item], gpus: int, policy: Base, gap_s: float) -> None:
        self.course = Timeline()
        super().__init__(MODELS, S_GPUS * gpus, items, policy, K=SLOTS, gap=gap_s, hop=HOP_S)

    def rerate(self, g: GPU) -> None:
        super().rerate(g)
        if g.id == 0:
            active = tuple(name for name, inst in g.insts.items() if inst.n)
            self.course.note(self.now, active, g.loading.m if g.loading else None)


def simulate(items: Sequence[Item], gpus: int, policy: Base, gap_s: float = 0.0) -> Simulated:
    """The items by a policy of the yardstick; `gap_s`: of a slot between two tasks."""
    sim = WatchedSim(items, gpus, policy, gap_s)
    metrics = sim.run()
    return Simulated(metrics["makespan"], metrics["loads"], sim.course.segments(metrics["makespan"]))


def item_first(items: Sequence[Item], gpus: int, speed: float, at_once: int) -> list[Seen]:
    """The items one by one through all their steps, `at_once` of them on each GPU: what a plain script would do."""
    with engines(gpus, speed) as cards:
        asyncio.run(_go_through(items, [card.url for card in cards], at_once))
        return [card.look() for card in cards]


async def _go_through(items: Sequence[Item], urls: Sequence[str], at_once: int) -> None:
    waiting = iter(items)
    clients = [OllamaEngine(url) for url in urls]

    async def work(engine: OllamaEngine) -> None:
        for item in waiting:
            for _, model, seconds in item.path:
                if model:
                    await engine.chat(ChatRequest(model, f"work={seconds}", TIMEOUT_S))

    await asyncio.gather(*(work(engine) for engine in clients for _ in range(at_once)))
    for engine in clients:
        await engine.close()
