"""The simulation against what can be worked out by hand, and what must hold of any."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runner.engines.simulated.gpu import BATCH_COST, CATALOGUE, LOADING_PACE, Card
from pavane.planning.bound import lower_bound
from pavane.planning.estimate import changes, estimate
from pavane.planning.item import Item
from pavane.planning.planned_gpu import throughput
from pavane.planning.simulation import HOP_S, WIP_PER_GPU, Simulated, Simulation
from tests.planning.plans import GEMMA2, GEMMA3, LARGE, PHI, QWEN, SMALL, chain, specs


def simulated(items: list[Item], *cards: Card, slots: int = 8) -> Simulated:
    return Simulation(cards, specs(items), items, slots).run()


def test_one_model_takes_its_load_and_its_work() -> None:
    done = simulated([chain((QWEN, 2.0))] * 50, SMALL, slots=1)
    assert done.seconds == pytest.approx(4.5 + 50 * 2.0)
    assert (done.loads, done.tasks) == (1, 50)


def test_a_batch_takes_as_the_law_says() -> None:
    assert simulated([chain((QWEN, 2.0))] * 8, SMALL).seconds == pytest.approx(4.5 + 2.0 * (1 + 7 * BATCH_COST))


def test_a_faster_card_works_faster_and_loads_as_long() -> None:
    done = simulated([chain((QWEN, 2.0))] * 8, LARGE)
    assert done.seconds == pytest.approx(4.5 + 2.0 * (1 + 7 * BATCH_COST) / 1.8)


def test_the_steps_of_an_item_follow_each_other() -> None:
    done = simulated([chain((QWEN, 2.0), (None, 5.0), (QWEN, 1.0))], SMALL)
    assert done.seconds == pytest.approx(4.5 + 2.0 + HOP_S + 5.0 + 1.0)


def test_a_model_that_loads_slows_the_others() -> None:
    """Both fit, and the second is loaded while the first still works."""
    items = [chain((GEMMA3, 1.0))] * 12 + [chain((GEMMA2, 1.0))] * 30
    done = simulated(items, LARGE, slots=1)
    first, second = CATALOGUE[GEMMA3].load_s, CATALOGUE[GEMMA2].load_s
    segments = done.gpus[0].timeline.segments(done.seconds)
    assert sum(segment.seconds for segment in segments if segment.loading and segment.active) == pytest.approx(second)
    assert done.seconds == pytest.approx(first + (1 - LOADING_PACE) * second + 42 / LARGE.pace)
    assert any(len(segment.active) == 2 for segment in segments)


def test_parallel_steps_run_beside_each_other() -> None:
    """A fork of two on one model, and a step that needs both."""
    item = Item()
    left, right = item.add("left", QWEN, 2.0, ()), item.add("right", QWEN, 2.0, ())
    item.add("both", QWEN, 1.0, (left, right))
    assert simulated([item], SMALL).seconds == pytest.approx(4.5 + 2.0 * (1 + BATCH_COST) + HOP_S + 1.0)


def test_no_more_items_are_under_way_than_are_admitted() -> None:
    items = [chain((GEMMA2, 1.0), (QWEN, 1.0))] * (2 * WIP_PER_GPU)
    simulation = Simulation([SMALL], specs(items), items)
    done = simulation.run()
    first = done.gpus[0].timeline.segments(done.seconds)
    served = next(segment.begin for segment in first if segment.active == (QWEN,))
    assert served == pytest.approx(1.8 + WIP_PER_GPU / throughput(8) + 4.5, abs=3.0)


def test_without_items_nothing_takes_time() -> None:
    assert simulated([], SMALL).seconds == 0
    assert simulated([Item()], SMALL).seconds == 0


def some_items(seed: int, count: int) -> list[Item]:
    """Chains, forks and joins over four models and steps without one."""
    draw = random.Random(seed)
    items = []
    for _ in range(count):
        item = Item()
        for place in range(draw.randint(1, 8)):
            pool = draw.choice([GEMMA3, GEMMA2, QWEN, PHI, None])
            after = {draw.randrange(place) for _ in range(draw.randint(0, 2))} if place else ()
            item.add(f"n{place}", pool, draw.lognormvariate(0.5, 0.6), after)
        items.append(item)
    return items


fleets = st.lists(st.sampled_from([SMALL, LARGE]), min_size=1, max_size=4)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40), fleets, st.sampled_from([1, 4, 8]))
def test_all_is_done_once_nothing_is_lost_and_nothing_beats_the_bound(
    seed: int, count: int, cards: list[Card], slots: int
) -> None:
    items = some_items(seed, count)
    models = specs(items)
    done = Simulation(cards, models, items, slots).run()
    assert done.tasks == sum(item.tasks() for item in items)
    work = sum(step.seconds for item in items for step in item.steps if step.pool)
    assert sum(gpu.laws.meter.work_s for gpu in done.gpus) == pytest.approx(work)
    assert done.seconds >= lower_bound(cards, models, items, slots) * (1 - 1e-9)
    for gpu in done.gpus:
        meter, segments = gpu.laws.meter, gpu.timeline.segments(done.seconds)
        assert meter.active_s + meter.loading_s + meter.idle_s == pytest.approx(done.seconds)
        assert sum(segment.seconds for segment in segments) == pytest.approx(done.seconds)
        assert sum(segment.seconds for segment in segments if segment.active) == pytest.approx(meter.active_s)
        assert all(one.end == two.begin for one, two in pairwise(segments))


def test_the_same_items_give_the_same_result() -> None:
    one, two = (Simulation([SMALL, LARGE], specs(items), items).run() for items in [some_items(3, 100)] * 2)
    assert (one.seconds, one.loads) == (two.seconds, two.loads)
    assert one.gpus[1].timeline.segments(one.seconds) == two.gpus[1].timeline.segments(two.seconds)


def test_another_gpu_is_simulated_not_guessed() -> None:
    items = some_items(1, 200)
    models = specs(items)
    found = {change.text: change.estimate for change in changes([SMALL, LARGE], models, items, 8)}
    assert found.keys() == {"one more 8GB", "one more 24GB", "24GB in place of 8GB"}
    assert found["one more 24GB"].seconds == estimate([SMALL, LARGE, LARGE], models, items, 8).seconds
    assert found["24GB in place of 8GB"].seconds == estimate([LARGE, LARGE], models, items, 8).seconds
    assert {change.text for change in changes([LARGE], models, items, 8)} == {"one more 24GB"}
    assert [change.text for change in changes([SMALL, SMALL], models, items, 8)][-1] == "24GB in place of one 8GB"


def test_shares_of_a_gpu_are_all_of_its_time() -> None:
    for gpu in estimate([SMALL, LARGE], specs(some_items(2, 80)), some_items(2, 80), 8).gpus:
        assert gpu.active + gpu.loading + gpu.idle == pytest.approx(1)
        assert sum(gpu.models.values()) == pytest.approx(gpu.active)
