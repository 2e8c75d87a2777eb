"""Which model a GPU serves next: the product's scheduler on simulated GPUs, beside what it replaces, in % of a bound.

The laws, workloads, baselines and the lower bound are those of gpusim (its README). K = 8 slots, three seeds, the worst
of them reported. Tasks are fetched ahead (no gap between two of a slot), except by the waves as they were once run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent_runner.scheduler import Policy
from benchmarks.figure import Figure
from benchmarks.gpusim.gpusim import Sim
from benchmarks.gpusim.ollama import Ollama
from benchmarks.gpusim.wave import Wave
from benchmarks.gpusim.workloads import H_GPUS, MODELS, S_GPUS, V24, add_prio, bound, hetero_H, mixed_M, seed_S
from benchmarks.scheduled import Scheduled

SLOTS = 8
HOP_S = 0.03  # from the end of a task to the next stream
SERIAL_GAP_S = 0.12  # of a slot between two tasks, without fetching ahead
SEEDS = (1, 2, 3)
PROCESSES = 2
FOUR = S_GPUS * 4


Job = tuple[str, str, int]  # workload, contender, seed


@dataclass(frozen=True)
class Workload:
    text: str
    gpus: tuple[tuple[float, float], ...]  # memory in GB, speed
    items: Callable[[int], list[Any]]  # of a seed


@dataclass(frozen=True)
class Contender:
    policy: Callable[[], Any]
    gap_s: float = 0.0


@dataclass(frozen=True)
class Result:
    percent: float  # of the lower bound
    loads: int
    latency_s: float  # mean, of an item
    unserved_s: float  # longest, of a stream with work
    interactive_s: float  # 99th percentile


WORKLOADS = {
    "S": Workload("S: 2,062 items x 11 model tasks, 4 models, one 8 GB GPU", S_GPUS, lambda seed: seed_S(seed=seed)),
    "S4": Workload("S4: the same on four", FOUR, lambda seed: seed_S(seed=seed)),
    "M85": Workload(
        "M85: three workflows, five models, Poisson at 85 %, one 8 GB GPU",
        S_GPUS,
        lambda seed: mixed_M(SLOTS, seed=seed),
    ),
    "H": Workload("H: four workflows, six models, GPUs 8/8/24/24 GB", H_GPUS, lambda seed: hetero_H(seed=seed)),
    "HP85": Workload("HP85: H as Poisson at 85 %", H_GPUS, lambda seed: hetero_H(seed=seed, poisson_rho=0.85)),
}
INTERACTIVE = {  # one request every 40 s beside S, for as long as S takes
    "S+P": Workload("one 8 GB GPU", S_GPUS, lambda seed: add_prio(seed_S(seed=seed), until=16_000, seed=seed)),
    "S4+P": Workload("four 8 GB GPUs", FOUR, lambda seed: add_prio(seed_S(seed=seed), until=4_000, seed=seed)),
    "S24+P": Workload("one 24 GB GPU", ((V24, 1.8),), lambda seed: add_prio(seed_S(seed=seed), until=9_000, seed=seed)),
}
WAVES = [(size, mode) for mode in ("pipe", "chunk", "min") for size in (35, 100)]


def _wave(size: int, mode: str, serial: bool) -> Contender:
    return Contender(lambda: Wave(size, mode, serial), SERIAL_GAP_S if serial else 0.0)


CONTENDERS = {
    "pavane": Contender(Scheduled),
    "no ageing": Contender(lambda: Scheduled(Policy(epsilon=1e-9), wip_per_gpu=None)),
    "item first": Contender(lambda: Ollama(1, "item")),
    "FIFO": Contender(lambda: Ollama(2 * SLOTS, "fifo")),
    **{f"wave as run {size} {mode}": _wave(size, mode, True) for size, mode in WAVES},
    **{f"wave ahead {size} {mode}": _wave(size, mode, False) for size, mode in WAVES},
}


def run(workload: str, contender: str, seed: int) -> Result:
    work, chosen = (WORKLOADS | INTERACTIVE)[workload], CONTENDERS[contender]
    items = work.items(seed)
    lower = bound(MODELS, work.gpus, [item for item in items if not item.prio], SLOTS)["total"]
    metrics = Sim(MODELS, work.gpus, items, chosen.policy(), K=SLOTS, gap=chosen.gap_s, hop=HOP_S).run()
    return Result(
        percent=100 * lower / metrics["makespan"],
        loads=metrics["loads"],
        latency_s=metrics["lat_mean"],
        unserved_s=metrics["starve"],
        interactive_s=metrics["prio_p99"],
    )


def _jobs() -> Iterable[Job]:
    for workload in WORKLOADS:
        yield from ((workload, "pavane", seed) for seed in SEEDS)
        yield from ((workload, other, SEEDS[0]) for other in CONTENDERS if other not in ("pavane", "no ageing"))
    for workload in INTERACTIVE:
        yield from ((workload, "pavane", seed) for seed in SEEDS)
    yield from (("S", "no ageing", seed) for seed in SEEDS)
    yield from (("M85", wave, seed) for wave in CONTENDERS if wave.startswith("wave") for seed in SEEDS[1:])


class Results:
    def __init__(self, results: dict[Job, Result]) -> None:
        self._results = results

    def ours(self, workload: str, contender: str = "pavane") -> list[Result]:
        return [self._results[workload, contender, seed] for seed in SEEDS]

    def one(self, workload: str, contender: str) -> Result:
        return self._results[workload, contender, SEEDS[0]]

    def waves(self, workload: str, kind: str, seed: int = SEEDS[0]) -> list[Result]:
        return [self._results[workload, f"wave {kind} {size} {mode}", seed] for size, mode in WAVES]


def _share(results: Results, workload: str, goal: str, most_loads: bool) -> Figure:
    ours = results.ours(workload)
    worst = min(result.percent for result in ours)
    waves = {kind: [result.percent for result in results.waves(workload, kind)] for kind in ("as run", "ahead")}
    first, fifo = results.one(workload, "item first").percent, results.one(workload, "FIFO").percent
    loads = f", {max(result.loads for result in ours)} loads" if most_loads else ""
    return Figure(
        WORKLOADS[workload].text,
        f"{worst:.1f} %{loads}",
        f"item first {first:.0f} %, FIFO {fifo:.0f} %, "
        + ", ".join(f"waves {kind} {min(range_):.0f}-{max(range_):.0f} %" for kind, range_ in waves.items()),
        worst / max(waves["as run"]),
        goal,
    )


def _latency(results: Results) -> Figure:
    """Each seed beside the best wave of the same seed; the worst ratio counts."""
    ours = [result.latency_s for result in results.ours("M85")]
    best = {
        kind: [min(result.latency_s for result in results.waves("M85", kind, seed)) for seed in SEEDS]
        for kind in ("as run", "ahead")
    }
    ratios = [mine / wave for mine, wave in zip(ours, best["as run"], strict=True)]
    worst = ratios.index(max(ratios))
    return Figure(
        "M85: mean latency of an item",
        f"{ours[worst]:,.0f} s",
        f"best wave as run {best['as run'][worst]:,.0f} s, ahead {best['ahead'][worst]:,.0f} s",
        ratios[worst],
        "at most 0.5",
    )


def _unserved(results: Results, workloads: Iterable[str], text: str, minutes: int) -> Figure:
    longest = max(result.unserved_s for workload in workloads for result in results.ours(workload))
    text = f"longest time that a stream with work goes unserved, {text}"
    return Figure(text, f"{longest / 60:.0f} min", "", None, f"under {minutes} min")


def _interactive(results: Results, workload: str, seconds: int) -> Figure:
    slowest = max(result.interactive_s for result in results.ours(workload))
    text = f"interactive request beside S, {INTERACTIVE[workload].text}, 99 of 100"
    return Figure(text, f"{slowest:.0f} s", "", None, f"under {seconds} s")


def measure() -> list[Figure]:
    jobs = list(_jobs())
    with ProcessPoolExecutor(PROCESSES) as pool:
        results = Results(dict(zip(jobs, pool.map(run, *zip(*jobs, strict=True)), strict=True)))
    few = max(result.loads for result in results.ours("S", "no ageing"))
    return [
        _share(results, "S", "at least 97 %, at most 90 loads", most_loads=True),
        Figure("S: loads without ageing and without a bound on what is in flight", f"{few}", "", None, "at most 15"),
        _share(results, "S4", "at least 97 %, at most 60 loads", most_loads=True),
        _share(results, "M85", "at least 97 %", most_loads=False),
        _latency(results),
        _share(results, "H", "at least 97 %", most_loads=False),
        _share(results, "HP85", "at least 97 %", most_loads=False),
        _unserved(results, ("S", "M85", "S+P", "S24+P"), "one GPU", 30),
        _unserved(results, ("S4", "H", "HP85", "S4+P"), "four GPUs", 10),
        _interactive(results, "S+P", 40),
        _interactive(results, "S4+P", 30),
        _interactive(results, "S24+P", 10),
    ]
