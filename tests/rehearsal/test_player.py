"""Plays: the real decisions and scripts, with scripted outputs and a clock that jumps."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agent_runner.handlers import Handlers
from pavane.rehearsal.player import Player
from tests.rehearsal.stories import agent, case, function, places, play, transform, workflow

VERDICT = {"type": "object", "required": ["score"], "properties": {"score": {"type": "integer"}}}
LINE = workflow(function("a"), agent("b", "{{ ctx.a.output.name }}"), edges=["a -> b"])


async def test_what_comes_out() -> None:
    played = await play(LINE, outputs={"a": {"name": "Ada"}, "b": "Hello"}, expect={"output": {"text": "Hello"}})
    assert played.passed
    assert played.record.path == ["a", "b"]
    assert played.record.rendered == {"a": {}, "b": {"prompt": "Ada"}}


@pytest.mark.parametrize(
    ("expect", "place"),
    [
        ({"status": "FAILED"}, "status"),
        ({"output": {"text": "Bye"}}, "output.text"),
        ({"output": None}, "output"),
        ({"outputs": {"a": {"name": "Eve"}}}, "outputs.a.name"),
        ({"outputs": {"a": {}}, "exact": True}, "outputs.a.name"),
        ({"path": ["b", "a"]}, "path"),
        ({"never": ["b"]}, "never.b"),
        ({"times": {"b": 2}}, "times.b"),
        ({"attempts": {"b": 2}}, "attempts.b"),
        ({"where": "output.text == 'Bye'"}, "where[0]"),
        ({"where": ["true", "output.txt == 'Bye'"]}, "where[1]"),
    ],
    ids=str,
)
async def test_each_expectation_can_fail(expect: dict[str, Any], place: str) -> None:
    played = await play(LINE, outputs={"a": {"name": "Ada"}, "b": "Hello"}, expect=expect)
    assert not played.passed
    assert places(played) == [place]


async def test_a_failed_run_fails_a_case_that_does_not_want_it() -> None:
    outputs = {"a": {"error": {"class": "permanent", "message": "no more paper"}}}
    played = await play(LINE, outputs=outputs)
    assert places(played) == ["status"]
    wanted = {"class": "permanent", "node": "a", "message": "paper"}
    assert (await play(LINE, outputs=outputs, expect={"error": wanted})).passed
    assert places(await play(LINE, outputs=outputs, expect={"error": wanted | {"class": "timeout"}})) == ["error.class"]


# -- faults of the case ------------------------------------------------------------------------------


async def test_an_output_that_is_wanted_and_not_there_names_the_node_and_what_it_was_given() -> None:
    played = await play(LINE, outputs={"a": {"name": "Ada"}})
    assert played.fault is not None and not played.passed
    assert played.fault.place == "outputs.b"
    assert played.fault.rendered == {"prompt": "Ada"}
    assert played.record.path == ["a"]


async def test_a_list_of_outputs_that_is_too_short_is_a_fault() -> None:
    retried = workflow(function("a", retry={"max_attempts": 5}))
    played = await play(retried, outputs={"a": [{"error": "timeout"}, {"error": "timeout"}]})
    assert played.fault is not None and "2 outputs" in played.fault.message


async def test_an_output_that_no_model_could_give_is_a_fault() -> None:
    document = workflow(agent("a", schema=VERDICT))
    played = await play(document, outputs={"a": {"score": "high"}})
    assert played.fault is not None
    assert played.fault.place == "outputs.a" and "$.score" in played.fault.message
    plain = await play(workflow(agent("a")), outputs={"a": {"score": 1}})
    assert plain.fault is not None and "response_format" in plain.fault.message


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"outputs": {"nowhere": 1}}, "outputs.nowhere"),
        ({"outputs": {"c": 1}}, "outputs.c"),
        ({"input": {"n": "one"}}, "input"),
        ({"expect": {"never": ["nowhere"]}}, "expect.never"),
        ({"expect": {"path": ["a", ["nowhere"], "..."]}}, "expect.path"),
        ({"expect": {"where": "outputs.a"}}, "expect.where[0]"),
    ],
    ids=str,
)
async def test_what_the_workflow_does_not_have_is_a_fault(fields: dict[str, Any], place: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    document = workflow(function("a"), transform("c", n="1"), edges=["a -> c"], input_schema=schema)
    played = await play(document, **{"outputs": {"a": 1}, **fields})
    assert played.fault is not None and played.fault.place == place


# -- what a runner would do --------------------------------------------------------------------------


async def test_a_template_in_error_fails_the_node_as_a_runner_would() -> None:
    played = await play(LINE, outputs={"a": {"nam": "Ada"}, "b": "x"}, expect={"error": {"class": "template"}})
    assert played.passed
    assert "ctx.a.output.name" in played.record.state().error["message"]


async def test_backoffs_take_none_of_our_time_and_all_of_theirs() -> None:
    document = workflow(function("a", retry={"max_attempts": 3, "backoff_ms": 3_600_000, "jitter": 0}))
    script = [{"error": "rate_limit"}, {"error": "timeout"}, 1]
    played = await play(document, outputs={"a": script}, expect={"attempts": {"a": 3}, "times": {"a": 1}})
    assert played.passed
    assert played.took_ms == 2 * 3_600_000  # a backoff is at most an hour


async def test_an_execution_may_take_its_time() -> None:
    document = workflow(function("a", timeout_ms=60_000, retry={"max_attempts": 1}))
    assert (await play(document, outputs={"a": {"output": 1, "after_ms": 60_000}}, expect={"output": 1})).passed
    late = await play(
        document, outputs={"a": {"output": 1, "after_ms": 60_001}}, expect={"error": {"class": "timeout"}}
    )
    assert late.passed and late.took_ms == 60_000


async def test_a_run_is_over_its_time() -> None:
    played = await play(
        workflow(function("a")), timeout_ms=1_000, outputs={"a": {"output": 1, "after_ms": 2_000}},
        expect={"status": "TIMED_OUT"},
    )  # fmt: skip
    assert played.passed and played.took_ms == 1_000


async def test_who_is_quicker_is_first() -> None:
    document = workflow(function("a"), function("b"), function("c"), edges=["a -> c", "b -> c"])
    outputs = {"a": {"output": 1, "after_ms": 500}, "b": {"output": 2, "after_ms": 400}, "c": 3}
    played = await play(document, outputs=outputs, expect={"path": ["b", "a", "c"], "output": 3})
    assert played.passed and played.took_ms == 500


async def test_handlers_execute_what_is_not_scripted() -> None:
    def double(n: int) -> int:
        return 2 * n

    document = workflow(function("a", "double", {"n": "{{ input.n }}"}))
    assert (await play(document, Handlers([double]), input={"n": 4}, expect={"output": 8})).passed
    assert (await play(document, Handlers([double]), input={"n": 4}, outputs={"a": 1}, expect={"output": 1})).passed
    missing = await play(document, Handlers([]), input={"n": 4}, expect={"error": {"class": "not_found"}})
    assert missing.passed


# -- routing, decided for real -----------------------------------------------------------------------


async def test_branch_loop_and_join() -> None:
    document = workflow(
        function("a"),
        {"id": "way", "type": "branch", "config": {
            "rules": [{"condition": {"type": "cel", "expression": "output.n > 1"}, "next": ["b", "c"]}],
            "default": [],
        }},
        function("b"),
        function("c"),
        {"id": "meet", "type": "join", "config": {}},
        function("again"),
        {"id": "until", "type": "loop", "config": {
            "condition": {"type": "cel", "expression": "output.n < 3"}, "loop_back_to": "again",
            "max_iterations": 5, "break_path": [],
        }},
        edges=["a -> way", "b -> meet", "c -> meet", "meet -> again", "again -> until"],
    )  # fmt: skip
    many = {"a": {"n": 2}, "b": "B", "c": "C", "again": [{"n": 1}, {"n": 2}, {"n": 3}]}
    played = await play(
        document, outputs=many,
        expect={
            "path": ["a", "way", ["b", "c"], "meet", "again", "until", "again", "until", "again", "until"],
            "outputs": {"meet": {"b": "B", "c": "C"}}, "output": {"n": 3}, "times": {"again": 3},
        },
    )  # fmt: skip
    assert played.passed, played.differences
    assert (await play(document, outputs={"a": {"n": 1}}, expect={"path": ["a", "way"], "never": ["b", "meet"]})).passed


async def test_on_error_takes_over() -> None:
    document = workflow(function("a", on_error=["sorry"]), transform("sorry", why="output.error.class"))
    played = await play(document, outputs={"a": {"error": "permanent"}}, expect={"output": {"why": "permanent"}})
    assert played.passed and played.record.path == ["a", "sorry"]


async def test_values_over_the_inline_limit() -> None:
    document = workflow(function("a"), transform("b", size="size(output.text)"), edges=["a -> b"])
    text = "x" * 50_000
    played = await play(document, outputs={"a": {"text": text}}, expect={"outputs": {"a": {"text": text}}})
    assert played.passed and played.record.newest("b") == {"size": 50_000}


async def test_cases_of_one_player_do_not_meet() -> None:
    player = Player(LINE)
    good = case(outputs={"a": {"name": "Ada"}, "b": "Hello"})
    broken = case(outputs={"a": {"name": "Ada"}})
    results = [(await player.play(one)).passed for one in (broken, good, broken, good)]
    assert results == [False, True, False, True]


async def test_a_play_is_the_same_each_time() -> None:
    document = workflow(function("a", retry={"max_attempts": 3, "backoff_ms": 10_000, "jitter": 1}))
    outputs = {"a": [{"error": "timeout"}, {"error": "timeout"}, 1]}
    took = set()
    for number in range(3):
        random.seed(number)
        took.add((await play(document, outputs=outputs)).took_ms)
    assert len(took) == 1
