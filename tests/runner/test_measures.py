"""Measured rates and costs."""

from collections.abc import Mapping

import pytest

from agent_runner import measures
from agent_runner.measures import LEAST_S, UNKNOWN_S, Measures
from lua.run_store import RunStore


class Time:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(measures.time, "monotonic", lambda: self.now)


def run_full(of: Measures, time: Time, pool: str, slots: int, tasks: int, each_s: float, at_once: int = 1) -> None:
    """So many tasks are completed, `at_once` every `each_s`, each slot being filled again at once."""
    of.executing(pool, slots)
    for _ in range(tasks):
        time.now += each_s
        for gone in range(1, at_once + 1):
            of.executing(pool, slots - gone)
            of.completed(pool, slots)
        of.executing(pool, slots)


@pytest.mark.parametrize(("slots", "at_once"), [(8, 1), (8, 8), (3, 1), (2, 2), (1, 1)])
def test_a_rate_is_that_of_full_slots(
    store: RunStore, monkeypatch: pytest.MonkeyPatch, slots: int, at_once: int
) -> None:
    of, time = Measures(store, "8GB"), Time(monkeypatch)
    assert of.rate("m", slots) == slots / UNKNOWN_S
    run_full(of, time, "m", slots, tasks=40, each_s=0.5, at_once=at_once)
    assert of.rate("m", slots) == pytest.approx(2.0 * at_once, rel=0.1)
    assert of.rate("other", slots) == of.rate("m", slots)  # the mean of what is known


def test_a_tail_is_not_measured(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    of, time = Measures(store, "8GB"), Time(monkeypatch)
    run_full(of, time, "m", slots=8, tasks=10, each_s=0.5)
    for running in range(7, -1, -1):
        time.now += 60
        of.executing("m", running)
        of.completed("m", 8)
    assert of.rate("m", 8) == 8 / UNKNOWN_S


def test_what_failed_or_waited_says_nothing_of_the_gpu(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    of, time = Measures(store, "8GB"), Time(monkeypatch)
    run_full(of, time, "m", slots=8, tasks=40, each_s=0.5)
    before = of.rate("m", 8)
    for _ in range(100):
        time.now += 0.001
        of.disturb("m")
    assert of.rate("m", 8) == before
    run_full(of, time, "m", slots=8, tasks=40, each_s=0.5)
    assert of.rate("m", 8) == pytest.approx(before, rel=0.01)


def test_a_switch_costs_its_load_and_half_its_drain(store: RunStore) -> None:
    of = Measures(store, "8GB")
    assert of.cost_s("m") == UNKNOWN_S
    of.take("m", "load_s", 3.0)
    of.take("m", "drain_s", 2.0)
    assert of.cost_s("m") == 4.0
    of.take("m", "load_s", 8.0)
    assert of.cost_s("m") == pytest.approx(5.0)  # a moving average
    of.take("n", "load_s", 0.0)
    of.take("n", "drain_s", 0.0)
    assert of.cost_s("n") == LEAST_S


async def test_gpus_of_one_kind_share_what_they_measure(store: RunStore) -> None:
    first, second, other = (Measures(store, kind) for kind in ("8GB", "8GB", "24GB"))
    first.take("m", "load_s", 3.0)
    first.take("m", "rate", 2.5)
    await first.share()
    await second.share()
    await other.share()
    assert (second.cost_s("m"), second.rate("m", 8)) == (3.0, 2.5)
    assert other.cost_s("m") == UNKNOWN_S
    second.take("m", "rate", 5.0)
    await second.share()
    await first.share()
    assert first.rate("m", 8) == second.rate("m", 8) == pytest.approx(3.0)


async def test_what_is_measured_while_others_are_read_counts(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    of, read = Measures(store, "8GB"), store.measures

    async def slowly(kind: str) -> Mapping[str, Mapping[str, float]]:
        found = await read(kind)
        of.take("m", "load_s", 3.0)
        return found

    monkeypatch.setattr(store, "measures", slowly)
    await of.share()
    assert of.cost_s("m") == 3.0


def test_means_are_not_made_anew_at_each_look(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be hundreds of models, and each decision asks for each."""
    of, made = Measures(store, "8GB"), []
    monkeypatch.setattr(measures, "fmean", lambda values: made.append(len(values)) or 2.0)
    for number in range(3):
        of.take(f"m{number}", "load_s", 2.0)
    count = len(made)
    assert [of.cost_s(f"unknown{number}") for number in range(9)] == [2.0] * 9
    assert len(made) == count
