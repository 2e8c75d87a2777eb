"""What a plan comes to: how long it takes, how the GPUs are used, and what another GPU would change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent_runner.engines.simulated.gpu import Card, ModelSpec
from pavane.planning.bound import lower_bound
from pavane.planning.fleet import next_larger
from pavane.planning.item import Item
from pavane.planning.planned_gpu import PlannedGpu
from pavane.planning.simulation import Simulation
from pavane.planning.timeline import Segment, shares


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Shares of the whole time; `loading`: with nothing running beside. `models`: those of its active share."""

    card: Card
    active: float
    loading: float
    idle: float
    loads: Mapping[str, int]
    models: Mapping[str, float]
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Times are seconds."""

    gpus: Sequence[GpuUse]
    seconds: float
    bound_s: float
    tasks: int
    longest_wait_s: float

    @property
    def loads(self) -> int:
        return sum(sum(gpu.loads.values()) for gpu in self.gpus)

    @property
    def of_bound(self) -> float:
        """How near it comes to the bound: 1 is as fast as anything can be."""
        return self.bound_s / self.seconds if self.seconds else 1.0


@dataclass(frozen=True, slots=True)
class Change:
    """Other GPUs, and what they would come to."""

    text: str
    estimate: Estimate


def estimate(cards: Sequence[Card], models: Mapping[str, ModelSpec], items: Sequence[Item], slots: int) -> Estimate:
    """Simulates it. Every model has to fit on one of the cards."""
    done = Simulation(cards, models, items, slots).run()
    bound = lower_bound(cards, models, items, slots)
    return Estimate(
        [_use(gpu, done.seconds) for gpu in done.gpus], done.seconds, bound, done.tasks, done.longest_wait_s
    )


def _use(gpu: PlannedGpu, seconds: float) -> GpuUse:
    meter, segments = gpu.laws.meter, gpu.timeline.segments(seconds)
    whole = seconds or 1.0
    models = {model: time / whole for model, time in shares(segments).items()}
    return GpuUse(
        gpu.card, meter.active_s / whole, meter.loading_s / whole, 1 - (meter.active_s + meter.loading_s) / whole,
        dict(meter.loads), models, segments,
    )  # fmt: skip


def changes(cards: Sequence[Card], models: Mapping[str, ModelSpec], items: Sequence[Item], slots: int) -> list[Change]:
    """The same items on one more GPU of the smallest and of the largest kind, and on a larger one in the smallest's
    place."""
    smallest = min(cards, key=lambda card: (card.usable_gb, card.pace))
    largest = max(cards, key=lambda card: (card.usable_gb, card.pace))
    others = {f"one more {card.name}": [*cards, card] for card in dict.fromkeys((smallest, largest))}
    if (larger := next_larger(smallest)) is not None:
        place, one = cards.index(smallest), "one " if cards.count(smallest) > 1 else ""
        others[f"{larger.name} in place of {one}{smallest.name}"] = [*cards[:place], larger, *cards[place + 1 :]]
    return [Change(text, estimate(fleet, models, items, slots)) for text, fleet in others.items()]
