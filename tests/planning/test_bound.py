"""The lower bound, worked out by hand and beside the yardstick's; that nothing beats it: test_simulation.py."""

from __future__ import annotations

import pytest

from agent_runner.engines.simulated.gpu import CATALOGUE
from benchmarks.gpusim import workloads
from pavane.planning.bound import lower_bound
from pavane.planning.item import Item
from pavane.planning.planned_gpu import throughput
from tests.planning.plans import GEMMA2, GEMMA3, LARGE, QWEN, SMALL, chain, specs

Q14 = "qwen2.5:14b"


def test_one_model_on_one_gpu() -> None:
    items = [chain((QWEN, 2.0))] * 100
    assert lower_bound([SMALL], specs(items), items, 8) == pytest.approx(200 / throughput(8) + 4.5)


def test_going_back_to_a_model_that_can_not_stay_is_a_load_again() -> None:
    items = [chain((QWEN, 2.0), (GEMMA3, 2.0), (QWEN, 2.0))] * 100
    assert lower_bound([SMALL], specs(items), items, 8) == pytest.approx(600 / throughput(8) + 4.5 + 3.0 + 4.5)
    fast = LARGE.pace * throughput(8)
    assert lower_bound([LARGE], specs(items), items, 8) == pytest.approx(600 / fast + 4.5)


def test_work_that_only_the_large_cards_can_do() -> None:
    items = [chain((Q14, 9.0))] * 50 + [chain((GEMMA2, 0.1))] * 50
    expected = 50 * 9.0 / (LARGE.pace * throughput(8)) + CATALOGUE[GEMMA2].load_s
    assert lower_bound([SMALL, LARGE], specs(items), items, 8) == pytest.approx(expected)


def test_one_item_takes_its_longest_chain() -> None:
    item = Item()
    first = item.add("first", QWEN, 2.0, ())
    item.add("short", QWEN, 1.0, (first,))
    long = item.add("long", QWEN, 4.0, (first,))
    item.add("wait", None, 7.0, (long,))
    assert lower_bound([SMALL] * 4, specs([item]), [item], 8) == pytest.approx(4.5 + 2.0 + 4.0 + 7.0)


def test_a_load_beside_another_model_may_be_hidden() -> None:
    """All fit together: only the first load is sure, and it may be that of another item."""
    items = [chain((QWEN, 2.0))] * 50 + [chain((GEMMA2, 2.0), (QWEN, 2.0))] * 50
    work = 300 / (LARGE.pace * throughput(8))
    assert lower_bound([LARGE], specs(items), items, 8) == pytest.approx(work + CATALOGUE[GEMMA2].load_s)


def test_no_items() -> None:
    assert lower_bound([SMALL], {}, [], 8) == 0


@pytest.mark.parametrize("gpus", [workloads.S_GPUS, workloads.S_GPUS * 4])
def test_it_is_the_yardsticks_or_a_little_sharper(gpus: tuple[tuple[float, float], ...]) -> None:
    theirs = workloads.seed_S(400)
    ours = [chain(*((model, work) for _, model, work in item.path)) for item in theirs]
    expected = workloads.bound(workloads.MODELS, gpus, theirs, 8)["total"]
    assert expected <= lower_bound([SMALL] * len(gpus), specs(ours), ours, 8) <= expected + 2.0
