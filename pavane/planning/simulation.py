"""Many items on a few GPUs: a discrete-event simulation around the scheduler that the runners use.

The GPUs obey the laws of agent_runner/engines/simulated/gpu.py; which model each serves is decided by
agent_runner/scheduler.py, on what a runner would see: queued tasks, who holds what, rates and switch costs.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent_runner.engines.simulated.gpu import Card, Demand, LoadOptions, ModelSpec
from agent_runner.scheduler import Fill, Model, Policy, View, next_model, next_tasks, rates_given, victims
from pavane.planning.item import Item
from pavane.planning.planned_gpu import PlannedGpu, memory_bytes, throughput

HOP_S = 0.03
"""From the end of a model's task to the place of the next one in its stream."""
WIP_PER_GPU = 500
"""Items of a batch that are under way at once (docs/scheduling.md)."""
FIRST_DRAIN_S = 2.0
"""What a drain is taken for before one was seen; then a moving average."""
DRAIN_WEIGHT = 0.2
_OPTIONS = LoadOptions()


@dataclass(slots=True)
class _Progress:
    """An item under way: for each of its steps the number of steps that it still waits for."""

    item: Item
    waits_for: list[int]
    left: int


@dataclass(eq=False, slots=True)
class _Task(Demand):
    """A step of an item, as a GPU has it. `arrived_at` is when it came into its stream."""

    progress: _Progress | None = None
    step: int = 0


@dataclass(slots=True)
class _Stream:
    """The tasks that wait for one model. `holders`: GPUs that hold, load or target it, and stay; rates."""

    spec: ModelSpec
    memory: int
    waiting: deque[_Task] = field(default_factory=deque)
    holders: dict[int, float] = field(default_factory=dict)
    served_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """`seconds` until the last item is done."""

    gpus: Sequence[PlannedGpu]
    seconds: float
    tasks: int
    longest_wait_s: float

    @property
    def loads(self) -> int:
        return sum(sum(gpu.laws.meter.loads.values()) for gpu in self.gpus)


