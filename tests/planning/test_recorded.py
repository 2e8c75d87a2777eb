"""What an earlier batch tells: the work behind times that were shared, and the ways its items took."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agent_runner.engines.simulated.gpu import BATCH_COST
from pavane.planning.course import Course
from pavane.planning.given import Given
from pavane.planning.recorded import record
from schemas.compiler.compiler import compile_workflow
from tests.planning.plans import GEMMA3, QWEN, agent, names, walked, workflow
from tests.planning.test_paths import BRANCH, DO_WHILE


def ran(
    node: str, begin: float, end: float, model: str = QWEN, load: float = 0, runner: str = "gpu-1", **more: Any
) -> list[dict[str, Any]]:
    """The events of a task: times in seconds; `load` of it was the wait for its model."""
    token = f"{node}-{begin}"
    usage = {"llm_model": model, "execution_time_ms": (end - begin) * 1_000, "wait_ms": load * 1_000}
    return [
        {"type": "task_started", "node_id": node, "token_id": token, "at": begin * 1_000, "runner": runner},
        {"type": "node_completed", "node_id": node, "token_id": token, "at": end * 1_000, "usage": usage, **more},
    ]


def work(*runs: list[dict[str, Any]], **options: float) -> list[float]:
    return [round(seconds, 6) for seconds in record("batch_1", runs, **options).pooled[("seconds", "a")]]


def test_alone_a_task_takes_its_work() -> None:
    assert work(ran("a", 10, 14)) == [4.0]
    assert work(ran("a", 10, 14, load=1.5)) == [2.5]


def test_a_faster_card_and_a_faster_simulation_do_more_in_the_time() -> None:
    assert work(ran("a", 10, 14), pace=1.8) == [7.2]
    assert work(ran("a", 10, 14), speed=50) == [200.0]


def test_what_ran_beside_it_on_its_model_slowed_it() -> None:
    shared = 4 / (1 + BATCH_COST)
    assert work(ran("a", 0, 4), ran("a", 0, 4)) == [round(shared, 6)] * 2
    assert work(ran("a", 0, 4), ran("a", 2, 4)) == [round(2 + shared / 2, 6), round(shared / 2, 6)]
    assert work(ran("a", 0, 4), ran("a", 0, 4, runner="gpu-2")) == [4.0, 4.0]
    assert work(ran("a", 0, 4), ran("a", 4, 8)) == [4.0, 4.0]


def test_another_model_beside_it_took_half() -> None:
    assert work(ran("a", 0, 4), ran("b", 0, 4, model=GEMMA3)) == [2.0]


def test_a_task_that_only_waited_did_nothing() -> None:
    assert work(ran("a", 0, 4, load=4), ran("a", 0, 4)) == [0.0, 4.0]


def test_other_tasks_and_waits_have_their_own_time() -> None:
    events = [
        {"type": "task_started", "node_id": "f", "token_id": "t", "at": 0, "runner": "r"},
        {"type": "node_completed", "node_id": "f", "token_id": "t", "at": 900, "usage": {"execution_time_ms": 700}},
        {"type": "node_opened", "node_id": "h", "token_id": "u", "at": 1_000, "waits_for": "answer"},
        {"type": "node_completed", "node_id": "h", "token_id": "u", "at": 61_000},
    ]
    found = record("batch_1", [events])
    assert found.pooled == {("seconds", "f"): [0.7], ("seconds", "h"): [60.0]}
    assert found.measured == {"f": 1, "h": 1}


def test_an_item_follows_one_run() -> None:
    """Two runs: the ways and times of each stay together."""
    default = ran("a", 0, 1, decisions=[{"node": "b", "rule": "default", "next": ["y"]}]) + ran("y", 5, 6)
    second = ran("a", 10, 19, decisions=[{"node": "b", "rule": 1, "next": []}])
    recorded = record("batch_1", [default, second])
    seen = set()
    for seed in range(40):
        item = walked(BRANCH, recorded=recorded, seed=seed)
        seen.add((*names(item), item.steps[0].seconds))
    assert seen == {("a", "y", 1.0), ("a", 9.0)}


def test_loops_go_round_as_they_did() -> None:
    back = {"node": "l", "pass": 1, "result": "back", "next": ["a"]}
    over = {"node": "l", "pass": 2, "result": "break", "next": ["done"]}
    recorded = record(
        "batch_1", [ran("a", 0, 1, decisions=[back]) + ran("a", 1, 3, decisions=[over]) + ran("done", 3, 4)]
    )
    item = walked(DO_WHILE, recorded=recorded)
    assert [(step.node, step.seconds) for step in item.steps] == [("a", 1.0), ("a", 2.0), ("done", 1.0)]


def test_what_is_given_goes_before_what_was_recorded() -> None:
    recorded = record("batch_1", [ran("a", 0, 1, decisions=[{"node": "b", "rule": "default", "next": ["y"]}])])
    item = walked(BRANCH, Given(branches={"b": (1, 0, 0)}), recorded)
    assert names(item) == ["a", "x"]
    assert item.steps[0].seconds == 1.0


def test_a_node_that_the_batch_never_reached_is_assumed() -> None:
    recorded = record("batch_1", [ran("a", 0, 1)])
    assert {names(walked(BRANCH, recorded=recorded, seed=seed))[-1] for seed in range(60)} == {"a", "x", "y"}


def test_a_rule_that_the_workflow_no_longer_has_is_assumed() -> None:
    recorded = record("batch_1", [ran("a", 0, 1, decisions=[{"node": "b", "rule": 7, "next": ["y"]}])])
    assert {names(walked(BRANCH, recorded=recorded, seed=seed))[-1] for seed in range(60)} == {"a", "x", "y"}


def test_edges_and_maps_as_they_were() -> None:
    inner = {"items": "input.list", "nodes": [agent("m")]}
    document = workflow(
        {"id": "each", "type": "map", "config": inner}, agent("z"), agent("q"), edges=["each ? z", "each ? q"]
    )
    events = [
        {"type": "map_started", "node_id": "each", "token_id": "t", "at": 0, "total": 3},
        {
            "type": "node_completed",
            "node_id": "each",
            "token_id": "t",
            "at": 5,
            "decisions": [{"node": "each", "edges": ["q"]}],
        },
    ]
    found = names(walked(document, recorded=record("batch_1", [events])))
    assert found.count("m") == 3
    assert found[-1] == "q"


def test_a_course_reads_no_more_than_there_is() -> None:
    node = compile_workflow(workflow(agent("a"), edges=[])).ir.nodes["a"]
    course = Course({}, Given(), record("batch_1", [ran("a", 0, 2)]), random.Random(1))
    assert [course.seconds(node) for _ in range(3)] == pytest.approx([2.0] * 3)
