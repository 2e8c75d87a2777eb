"""next_model, case by case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runner.scheduler import Backlog, View, next_model


def view(models: dict[str, int | Backlog], focus: str | None = None, running: int = 0) -> View:
    backlogs = {name: b if isinstance(b, Backlog) else Backlog(b) for name, b in models.items()}
    return View(backlogs, focus, running, slots=4)


@pytest.mark.parametrize(
    ("seen", "chosen"),
    [
        pytest.param(view({}), None, id="nothing known"),
        pytest.param(view({"a": 0, "b": 0}), None, id="nothing queued"),
        pytest.param(view({"a": 1}), "a", id="the only one"),
        pytest.param(view({"a": 3, "b": 9}), "b", id="the longest"),
        pytest.param(view({"a": 1, "b": 900}, focus="a"), "a", id="stays while its stream has one task"),
        pytest.param(view({"a": Backlog(0, 1), "b": 9}, focus="a"), "a", id="an interactive task keeps it too"),
        pytest.param(view({"a": 0, "b": 9}, focus="a"), "b", id="leaves an empty stream"),
        pytest.param(view({"a": 0, "b": 3}, focus="a", running=1), "a", id="waits for the tail: too little elsewhere"),
        pytest.param(view({"a": 0, "b": 4}, focus="a", running=1), "b", id="leaves during the tail for full slots"),
        pytest.param(view({"a": 0, "b": 3}, focus="a"), "b", id="the tail has ended"),
        pytest.param(view({"a": 0, "b": 0}, focus="a"), "a", id="keeps its model when all is quiet"),
        pytest.param(view({"b": 1}, focus="gone"), "b", id="its stream is unknown"),
        pytest.param(view({"b": 5, "a": 5}), "a", id="equal: the name decides"),
        pytest.param(view({"a": 5, "b": Backlog(4, 1)}), "b", id="equal: interactive first"),
    ],
)
def test_choice(seen: View, chosen: str | None) -> None:
    assert next_model(seen).model == chosen


backlogs = st.builds(Backlog, st.integers(0, 20), st.integers(0, 2))
views = st.builds(
    View,
    st.dictionaries(st.sampled_from("abc"), backlogs),
    st.none() | st.sampled_from("abc"),
    st.integers(0, 4),
    st.just(4),
)


@given(views)
def test_work_is_never_left_by_an_idle_gpu(seen: View) -> None:
    chosen = next_model(seen).model
    if seen.running == 0 and any(b.total for b in seen.models.values()):
        assert chosen is not None
        assert seen.models[chosen].total > 0


@given(views)
def test_leaves_its_model_only_when_its_stream_is_empty(seen: View) -> None:
    if seen.focus is not None and next_model(seen).model != seen.focus:
        assert seen.models.get(seen.focus, Backlog()).total == 0