class Simulation:
    """One run of it. Every model has to fit on one of the cards; the same items give the same result."""

    def __init__(
        self, cards: Sequence[Card], models: Mapping[str, ModelSpec], items: Sequence[Item], slots: int = 8,
        policy: Policy | None = None,
    ) -> None:  # fmt: skip
        self.gpus = [PlannedGpu(number, card, models, slots) for number, card in enumerate(cards)]
        self._policy = policy or Policy()
        self._streams = {pool: _Stream(spec, memory_bytes(spec, slots)) for pool, spec in models.items()}
        self._rates = {
            (pool, card.name): throughput(slots) * card.pace / mean
            for pool, mean in mean_work(models, items).items()
            for card in cards
        }
        self._drains = {card.name: FIRST_DRAIN_S for card in cards}
        self._items = iter(items)
        self._left = len(items)
        self._events: list[tuple[float, int, _Progress, int, bool]] = []
        self._ordinal = 0
        self._tasks = 0
        self._longest_wait = 0.0
        self.now = 0.0

    def run(self) -> Simulated:
        for _ in range(WIP_PER_GPU * len(self.gpus)):
            self._admit()
        while self._left:
            gpu = min(self.gpus, key=lambda gpu: gpu.due)
            at = self._events[0][0] if self._events else math.inf
            self.now = min(at, gpu.due)
            assert self.now < math.inf, "tasks wait, and nothing will ever happen"
            if at <= gpu.due:
                _, _, progress, step, is_over = heapq.heappop(self._events)
                if is_over:
                    self._end_step(progress, step, 0.0)
                else:
                    self._begin_step(progress, step)
            else:
                self._gpu_event(gpu)
        for gpu in self.gpus:
            gpu.laws.elapse(self.now)
        return Simulated(self.gpus, self.now, self._tasks, self._longest_wait)

    # -- items -------------------------------------------------------------------------------------
    def _admit(self) -> None:
        item = next(self._items, None)
        if item is None:
            return
        progress = _Progress(item, [step.waits_for for step in item.steps], len(item.steps))
        if not item.steps:
            self._end_item()
        for place, step in enumerate(item.steps):
            if not step.waits_for:
                self._at(self.now, progress, place)

    def _begin_step(self, progress: _Progress, place: int) -> None:
        """A step's turn has come: into its model's stream, or its time passes."""
        step = progress.item.steps[place]
        if step.pool is None:
            self._at(self.now + step.seconds, progress, place, is_over=True)
            return
        task = _Task(self._streams[step.pool].spec, _OPTIONS, step.seconds, None, _ignore, "queued", self.now)
        task.progress, task.step = progress, place
        self._streams[step.pool].waiting.append(task)
        self._wake(step.pool, task)

    def _end_step(self, progress: _Progress, place: int, hop: float) -> None:
        progress.left -= 1
        for follower in progress.item.steps[place].next:
            progress.waits_for[follower] -= 1
            if not progress.waits_for[follower]:
                self._at(self.now + hop, progress, follower)
        if not progress.left:
            self._end_item()

    def _end_item(self) -> None:
        self._left -= 1
        self._admit()

    def _at(self, when: float, progress: _Progress, step: int, *, is_over: bool = False) -> None:
        self._ordinal += 1
        heapq.heappush(self._events, (when, self._ordinal, progress, step, is_over))

    # -- GPUs --------------------------------------------------------------------------------------
    def _wake(self, pool: str, task: _Task) -> None:
        """A task came: whoever holds its model and has room looks, else whoever has nothing to do."""
        stream = self._streams[pool]
        for number in sorted(stream.holders):
            if self.gpus[number].has_room(pool):
                self._look(self.gpus[number])
                if task.state != "queued":
                    return
        for gpu in self.gpus:
            if gpu.is_idle and gpu.servable[pool]:
                self._look(gpu)
                if task.state != "queued" or gpu.number in stream.holders:
                    return

    def _gpu_event(self, gpu: PlannedGpu) -> None:
        task = gpu.finish()
        if isinstance(task, _Task) and task.progress is not None:
            self._tasks += 1
            self._end_step(task.progress, task.step, HOP_S)
        self._look(gpu)

    def _look(self, gpu: PlannedGpu) -> None:
        """What a runner does whenever something has changed: go on with a switch, take tasks, decide."""
        self._switch(gpu)
        if gpu.laws.tenants:
            self._take(gpu, next_tasks(self._view(gpu), self._policy))
        if gpu.target is None and gpu.laws.loading is None:
            view = self._view(gpu)
            choice = next_model(view, self._policy)
            if choice.model is not None:
                gpu.target, gpu.decided_at = choice.model, self.now
                leaving = victims(view, choice.model)
                gpu.draining.update(leaving)
                for pool in leaving:  # others may take it over
                    self._streams[pool].holders.pop(gpu.number, None)
                self._streams[choice.model].holders[gpu.number] = self._rates[choice.model, gpu.card.name]
                self._switch(gpu)
        gpu.settle()

    def _switch(self, gpu: PlannedGpu) -> None:
        """Unload what has drained; load the target as soon as it fits."""
        gpu.unload_drained(self.now)
        if gpu.target is not None and gpu.fits(gpu.target):
            gpu.load(gpu.target, self.now)
            lasted = self.now - gpu.decided_at
            self._drains[gpu.card.name] += DRAIN_WEIGHT * (lasted - self._drains[gpu.card.name])

    def _take(self, gpu: PlannedGpu, fill: Fill) -> None:
        if fill.focus != gpu.focus:
            gpu.focus, gpu.focus_since = fill.focus, self.now
        for pool, count in fill.normal.items():
            stream = self._streams[pool]
            for _ in range(count):
                task = stream.waiting.popleft()
                self._longest_wait = max(self._longest_wait, self.now - task.arrived_at)
                gpu.start(pool, task, self.now)
            stream.served_at = self.now

    def _view(self, gpu: PlannedGpu) -> View:
        half_drain = self._drains[gpu.card.name] / 2
        others = self._rates_of_others(gpu)
        models = {}
        for pool, stream in self._streams.items():
            waiting = stream.waiting
            models[pool] = Model(
                queued=len(waiting),
                head_at=waiting[0].arrived_at if waiting else None,
                served_at=stream.served_at,
                rate=self._rates[pool, gpu.card.name],
                others=others.get(pool, 0.0),
                cost_s=stream.spec.load_s + half_drain,
                memory=stream.memory,
                servable=gpu.servable[pool],
            )
        return View(
            self.now, len(self.gpus), gpu.memory, models, gpu.residents(), gpu.focus, gpu.focus_since, gpu.target,
            gpu.switched_at,
        )  # fmt: skip

    def _rates_of_others(self, gpu: PlannedGpu) -> dict[str, float]:
        waiting = {pool for pool, stream in self._streams.items() if stream.waiting}
        held: dict[int, dict[str, float]] = {}
        for pool, stream in self._streams.items():
            for number, rate in stream.holders.items():
                if number != gpu.number:
                    held.setdefault(number, {})[pool] = rate
        sums: dict[str, float] = {}
        for rates in held.values():
            for pool, rate in rates_given(rates, waiting).items():
                sums[pool] = sums.get(pool, 0.0) + rate
        return sums


def mean_work(models: Mapping[str, ModelSpec], items: Sequence[Item]) -> dict[str, float]:
    """Mean solo seconds of a task by model; 1 where there is none."""
    count, total = dict.fromkeys(models, 0), dict.fromkeys(models, 0.0)
    for item in items:
        for step in item.steps:
            if step.pool is not None:
                count[step.pool] += 1
                total[step.pool] += step.seconds
    return {pool: total[pool] / count[pool] if total[pool] else 1.0 for pool in models}


def _ignore(demand: Demand) -> None:
    """The simulation looks at what has ended itself."""
