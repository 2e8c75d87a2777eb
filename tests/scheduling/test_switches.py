"""next_model: each rule of docs/scheduling.md, and the edges of each. Times in seconds, memory in GB."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from agent_runner.scheduler import Model, Policy, Resident, View, ageing_s, next_model, rates_given

NOW = 10_000.0
HERE = Resident(slots=8, running=8, memory=6.0)
TAIL = replace(HERE, running=3)
IDLE = replace(HERE, running=0)


def waiting(queued: int, **other: Any) -> Model:
    """A model with tasks that have just come, of a second each, whose load takes 2 s."""
    return Model(**{"queued": queued, "head_at": NOW, "cost_s": 2.0, "memory": 6.0, **other})


def view(residents: dict[str, Resident] | None = None, /, **other: Any) -> View:
    """An 8 GB GPU, alone, with room for one such model."""
    return View(**{"now": NOW, "gpus": 1, "memory": 8.0, "residents": residents or {}, "models": {}, **other})


def chosen(view: View, policy: Policy | None = None) -> str | None:
    return next_model(view, policy).model


# Nothing to decide


def test_nothing_happens_where_nothing_waits() -> None:
    assert next_model(view(models={"a": waiting(0)})) == next_model(view())
    assert chosen(view()) is None


@pytest.mark.parametrize(
    "under_way",
    [{"target": "a"}, {"residents": {"b": replace(IDLE, state="loading")}}, {"residents": {"b": IDLE}, "target": "b"}],
)
def test_one_switch_at_a_time(under_way: dict[str, Any]) -> None:
    models = {"a": waiting(1_000, interactive=3, interactive_at=0.0, head_at=0.0), "b": waiting(0)}
    assert chosen(view(models=models)) == "a"
    assert chosen(replace(view(models=models), **under_way)) is None


@pytest.mark.parametrize("never", [{"servable": False}, {"memory": 8.1}])
@pytest.mark.parametrize("why", [{}, {"head_at": 0.0}, {"interactive": 1, "interactive_at": 0.0}])
def test_a_model_that_this_gpu_can_not_serve_is_never_chosen(never: dict[str, Any], why: dict[str, Any]) -> None:
    assert chosen(view(models={"a": waiting(500, **why)})) == "a"
    assert chosen(view(models={"a": waiting(500, **why, **never)})) is None


def test_a_reason_is_a_short_sentence() -> None:
    for given in (view(), view(models={"a": waiting(9)}), view({"a": TAIL}, models={"a": waiting(0), "b": waiting(1)})):
        assert 10 < len(next_model(given).reason) < 100


# Rule 0: interactive tasks

INTERACTIVE = waiting(0, interactive=1, interactive_at=NOW - 3)


def test_an_interactive_task_interrupts_a_gpu_with_work() -> None:
    models = {"hot": waiting(500), "a": replace(INTERACTIVE, interactive_at=NOW)}
    choice = next_model(view({"hot": HERE}, models=models))
    assert (choice.model, choice.delay_s) == ("a", 0.0)  # nobody else could bid


@pytest.mark.parametrize(
    ("change", "interrupts"),
    [({}, True), ({"others": 1.0}, False), ({"servable": False}, False), ({"interactive": 0}, False)],
)
def test_only_where_nobody_holds_it(change: dict[str, Any], interrupts: bool) -> None:
    models = {"hot": waiting(500), "a": replace(INTERACTIVE, **change)}
    assert (chosen(view({"hot": HERE}, models=models)) == "a") is interrupts


@pytest.mark.parametrize(("patience_s", "interrupts"), [(0.0, True), (3.0, True), (3.1, False)])
def test_it_waits_as_long_as_the_policy_says(patience_s: float, interrupts: bool) -> None:
    given = view({"hot": HERE}, models={"hot": waiting(500), "a": INTERACTIVE})
    assert (chosen(given, Policy(patience_s=patience_s)) == "a") is interrupts


def test_an_idle_gpu_has_no_reason_to_be_patient() -> None:
    assert chosen(view({"hot": IDLE}, models={"hot": waiting(0), "a": INTERACTIVE}), Policy(patience_s=60.0)) == "a"


def test_the_one_that_waits_longest_is_first() -> None:
    models = {"a": INTERACTIVE, "b": replace(INTERACTIVE, interactive_at=NOW - 4, queued=0), "c": waiting(900)}
    assert chosen(view(models=models)) == "b"


@pytest.mark.parametrize(("served_ago", "switches"), [(60, False), (1, True)])
def test_what_was_just_loaded_takes_its_interactive_tasks_before_it_goes(served_ago: int, switches: bool) -> None:
    """Else each of two models displaces the other as soon as it is there, and no task is ever taken."""
    models = {"a": replace(INTERACTIVE, served_at=NOW - served_ago), "b": INTERACTIVE}
    assert (chosen(view({"a": IDLE}, models=models, switched_at=NOW - 2)) == "b") is switches


def bid(residents: dict[str, Resident], memory: float = 8.0, at: float = NOW) -> float:
    task = replace(INTERACTIVE, interactive_at=NOW)
    given = view(residents, models={"hot": waiting(500), "a": task}, memory=memory, gpus=4, now=at)
    choice = next_model(given)
    assert choice.model == "a"
    return choice.delay_s


def test_the_cheapest_bid_comes_first() -> None:
    """Free memory bids nothing; after it an idle GPU; then the one that gives up least."""
    bids = [bid({"hot": HERE}, memory=24.0), bid({"hot": IDLE}), bid({"hot": TAIL}), bid({"hot": HERE})]
    assert bids[0] == 0.0
    assert bids == sorted(set(bids))
    assert all(later - sooner > 0.01 for sooner, later in pairwise(bids)), "a claim takes 1 ms"
    assert bids[-1] < INTERACTIVE.cost_s / 2


def test_who_looks_again_after_its_bid_claims_it() -> None:
    asked = bid({"hot": HERE})
    assert bid({"hot": HERE}, at=NOW + asked / 2) == pytest.approx(asked / 2)
    assert bid({"hot": HERE}, at=NOW + asked) == pytest.approx(0.0, abs=1e-9)


# Rule 1: ageing

COSTS = {"hot": 4.0, "rare": 2.0}
BOUND = 300.0  # (4 + 2) / 0.02, on one GPU


def beside_a_hot_stream(age: float, *, lasted: float = 1_000.0, gpus: int = 1, **rare: Any) -> View:
    """A hot model that never runs out of work, and a rare one whose only task waits."""
    models = {
        "hot": waiting(5_000, cost_s=COSTS["hot"], head_at=NOW - 900),
        "rare": waiting(**{"queued": 1, "head_at": NOW - age, **rare}),
    }
    return view({"hot": HERE}, models=models, switched_at=NOW - lasted, gpus=gpus)


@pytest.mark.parametrize(("age", "switches"), [(299.0, False), (300.0, False), (301.0, True)])
def test_a_rare_model_beside_a_hot_stream_waits_no_longer_than_the_bound(age: float, switches: bool) -> None:
    assert ageing_s(beside_a_hot_stream(age), Policy()) == pytest.approx(BOUND)
    assert (chosen(beside_a_hot_stream(age)) == "rare") is switches


@pytest.mark.parametrize(
    ("change", "switches"),
    [
        ({"served_at": NOW - 299}, False),  # it had its turn
        ({"served_at": NOW - 301}, True),
        ({"lasted": 39.0}, False),  # kappa times its cost
        ({"lasted": 40.0}, True),
        ({"others": 0.5}, False),  # another GPU will come to it
        ({"gpus": 4}, True),
        ({"queued": 0, "head_at": None}, False),
        ({"head_at": None}, False),  # its age is not known yet
    ],
)
def test_ageing_ends_a_turn_that_has_lasted(change: dict[str, Any], switches: bool) -> None:
    assert (chosen(beside_a_hot_stream(301.0, **change)) == "rare") is switches


def test_more_gpus_wait_less() -> None:
    assert ageing_s(beside_a_hot_stream(1.0, gpus=4), Policy()) == pytest.approx(BOUND / 4)
    assert ageing_s(beside_a_hot_stream(1.0, gpus=0), Policy()) == pytest.approx(BOUND)


def test_the_oldest_of_the_aged_is_first_whatever_its_share() -> None:
    given = beside_a_hot_stream(900.0)
    models = {**given.models, "b": waiting(800, head_at=NOW - 1_000), "c": waiting(1, head_at=NOW - 1_000)}
    assert chosen(replace(given, models=models)) == "b"  # equal ages: by name
    assert chosen(replace(given, models={**models, "b": waiting(800, head_at=NOW - 999)})) == "c"


def test_a_gpu_that_leaves_anyway_goes_to_the_aged_first() -> None:
    """Two models whose turns are short would pass each other the GPU for ever."""
    given = beside_a_hot_stream(2_000.0, lasted=1.0)
    models = {**given.models, "hot": waiting(0), "b": waiting(500)}
    assert chosen(replace(given, models=models)) == "rare"


# Rule 2: its models have nothing more


def test_a_model_stays_until_its_stream_is_empty() -> None:
    assert chosen(view({"a": HERE}, models={"a": waiting(1), "b": waiting(5_000)})) is None
    assert chosen(view({"a": HERE}, models={"a": waiting(0), "b": waiting(5_000)})) == "b"


@pytest.mark.parametrize(("queued", "switches"), [(9, False), (10, True)])
def test_during_the_tail_only_for_five_times_its_cost(queued: int, switches: bool) -> None:
    assert (chosen(view({"a": TAIL}, models={"a": waiting(0), "b": waiting(queued)})) == "b") is switches
    assert chosen(view({"a": IDLE}, models={"a": waiting(0), "b": waiting(queued)})) == "b"


@pytest.mark.parametrize(
    ("b", "c", "first"),
    [
        (waiting(50), waiting(60), "c"),
        (waiting(60), waiting(60), "b"),  # equal shares: by name
        (waiting(50, rate=0.5), waiting(60), "b"),  # seconds, not tasks
        (waiting(100), waiting(60, others=0.0, rate=0.5), "c"),
        (waiting(100, others=1.0), waiting(60), "c"),  # another GPU does half of b
        (waiting(100, others=1.0), waiting(40), "b"),
        (waiting(50, rate=0.0), waiting(60), "b"),  # a rate of nothing is no reason to fail
        (waiting(30, interactive=40, interactive_at=NOW, others=0.1), waiting(60), "b"),
    ],
)
def test_the_largest_share_is_next(b: Model, c: Model, first: str) -> None:
    assert chosen(view({"a": TAIL}, models={"a": waiting(0), "b": b, "c": c})) == first


def test_a_hot_model_is_held_by_several_gpus_until_another_share_is_larger() -> None:
    holders, models = 0, {"hot": waiting(400), "b": waiting(120)}
    while chosen(view(models={**models, "hot": replace(models["hot"], others=float(holders))})) == "hot":
        holders += 1
    assert holders == 3


@pytest.mark.parametrize(("queued", "joins"), [(12, False), (13, True)])
def test_an_idle_gpu_helps_only_where_the_others_would_take_three_loads(queued: int, joins: bool) -> None:
    """Two tasks a second elsewhere, a switch of 2 s: 12 tasks take the others 6 s. The share stays below 5 * 2 s."""
    assert (chosen(view(models={"a": waiting(queued, others=2.0)})) == "a") is joins


def test_an_idle_gpu_takes_what_nobody_holds_before_it_helps() -> None:
    assert chosen(view(models={"a": waiting(13, others=2.0), "b": waiting(1)})) == "b"


def test_a_model_whose_breaker_is_open_keeps_no_gpu() -> None:
    models = {"a": waiting(900, servable=False), "b": waiting(1)}
    assert chosen(view({"a": IDLE}, models=models)) == "b"


def test_a_model_that_drains_keeps_no_gpu_and_is_not_loaded_again() -> None:
    models = {"a": waiting(900), "b": waiting(50)}
    assert chosen(view({"a": replace(TAIL, state="draining")}, models=models)) == "b"
    assert chosen(view({"a": replace(TAIL, state="draining")}, models={"a": waiting(900)})) is None


# Rule 3: beside the others


def beside(left: int, queued: int = 100, **other: Any) -> View:
    models = {"a": waiting(left), "b": waiting(queued, memory=10.0), "c": waiting(0)}
    residents = {"a": HERE, "c": replace(IDLE, memory=6.0)}
    return view(residents, **{"models": models, "memory": 24.0, **other})


@pytest.mark.parametrize(
    ("given", "loads"),
    [
        (beside(3), True),
        (beside(4), False),  # a's work lasts 2 * 2 s: time enough to look again
        (beside(3, queued=9), False),  # less than five times its cost
        (beside(3, queued=10), True),
        (beside(3, memory=16.0), True),  # c has no work, so it may go
        (beside(3, memory=15.9), False),
    ],
)
def test_the_next_model_is_loaded_beside_those_with_work(given: View, loads: bool) -> None:
    assert (chosen(given) == "b") is loads


def test_of_those_that_fit_beside_the_largest_share() -> None:
    given = beside(3, memory=16.0)
    models = {**given.models, "large": waiting(900, memory=11.0), "small": waiting(90, memory=1.0)}
    assert chosen(replace(given, models=models)) == "b"


# Rule 4: the others finish it


def shared(mine: int, others: float, queued: int, lasted: float = 10.0) -> View:
    return view(
        {"a": HERE},
        models={"a": waiting(mine, others=others), "b": waiting(queued)},
        switched_at=NOW - lasted,
        gpus=4,
    )


@pytest.mark.parametrize(
    ("given", "leaves"),
    [
        (shared(120, 3.0, 41), True),  # 40 s without this GPU, 41 s for b with it
        (shared(120, 3.0, 39), False),
        (shared(12, 3.0, 9), False),  # less than five times its cost
        (shared(120, 3.0, 41, lasted=9.9), False),  # nor has the last switch
        (shared(1, 0.0, 5_000), False),  # nobody else would do it
    ],
)
def test_one_of_several_holders_leaves_before_they_all_run_dry(given: View, leaves: bool) -> None:
    assert (chosen(given) == "b") is leaves


def test_models_of_one_gpu_share_its_rate_in_turns() -> None:
    rates = {"a": 3.0, "b": 1.2, "c": 0.9}
    assert rates_given(rates, {"a", "d"}) == rates
    assert rates_given(rates, {"a", "b", "c"}) == pytest.approx({"a": 1.0, "b": 0.4, "c": 0.3})
    assert rates_given(rates, set()) == rates


def test_it_does_not_come_back_at_once() -> None:
    """After the switch: a has one holder fewer, b one more. Nobody gains by the reverse."""
    back = view({"b": HERE}, models={"b": waiting(40), "a": waiting(119, others=2.0)}, switched_at=NOW - 99, gpus=4)
    assert chosen(back) is None
    shared_b = replace(back, models={"b": waiting(40, others=1.0), "a": waiting(119, others=2.0)})
    assert chosen(shared_b) is None
