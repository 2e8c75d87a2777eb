"""next_tasks: how many tasks of which residents a GPU takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent_runner.scheduler import Fill, Model, Policy, Resident, View, ageing_s, next_tasks

NOW = 10_000.0
EMPTY = Resident(slots=8)


def fill(residents: dict[str, Resident], models: dict[str, Model], **other: Any) -> Fill:
    return next_tasks(
        View(**{"now": NOW, "gpus": 1, "memory": 24.0, "models": models, **other, "residents": residents})
    )


@pytest.mark.parametrize(
    ("running", "queued", "taken"),
    [(0, 100, 8), (5, 100, 3), (8, 100, 0), (16, 100, 0), (0, 3, 3), (6, 1, 1), (0, 0, 0)],
)
def test_one_model_gets_all_its_slots(running: int, queued: int, taken: int) -> None:
    filled = fill({"a": replace(EMPTY, running=running)}, {"a": Model(queued=queued)})
    assert filled == Fill("a", {"a": taken} if taken else {}, {})


@pytest.mark.parametrize("state", ["loading", "draining"])
def test_only_a_ready_resident_takes_tasks(state: Any) -> None:
    waiting = Model(queued=9, interactive=2, interactive_at=NOW)
    assert fill({"a": replace(EMPTY, state=state)}, {"a": waiting}) == Fill(None, {}, {})
    assert fill({"a": EMPTY}, {"a": replace(waiting, servable=False)}) == Fill(None, {}, {})
    assert fill({"a": EMPTY}, {}) == Fill(None, {}, {})


# The fast lane


@pytest.mark.parametrize(
    ("resident", "interactive", "queued", "fast", "normal"),
    [
        (EMPTY, 2, 100, 2, 6),
        (EMPTY, 20, 100, 9, 0),  # one slot above
        (replace(EMPTY, running=8), 5, 100, 1, 0),
        (replace(EMPTY, running=9, interactive=1), 5, 100, 0, 0),
        (replace(EMPTY, running=16), 5, 100, 1, 0),  # what is fetched ahead does not block the lane
        (replace(EMPTY, running=16, interactive=1), 5, 100, 0, 0),
        (replace(EMPTY, running=7), 1, 100, 1, 0),
        (replace(EMPTY, running=7), 0, 100, 0, 1),
    ],
)
def test_interactive_tasks_go_first_on_one_slot_more(
    resident: Resident, interactive: int, queued: int, fast: int, normal: int
) -> None:
    filled = fill({"a": resident}, {"a": Model(queued=queued, interactive=interactive)})
    assert filled.interactive == ({"a": fast} if fast else {})
    assert filled.normal == ({"a": normal} if normal else {})


def test_interactive_tasks_of_every_resident_are_served() -> None:
    models = {"a": Model(queued=100), "b": Model(interactive=2)}
    assert fill({"a": EMPTY, "b": EMPTY}, models, focus="a") == Fill("a", {"a": 8}, {"b": 2})


# Several residents


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (100, 100, Fill("a", {"a": 8}, {})),  # one at a time
        (9, 100, Fill("a", {"a": 8}, {})),  # one task of the focus still waits
        (8, 100, Fill("a", {"a": 8, "b": 8}, {})),  # its stream is empty: the next one has slots of its own
        (3, 4, Fill("a", {"a": 3, "b": 4}, {})),
        (3, 3, Fill("a", {"a": 3}, {})),  # too few to slow the others down
        (0, 3, Fill("b", {"b": 3}, {})),  # but not for an empty GPU
        (0, 100, Fill("b", {"b": 8}, {})),
    ],
)
def test_another_resident_takes_only_once_the_focus_stream_is_empty(a: int, b: int, expected: Fill) -> None:
    assert fill({"a": EMPTY, "b": EMPTY}, {"a": Model(queued=a), "b": Model(queued=b)}, focus="a") == expected


@pytest.mark.parametrize(("queued", "focus"), [(3, "a"), (4, "b")])
def test_the_focus_moves_during_a_tail_only_for_half_the_slots(queued: int, focus: str) -> None:
    residents = {"a": replace(EMPTY, running=2), "b": EMPTY}
    filled = fill(residents, {"a": Model(), "b": Model(queued=queued)}, focus="a")
    assert filled == Fill(focus, {"b": 4} if focus == "b" else {}, {})


def test_a_drain_counts_as_running() -> None:
    residents = {"a": EMPTY, "b": EMPTY, "old": replace(EMPTY, running=1, state="draining")}
    filled = fill(residents, {"a": Model(), "b": Model(queued=3), "old": Model()}, focus="a")
    assert filled == Fill("a", {}, {})


def test_a_new_focus_is_the_largest_share_of_seconds() -> None:
    residents = {"a": EMPTY, "b": EMPTY, "c": EMPTY}
    models = {"a": Model(queued=50), "b": Model(queued=40, rate=0.5), "c": Model(queued=70, others=1.0)}
    assert fill(residents, models).focus == "b"
    assert fill(residents, models, focus="gone").focus == "b"
    assert fill(residents, {name: Model() for name in "abc"}).focus == "a"


# Rotation


def rotated(focus_since: float, unserved: float, **b: Any) -> str | None:
    """The focus from now on, where a has had it for so long; both times are in turns of rho * A."""
    models = {"a": Model(queued=500, head_at=NOW - 900, served_at=NOW, cost_s=3.0), "b": Model(cost_s=3.0)}
    turn = Policy().rho * ageing_s(View(now=NOW, gpus=1, memory=24.0, models=models), Policy())
    models["b"] = replace(models["b"], **{"queued": 1, "head_at": NOW - unserved * turn, **b})
    return fill({"a": EMPTY, "b": EMPTY}, models, focus="a", focus_since=NOW - focus_since * turn).focus


@pytest.mark.parametrize(
    ("focus_since", "unserved", "b", "focus"),
    [
        (1.01, 1.01, {}, "b"),
        (0.99, 1.01, {}, "a"),  # the turn is not over
        (1.01, 0.99, {}, "a"),  # b has not waited so long
        (5.0, 5.0, {"served_at": NOW - 1}, "a"),  # another GPU serves it
        (5.0, 5.0, {"queued": 0}, "a"),
    ],
)
def test_residents_take_turns(focus_since: float, unserved: float, b: dict[str, Any], focus: str) -> None:
    assert rotated(focus_since, unserved, **b) == focus


def test_the_resident_unserved_longest_is_next() -> None:
    models = {
        "a": Model(queued=500, served_at=NOW),
        "b": Model(queued=500, head_at=NOW - 200),
        "c": Model(queued=1, head_at=NOW - 201),
    }
    assert fill(dict.fromkeys(models, EMPTY), models, focus="a").focus == "c"
