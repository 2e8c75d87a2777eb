"""The product's own scheduler as a policy of the simulator in gpusim: what `agent_runner/scheduler.py` says, is done.

A policy there knows more than a runner does. This one is told only what a runner reads from Redis:

- counts, heads and times of streams, never the work in them;
- a rate per model and kind of GPU, measured from completions while all slots of a lone model were taken, and the cost
  of a switch, measured from its drain and load. Both are moving averages with weight 0.2. A model that never was on
  such a GPU counts as the mean of those that were, the very first as 1;
- the slots, and the memory that a model takes with them.

What a runner does between two answers is done at once and for nothing: claims, messages and decisions take no time, a
load never fails. The gap between two tasks of a slot is the simulator's (0: fetched ahead).
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_runner.scheduler import Model, Policy, Resident, View, next_model, next_tasks, rates_given, victims
from benchmarks.gpusim.gpusim import GPU, TICK, Inst, Sim
from benchmarks.gpusim.policy import Base

WEIGHT = 0.2  # of a new measurement in its moving average
GB = 1_000_000_000
STATES = {"loading": "loading", "ready": "ready", "drain": "draining"}


@dataclass
class Measured:
    """What is known of a model on one kind of GPU: tasks per second with full slots, seconds that a switch costs."""

    rate: float | None = None
    cost_s: float | None = None
    full_s: float = 0.0  # with full slots since the last measurement of the rate
    completed: int = 0  # and the tasks that ended in this time

    def measure_rate(self) -> None:
        self.rate = averaged(self.rate, self.completed / self.full_s)
        self.full_s, self.completed = 0.0, 0

    def measure_cost(self, seconds: float) -> None:
        self.cost_s = averaged(self.cost_s, seconds)


def averaged(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)


@dataclass
class Switch:
    """A claimed switch, and when it was claimed and its load began."""

    model: str
    claimed_at: float
    load_at: float = 0.0


@dataclass
class State:
    """Of one GPU: the focus, and the switch under way; since when all slots of its only active model are taken."""

    focus: str | None = None
    focus_since: float = 0.0
    switch: Switch | None = None
    switched_at: float = float("-inf")
    full: str | None = None
    full_since: float = 0.0
    look_at: float = field(default=float("inf"))  # the next look that a bid asked for


class Scheduled(Base):
    def __init__(self, policy: Policy | None = None, wip_per_gpu: int | None = 500):
        self.policy, self.wip_per_gpu = policy or Policy(), wip_per_gpu

    def bind(self, sim: Sim) -> None:
        super().bind(sim)
        self.wip = self.wip_per_gpu and self.wip_per_gpu * len(sim.gpus)
        self.in_use = sorted({model for item in sim.items for _, model, _ in item.path if model})
        self.memory = {name: round(sim.models[name].vram(sim.K) * GB) for name in self.in_use}
        self.holders: dict[str, set[int]] = {name: set() for name in self.in_use}
        self.measured: Mapping[Any, Measured] = defaultdict(Measured)
        self.states = [State() for _ in sim.gpus]

    # What a runner reads

    def view(self, gpu: GPU) -> View:
        state = self.states[gpu.id]
        others = self._others(gpu)
        return View(
            now=self.sim.now,
            gpus=len(self.sim.gpus),
            memory=round(gpu.cap * GB),
            models={name: self._model(name, gpu, others[name]) for name in self.in_use},
            residents={name: self._resident(inst) for name, inst in gpu.insts.items()},
            focus=state.focus,
            focus_since=state.focus_since,
            target=state.switch.model if state.switch and not gpu.loading else None,
            switched_at=state.switched_at,
        )

    def _model(self, name: str, gpu: GPU, others: float) -> Model:
        stream = self.sim.streams[name]
        known = self._known(name, gpu)
        return Model(
            queued=stream.n,
            interactive=len(stream.prio),
            head_at=stream.oldest(),
            interactive_at=stream.prio[0].t_enq if stream.prio else None,
            served_at=stream.last,
            rate=self._rate(name, gpu),
            others=others,
            cost_s=known.cost_s or self._mean("cost_s", gpu),
            memory=self.memory[name],
        )

    def _others(self, gpu: GPU) -> dict[str, float]:
        waiting = {name for name in self.in_use if len(self.sim.streams[name])}
        sums = dict.fromkeys(self.in_use, 0.0)
        for other in self.sim.gpus:
            if other is not gpu:
                held = {name: self._rate(name, other) for name, holders in self.holders.items() if other.id in holders}
                for name, rate in rates_given(held, waiting).items():
                    sums[name] += rate
        return sums

    def _resident(self, inst: Inst) -> Resident:
        interactive = sum(task.prio for _, _, task in inst.heap)
        return Resident(inst.slots, inst.n, interactive, self.memory[inst.m], STATES[inst.state])  # type: ignore[arg-type]

    def _rate(self, name: str, gpu: GPU) -> float:
        return self._known(name, gpu).rate or self._mean("rate", gpu)

    def _mean(self, quantity: str, gpu: GPU) -> float:
        """Of what was measured on this kind of GPU: what is supposed of a model that was never there."""
        known = [getattr(self._known(name, gpu), quantity) for name in self.in_use]
        return statistics.fmean(values) if (values := [value for value in known if value]) else 1.0

    def _known(self, name: str, gpu: GPU) -> Measured:
        return self.measured[name, gpu.cap, gpu.speed]

    # What a runner does

    def step(self, gpu: GPU) -> None:
        if (switch := self.states[gpu.id].switch) and not gpu.loading:
            self._make_room(gpu, switch)
        self._fill(gpu)
        if not self.states[gpu.id].switch:
            self._decide(gpu)
        self._watch_slots(gpu)

    def _decide(self, gpu: GPU) -> None:
        state = self.states[gpu.id]
        choice = next_model(self.view(gpu), self.policy)
        if choice.model is None:
            return
        if choice.delay_s > 0:
            self._look_again(gpu, self.sim.now + choice.delay_s)
            return
        state.switch = Switch(choice.model, self.sim.now)
        self.holders[choice.model].add(gpu.id)
        self._make_room(gpu, state.switch)

    def _look_again(self, gpu: GPU, at: float) -> None:
        state = self.states[gpu.id]
        if state.look_at <= at and state.look_at > self.sim.now:
            return
        state.look_at = at
        self.sim.at(at + 1e-6, TICK, lambda: self.step(gpu))

    def _make_room(self, gpu: GPU, switch: Switch) -> None:
        for name in victims(self.view(gpu), switch.model):
            gpu.insts[name].state = "drain"
            self.holders[name].discard(gpu.id)
        for inst in list(gpu.insts.values()):
            if inst.state == "drain" and not inst.n:
                self.sim.sync(gpu)
                self.sim.evict(gpu, inst.m)
        if sum(self.memory[name] for name in gpu.insts) + self.memory[switch.model] <= round(gpu.cap * GB):
            switch.load_at = self.sim.now
            self.sim.load(gpu, switch.model)

    def _fill(self, gpu: GPU) -> None:
        state = self.states[gpu.id]
        fill = next_tasks(self.view(gpu), self.policy)
        if fill.focus != state.focus:
            state.focus, state.focus_since = fill.focus, self.sim.now
        for taken in (fill.interactive, fill.normal):  # a stream gives its interactive tasks first
            for name, count in taken.items():
                for _ in range(count):
                    self.sim.start(gpu, gpu.insts[name], self.sim.streams[name].pop())

    # What wakes it

    def on_task(self, task: Any) -> None:
        stream = self.sim.streams[task.model]
        stream.push(task, 0.0)
        for k in sorted(self.holders[task.model]):
            gpu = self.sim.gpus[k]
            inst = gpu.insts.get(task.model)
            if inst and inst.state == "ready" and inst.n < inst.slots + task.prio:
                self.step(gpu)
                if task.done:
                    return
        for gpu in self.sim.gpus:
            if task.prio or not (gpu.nact() or self.states[gpu.id].switch):
                self.step(gpu)

    def on_task_done(self, gpu: GPU, task: Any) -> None:
        if task.model == self.states[gpu.id].full:
            self._known(task.model, gpu).completed += 1

    def on_loaded(self, gpu: GPU, inst: Inst) -> None:
        state = self.states[gpu.id]
        if switch := state.switch:
            drain_s, load_s = switch.load_at - switch.claimed_at, self.sim.now - switch.load_at
            self._known(inst.m, gpu).measure_cost(load_s + drain_s / 2)
        state.switch, state.switched_at = None, self.sim.now

    # What it measures

    def _watch_slots(self, gpu: GPU) -> None:
        """Count the time in which one model alone runs with full slots; a rate for every so many completions."""
        state, now = self.states[gpu.id], self.sim.now
        if state.full:
            known = self._known(state.full, gpu)
            known.full_s += now - state.full_since
            if known.completed >= self.sim.K and known.full_s > 0:
                known.measure_rate()
        active = [inst for inst in gpu.insts.values() if inst.n]
        alone = len(active) == 1 and not gpu.loading and active[0].n >= self.sim.K
        state.full, state.full_since = (active[0].m if alone else None), now
