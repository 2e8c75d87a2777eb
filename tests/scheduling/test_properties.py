"""What holds for every view, however odd."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_runner.scheduler import Model, Policy, Resident, View, next_model, next_tasks, victims

NAMES = [f"m{number}" for number in range(6)]
TIMES = st.floats(0, 10_000)
COUNTS = st.one_of(st.just(0), st.integers(0, 20), st.integers(0, 100_000))
RATES = st.one_of(st.just(0.0), st.floats(1e-12, 100))
MODELS = st.builds(
    Model, queued=COUNTS, interactive=st.integers(0, 12), head_at=st.none() | TIMES, interactive_at=st.none() | TIMES,
    served_at=TIMES, rate=RATES, others=RATES, cost_s=st.floats(0, 100), memory=st.floats(0, 30),
    servable=st.booleans(),
)  # fmt: skip
STATES = st.sampled_from(["ready", "ready", "ready", "draining", "loading"])


@st.composite
def residents(draw: st.DrawFn) -> Resident:
    running = draw(st.integers(0, 20))
    return Resident(
        slots=draw(st.integers(1, 16)), running=running, interactive=draw(st.integers(0, running)),
        memory=draw(st.floats(0, 10)), state=draw(STATES),
    )  # fmt: skip


VIEWS = st.builds(
    View, now=TIMES, gpus=st.integers(0, 8), memory=st.floats(0, 30),
    models=st.dictionaries(st.sampled_from(NAMES), MODELS),
    residents=st.dictionaries(st.sampled_from(NAMES), residents(), max_size=3),
    focus=st.none() | st.sampled_from(NAMES), focus_since=TIMES, target=st.none() | st.just("m0"), switched_at=TIMES,
)  # fmt: skip


@given(VIEWS, st.sampled_from([0.0, 5.0]))
@settings(max_examples=120, deadline=None)
def test_a_switch_is_possible_useful_and_alone(view: View, patience_s: float) -> None:
    choice = next_model(view, Policy(patience_s=patience_s))
    assert choice.reason
    assert choice.delay_s >= 0
    if choice.model is None:
        return
    model = view.models[choice.model]
    assert model.queued + model.interactive > 0
    assert model.servable
    assert model.memory <= view.memory
    assert choice.model not in view.residents
    assert view.target is None
    assert all(resident.state != "loading" for resident in view.residents.values())
    assert choice.delay_s == 0 or model.interactive


@given(VIEWS)
@settings(max_examples=120, deadline=None)
def test_an_idle_gpu_takes_what_nobody_holds(view: View) -> None:
    idle = replace(view, residents={}, target=None)
    open_to_it = [
        model
        for model in idle.models.values()
        if model.queued + model.interactive and model.servable and model.memory <= idle.memory and not model.others
    ]
    assert not open_to_it or next_model(idle).model is not None


@given(VIEWS, st.sampled_from(NAMES))
@settings(max_examples=120, deadline=None)
def test_victims_make_room_and_none_of_them_for_nothing(view: View, name: str) -> None:
    if name in view.residents or name not in view.models:
        return
    gone = victims(view, name)
    assert all(view.residents[victim].state == "ready" for victim in gone)
    assert len(set(gone)) == len(gone)
    taken = {victim: r.memory for victim, r in view.residents.items() if r.state != "draining" and victim not in gone}
    room = view.memory - view.models[name].memory - sum(taken.values())
    if gone:
        assert room >= -1e-6
        assert all(room - view.residents[victim].memory < 1e-6 for victim in gone[:1])


@given(VIEWS)
@settings(max_examples=120, deadline=None)
def test_no_more_tasks_than_slots_and_queues_have(view: View) -> None:
    fill = next_tasks(view)
    assert fill.focus is None or view.residents[fill.focus].state == "ready"
    for name in {*fill.normal, *fill.interactive}:
        resident, model = view.residents[name], view.models[name]
        normal, interactive = fill.normal.get(name, 0), fill.interactive.get(name, 0)
        assert resident.state == "ready"
        assert model.servable
        assert 0 <= normal <= model.queued
        assert 0 <= interactive <= model.interactive
        if normal:
            assert resident.running + normal + interactive <= resident.slots
        if interactive > 1:
            assert resident.running + interactive <= resident.slots + 1
        assert normal + interactive > 0  # nothing is named for nothing


@given(VIEWS)
@settings(max_examples=120, deadline=None)
def test_no_gpu_stands_idle_beside_work_of_its_own(view: View) -> None:
    idle = replace(view, residents={name: replace(r, running=0) for name, r in view.residents.items()})
    fill = next_tasks(idle)
    work = [
        name
        for name, resident in idle.residents.items()
        if resident.state == "ready" and name in idle.models and idle.models[name].servable
        and idle.models[name].queued + idle.models[name].interactive
    ]  # fmt: skip
    assert bool(work) == bool({*fill.normal, *fill.interactive})
