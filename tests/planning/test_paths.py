"""The way of an item: what the graph says, what the options say, and that real runs took the same."""

from __future__ import annotations

import random
from collections import Counter
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pavane.planning.course import Course
from pavane.planning.fault import PlanFault
from pavane.planning.fleet import models_of
from pavane.planning.given import Given
from pavane.planning.paths import sample_item
from pavane.planning.recorded import record
from pavane.planning.workflow import PlannedWorkflow
from schemas.compiler.compiler import validate
from tests.planning.plans import agent, before, cel, function, names, walked, workflow
from tests.play import Play
from tests.reference.generator import case

BRANCH = workflow(
    agent("a"),
    {
        "id": "b", "type": "branch",
        "config": {"rules": [{"condition": cel(), "next": ["x"]}, {"condition": cel(), "next": []}], "default": ["y"]},
    },
    agent("x"), agent("y"),
    edges=["a -> b"],
)  # fmt: skip


def loop(node_id: str, back_to: str, **config: object) -> dict[str, object]:
    defaults = {"condition": cel(), "loop_back_to": back_to, "max_iterations": 4, "break_path": ["done"]}
    return {"id": node_id, "type": "loop", "config": defaults | config}


DO_WHILE = workflow(agent("a"), loop("l", "a"), agent("done"), edges=["a -> l"])
WHILE = workflow(function("s"), loop("l", "a"), agent("a"), agent("done"), edges=["s -> l", "a -> l"])


def test_a_branch_takes_its_ways_as_often_as_is_said() -> None:
    ends = Counter(names(walked(BRANCH, Given(branches={"b": (1, 0, 3)}), seed=seed))[-1] for seed in range(400))
    assert ends.keys() == {"x", "y"}
    assert ends["y"] == pytest.approx(300, abs=40)


def test_without_a_word_every_way_is_as_likely() -> None:
    ends = Counter(names(walked(BRANCH, seed=seed))[-1] for seed in range(600))
    assert all(ends[end] == pytest.approx(200, abs=45) for end in ("x", "y", "a"))


@pytest.mark.parametrize("document", [DO_WHILE, WHILE], ids=["do-while", "while"])
@pytest.mark.parametrize("passes", [1.0, 1.6, 2.5, 4.0])
def test_a_loop_makes_as_many_passes_as_is_said(document: dict[str, object], passes: float) -> None:
    made = [names(walked(document, Given(loops={"l": passes}), seed=seed)).count("a") for seed in range(500)]
    assert max(made) <= 4
    assert mean(made) == pytest.approx(passes, abs=0.2)


def test_a_while_may_make_no_pass() -> None:
    assert names(walked(WHILE, Given(loops={"l": 0}))) == ["s", "done"]


def test_a_join_waits_for_parallel_paths() -> None:
    document = workflow(
        function("a"), agent("b"), agent("c"), {"id": "d", "type": "join"}, agent("e"),
        edges=["a -> b", "a -> c", "b -> d", "c -> d", "d -> e"],
    )  # fmt: skip
    item = walked(document)
    assert names(item).count("e") == 1
    assert before(item, "e") == {"a", "b", "c"}
    assert before(item, "c") == {"a"}


def test_a_path_that_ends_early_is_waited_for_until_then() -> None:
    document = workflow(
        function("a"), agent("b"), agent("c"), agent("d"), edges=["a -> b", "a -> c", "b -> d", "c ? d"]
    )
    item = walked(document, Given(branches={"c": (0,)}))
    assert before(item, "d") == {"a", "b", "c"}


def test_the_items_of_a_map_are_beside_each_other() -> None:
    inner = {"items": "input.list", "nodes": [agent("m"), agent("n")], "edges": [{"from": "m", "to": "n"}]}
    document = workflow(function("a"), {"id": "each", "type": "map", "config": inner}, agent("z"),
                        edges=["a -> each", "each -> z"])  # fmt: skip
    item = walked(document, Given(maps={"each": 5}))
    assert Counter(names(item)) == {"a": 1, "each": 2, "m": 5, "n": 5, "z": 1}
    assert before(item, "z") == {"a", "each", "m", "n"}
    assert sum(step.waits_for == 1 for step in item.steps if step.node == "m") == 5
    assert names(walked(document, Given(maps={"each": 0}))) == ["a", "each", "each", "z"]
    assert names(walked(document)).count("m") == 10


