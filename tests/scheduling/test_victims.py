"""victims: who makes room. Memory in GB, on a GPU of 24."""

from __future__ import annotations

import pytest

from agent_runner.scheduler import Model, Resident, View, victims

SIZES = {"a": 5.0, "b": 6.0, "c": 7.0}


def made_room(
    needed: float, queued: dict[str, int] | None = None, *, focus: str | None = None, **states: str
) -> list[str]:
    queued = queued or {}
    residents = {
        name: Resident(slots=8, memory=size, state=states.get(name, "ready"))  # type: ignore[arg-type]
        for name, size in SIZES.items()
    }
    models = {name: Model(queued=queued.get(name, 0), memory=size) for name, size in SIZES.items()}
    models["new"] = Model(queued=100, memory=needed)
    return victims(View(now=0.0, gpus=1, memory=24.0, models=models, residents=residents, focus=focus), "new")


@pytest.mark.parametrize(
    ("needed", "queued", "focus", "gone"),
    [
        (6.0, {}, None, []),  # free: 24 - 18
        (6.1, {}, None, ["a"]),
        (6.1, {"a": 2, "b": 1, "c": 3}, None, ["b"]),
        (6.1, {"a": 1, "b": 2, "c": 3}, "a", ["b"]),  # the focus last
        (6.1, {"b": 2, "c": 3}, "a", ["a"]),  # unless it has no work
        (12.0, {"a": 1, "b": 2, "c": 3}, None, ["b"]),  # b alone is enough: a stays
        (13.0, {"a": 1, "b": 2, "c": 3}, None, ["a", "b"]),  # c alone would do, but has more work
        (24.0, {"a": 1, "b": 2, "c": 3}, "a", ["b", "c", "a"]),
        (24.1, {}, None, []),  # larger than the GPU: nothing would help
    ],
)
def test_few_go_and_those_with_the_least_work(
    needed: float, queued: dict[str, int], focus: str | None, gone: list[str]
) -> None:
    assert made_room(needed, queued, focus=focus) == gone


def test_what_drains_already_counts_as_gone_and_is_not_named() -> None:
    assert made_room(11.0, {"b": 9, "c": 9}, a="draining") == []
    assert made_room(11.1, {"b": 9, "c": 8}, a="draining") == ["c"]


def test_what_loads_stays() -> None:
    assert made_room(12.0, a="loading", b="loading") == ["c"]
    assert made_room(14.0, a="loading", b="loading") == []


def test_of_two_without_work_the_one_that_is_done_sooner() -> None:
    residents = {"a": Resident(slots=8, running=5, memory=4.0), "b": Resident(slots=8, running=1, memory=4.0)}
    models = {"a": Model(), "b": Model(), "new": Model(memory=4.0)}
    assert victims(View(now=0.0, gpus=1, memory=8.0, models=models, residents=residents), "new") == ["b"]


def test_one_whose_breaker_is_open_goes_first() -> None:
    residents = {"a": Resident(slots=8, memory=4.0), "b": Resident(slots=8, memory=4.0)}
    models = {"a": Model(queued=1), "b": Model(queued=900, servable=False), "new": Model(memory=4.0)}
    assert victims(View(now=0.0, gpus=1, memory=8.0, models=models, residents=residents), "new") == ["b"]


@pytest.mark.parametrize("parts", [3, 6, 7, 10])
def test_a_gpu_that_is_full_to_the_last_fraction(parts: int) -> None:
    """Sums of fractions are not exact: all go, and together they are enough."""
    sizes = {f"m{n}": 8.0 / parts for n in range(parts)} | {"odd": 0.1 + 0.2, "even": 0.3}
    memory = sum(sizes.values())
    models = {name: Model(memory=size) for name, size in sizes.items()} | {"new": Model(queued=9, memory=memory)}
    residents = {name: Resident(slots=8, memory=size) for name, size in reversed(sizes.items())}
    view = View(now=0.0, gpus=1, memory=memory, models=models, residents=residents)
    assert sorted(victims(view, "new")) == sorted(sizes)
