"""The scheduler drives simulated GPUs (benchmarks/gpusim): small workloads, with bounds that a broken rule misses."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from agent_runner.scheduler import Policy
from benchmarks.gpusim.gpusim import Item, ModelSpec, Sim
from benchmarks.gpusim.workloads import H_GPUS, MODELS, S_GPUS, add_prio, bound, hetero_H, seed_S
from benchmarks.scheduled import Scheduled

SLOTS = 8


@cache
def measured(workload: str) -> dict[str, Any]:
    items, gpus = {
        "S": (lambda: seed_S(250), S_GPUS),
        "S4": (lambda: seed_S(400), S_GPUS * 4),
        "H": (lambda: hetero_H(n=(200, 100, 60, 60)), H_GPUS),
        "S+P": (lambda: add_prio(seed_S(150), until=1_000), S_GPUS),
    }[workload]
    made = items()
    lower = bound(MODELS, gpus, [item for item in made if not item.prio], SLOTS)["total"]
    metrics = Sim(MODELS, gpus, made, Scheduled(), K=SLOTS, gap=0.0, hop=0.03).run()
    return {**metrics, "percent": 100 * lower / metrics["makespan"]}


@pytest.mark.parametrize(
    ("workload", "percent", "loads"),
    [("S", 95, 20), ("S4", 92, 28), ("H", 86, 28)],
)
def test_gpus_are_busy_with_few_loads(workload: str, percent: float, loads: int) -> None:
    found = measured(workload)
    assert found["unfinished"] == 0
    assert found["percent"] >= percent
    assert found["loads"] <= loads


def test_interactive_requests_do_not_wait_for_streams_to_end() -> None:
    found = measured("S+P")
    assert found["unfinished"] == 0
    assert found["prio_p99"] < 40


def rare_beside_hot(policy: Policy) -> dict[str, Any]:
    """Half an hour: the hot model always has work for all slots, a rare one has a task every two minutes."""
    models = {"hot": ModelSpec("hot", 4.0, 0.1, 3.0), "rare": ModelSpec("rare", 4.0, 0.1, 3.0)}
    chance = random.Random(1)
    hot = [Item(number, "hot", number / 4, [(1, "hot", chance.uniform(0.5, 1.5))]) for number in range(4 * 1_800)]
    rare = [Item(10_000 + number, "rare", 120.0 * number, [(1, "rare", 1.0)]) for number in range(1, 15)]
    return Sim(models, S_GPUS, hot + rare, Scheduled(policy), K=SLOTS, gap=0.0, hop=0.03).run()


def test_a_rare_model_is_served_beside_a_hot_stream_and_costs_little() -> None:
    """A = 6 s of loads / 0.02 = 300 s, and drains; about one switch there and back in that time."""
    found = rare_beside_hot(Policy())
    assert found["starve"] < 400
    assert found["loads"] <= 2 + 2 * 2_200 / 300
    assert rare_beside_hot(Policy(epsilon=1e-9))["starve"] > 1_000
