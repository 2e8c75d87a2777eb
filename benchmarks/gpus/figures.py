"""Workload S with 400 items on one and on four simulated GPUs, end to end: figures, and the picture of the docs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.figure import Figure
from benchmarks.gpus.batch import Course, lower_bound, run_batch
from benchmarks.gpus.engine import SLOTS, Seen
from benchmarks.gpus.peers import item_first, simulate
from benchmarks.gpus.picture import SVG, draw_ways
from benchmarks.gpusim.gpusim import Item
from benchmarks.gpusim.workloads import add_prio, seed_S
from benchmarks.scheduled import Scheduled

ITEMS = 400
SEED = 1
EVERY_S = 40.0  # simulated, on average, between two interactive requests
ITEM_FIRST = 30  # items on each GPU: enough for a rate
ITEM_FIRST_SPEED = 50.0


@dataclass(frozen=True, slots=True)
class Machine:
    """`speed`: simulated seconds per second; the hops between two tasks, some ms, must stay small beside a task."""

    gpus: int
    speed: float
    text: str
    unserved_min: int  # no stream with work may go unserved for longer
    interactive_s: int  # nor an interactive request take longer, 99 of 100


MACHINES = (Machine(1, 25.0, "one 8 GB GPU", 30, 40), Machine(4, 10.0, "four 8 GB GPUs", 10, 30))


def measure() -> list[Figure]:
    """Some ten minutes. Draws the picture anew."""
    figures: list[Figure] = []
    for machine in MACHINES:
        items = _items()
        alone = run_batch(items, machine.gpus, machine.speed)
        asked = add_prio([], every=EVERY_S, until=4 * alone.seconds, seed=SEED)
        beside = run_batch(items, machine.gpus, machine.speed, asked=asked)
        figures += _figures(machine, alone, beside)
        if machine.gpus == 1:
            SVG.parent.mkdir(exist_ok=True)
            SVG.write_text(draw_ways(_items(), alone))
    return figures


def _figures(machine: Machine, alone: Course, beside: Course) -> Iterator[Figure]:
    where = f"S, {ITEMS} items end to end on {machine.text}"
    simulated = simulate(_items(), machine.gpus, Scheduled())
    percent = 100 * lower_bound(_items(), machine.gpus) / simulated.seconds
    first = {at_once: _item_first(machine.gpus, at_once) for at_once in (1, 8)}
    yield Figure(
        f"{where}: of the bound",
        f"{alone.percent:.1f} %",
        f"simulation {percent:.1f} %; item first {_percent(machine, first[1]):.0f} %, eight at once "
        f"{_percent(machine, first[8]):.0f} %",
        alone.percent / percent,
        "at least 93 %",
    )
    of_item_first = sum(gpu.loads for gpu in first[1]) * ITEMS / _few(machine.gpus)
    yield Figure(
        "  loads",
        f"{alone.loads}",
        f"simulation {simulated.loads}; item first {of_item_first:,.0f}",
        alone.loads / simulated.loads,
        "within 20 % of the simulation's",
    )
    active = sum(_active(gpu) for gpu in first[1]) / len(first[1])
    share, slots = f"{alone.active:.0%}", f"{alone.slots:.1f} of {SLOTS} slots in use"
    yield Figure("  GPU active", f"{share}, {slots}", f"item first {active:.0%}", alone.active / active, "")
    longest = max(alone.unserved_s, beside.unserved_s) / 60
    yield Figure(
        "  longest time that a stream with work went unserved", f"{longest:.1f} min", "", None,
        f"under {machine.unserved_min} min",
    )  # fmt: skip
    yield Figure(
        f"  {len(beside.waits_s)} interactive requests beside it, 99 of 100",
        f"{_p99(beside.waits_s):.0f} s",
        f"median {beside.waits_s[len(beside.waits_s) // 2]:.0f} s",
        None,
        f"under {machine.interactive_s} s",
    )


def _items() -> list[Item]:
    """The same ones each time, unused."""
    items: list[Item] = seed_S(ITEMS, SEED)
    return items


def _few(gpus: int) -> int:
    return ITEM_FIRST * gpus


def _item_first(gpus: int, at_once: int) -> list[Seen]:
    return item_first(_items()[: _few(gpus)], gpus, ITEM_FIRST_SPEED, at_once)


def _percent(machine: Machine, seen: Sequence[Seen]) -> float:
    """Of the bound of those items, by the mean of the GPUs: the last of them would do more items meanwhile."""
    bound = lower_bound(_items()[: _few(machine.gpus)], machine.gpus)
    return 100 * bound / (sum(gpu.now - _idle_end(gpu) for gpu in seen) / len(seen))


def _idle_end(gpu: Seen) -> float:
    last = gpu.segments[-1]
    return 0.0 if last.active or last.loading else last.seconds


def _active(gpu: Seen) -> float:
    return sum(one.seconds for one in gpu.segments if one.active) / (gpu.now - _idle_end(gpu))


def _p99(waits: Sequence[float]) -> float:
    """As the yardstick counts it; of fewer than a hundred the slowest."""
    return waits[min(len(waits) - 1, int(0.99 * len(waits)))]
