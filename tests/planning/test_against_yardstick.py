"""The simulation against the independent one in benchmarks/gpusim, both around the same scheduler."""

from __future__ import annotations

import pytest

from agent_runner.engines.simulated.gpu import Card
from benchmarks.gpusim.gpusim import Sim
from benchmarks.gpusim.workloads import H_GPUS, MODELS, S_GPUS, hetero_H, seed_S
from benchmarks.scheduled import Scheduled
from pavane.planning.simulation import Simulation
from tests.planning.plans import chain, specs

WORKLOADS = {
    "S": (S_GPUS, lambda: seed_S(250), 0.02, 0.2),
    "S4": (S_GPUS * 4, lambda: seed_S(400), 0.02, 0.2),
    "H": (H_GPUS, lambda: hetero_H(n=(400, 200, 140, 120)), 0.04, 0.5),
}
"""GPUs, items, and how far the two may be apart in seconds and in loads: of so few items and loads, each counts."""


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_yardstick_takes_as_long(name: str) -> None:
    gpus, make, seconds_apart, loads_apart = WORKLOADS[name]
    items = [chain(*((model, work) for _, model, work in item.path)) for item in make()]
    cards = [Card(f"{memory:g}", memory, pace) for memory, pace in gpus]
    ours = Simulation(cards, specs(items), items).run()
    theirs = Sim(MODELS, gpus, make(), Scheduled(), K=8, gap=0.0).run()
    assert ours.seconds == pytest.approx(theirs["makespan"], rel=seconds_apart)
    assert ours.loads == pytest.approx(theirs["loads"], rel=loads_apart)