def test_a_map_has_no_more_items_at_work_than_it_says() -> None:
    inner = {"items": "input.list", "nodes": [agent("m")], "max_parallel": 2}
    item = walked(workflow({"id": "each", "type": "map", "config": inner}), Given(maps={"each": 6}))
    starts = [place for place, step in enumerate(item.steps) if step.node == "m"]
    assert [min(item.steps[place].next) for place in starts[:4]] == starts[2:]


def test_a_workflow_that_stands_in_another_is_walked() -> None:
    child = {"id": "call", "type": "workflow", "config": {"document": BRANCH}}
    item = walked(workflow(child, agent("after"), edges=["call -> after"]), Given(branches={"b": (1, 0, 0)}))
    assert names(item) == ["a", "x", "after"]


def test_other_load_time_options_are_another_model() -> None:
    long = agent("b")
    long["config"]["options"] = {"num_ctx": 16_384}
    item = walked(workflow(agent("a"), long, edges=["a -> b"]))
    assert [step.pool.partition("#")[0] for step in item.steps if step.pool] == ["gemma3:4b"] * 2
    short_pool, long_pool = (str(step.pool) for step in item.steps)
    sizes = models_of(PlannedWorkflow.of(workflow(agent("a"), long)), {})
    assert sizes[long_pool].vram_gb(8) - sizes[short_pool].vram_gb(8) == pytest.approx(3 * 8 * 0.125)


def test_times_that_are_given_and_times_that_are_not() -> None:
    document = workflow(agent("a"), function("f"), {"id": "w", "type": "wait", "config": {"for_ms": 2_500}},
                        edges=["a -> f", "f -> w"])  # fmt: skip
    given_times = Given(times={"a": 3.0, "f": 7.0})
    items = [walked(document, given_times, seed=seed) for seed in range(400)]
    assert mean(item.steps[0].seconds for item in items) == pytest.approx(3.0, rel=0.1)
    assert {(item.steps[1].seconds, item.steps[2].seconds) for item in items} == {(7.0, 2.5)}
    assert 1 < mean(walked(document, seed=seed).steps[0].seconds for seed in range(100)) < 6


def test_an_item_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pavane.planning.item.MAX_STEPS", 1_000)
    inner = {"items": "input.list", "nodes": [agent("m")]}
    outer = {"items": "input.list", "nodes": [{"id": "in", "type": "map", "config": inner}]}
    with pytest.raises(PlanFault, match="1,000 steps"):
        walked(workflow({"id": "out", "type": "map", "config": outer}), Given(maps={"in": 1_000, "out": 1_000}))


@settings(max_examples=40)
@given(st.integers(0, 100_000))
def test_every_step_comes_after_those_that_it_waits_for(seed: int) -> None:
    document = case(random.Random(seed)).workflow
    if validate(document):
        return
    item = walked(document, seed=seed)
    waits = Counter(follower for step in item.steps for follower in step.next)
    assert all(step.waits_for == waits[place] for place, step in enumerate(item.steps))
    assert all(follower > place for place, step in enumerate(item.steps) for follower in step.next)


@pytest.mark.parametrize("block", range(4))
async def test_a_run_that_is_followed_executes_what_it_executed(redis, block: int) -> None:
    """Random workflows, run by the real scripts and decisions: the walk that follows their events has their steps."""
    followed = 0
    for seed in range(block * 15, (block + 1) * 15):
        made = case(random.Random(seed))
        if validate(made.workflow):
            continue
        workflow_ = PlannedWorkflow.of(made.workflow)
        if workflow_.ir.lanes:
            continue  # in which order they decide is chance
        await redis.flushdb()
        play = Play(redis, made.workflow, lambda task, started, made=made: made.outcome_of.value(
            task.node_id, started.token.iteration, task.token_id))  # fmt: skip
        await play.start(input=made.input)
        await play.run_to_end()
        if await play.status() != "COMPLETED":
            continue
        events = [event.as_dict() for event in await play.events()]
        course = Course({}, Given(), record("batch_1", [events]), random.Random(0))
        assert Counter(names(sample_item(workflow_, course))) == Counter(play.path()), seed
        followed += 1
    assert followed >= 5
