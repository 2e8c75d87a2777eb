"""Recorded runs become cases that pass."""

from __future__ import annotations

from typing import Any

import pytest

from pavane.rehearsal.case import Case
from pavane.rehearsal.player import Played, Player
from pavane.rehearsal.recorded import Unplayable, recorded_case
from tests.rehearsal.stories import Document, agent, case, function, transform, workflow

LOOP = {"id": "again", "type": "loop", "config": {
    "condition": {"type": "cel", "expression": "output.n < 3"}, "loop_back_to": "a", "max_iterations": 5,
    "break_path": ["b"],
}}  # fmt: skip
MAP = {"id": "m", "type": "map", "config": {"items": "input.xs", "nodes": [function("f", retry={"backoff_ms": 1})]}}
MAP_OF_LOOPS = {"id": "m", "type": "map", "config": {"items": "input.xs", "nodes": [
    function("a"), {**LOOP, "config": {**LOOP["config"], "break_path": []}},
], "edges": [{"from": "a", "to": "again"}]}}  # fmt: skip
XS = {"xs": [1, 2, 3]}
ASK = {"id": "ask", "type": "human", "config": {"deadline_ms": 1_000, "deadline_path": ["late"]}}
CALL = {"id": "call", "type": "workflow", "config": {"workflow_id": "elsewhere"}}


async def recorded(document: Document, **fields: Any) -> tuple[Player, dict[str, Any]]:
    """The case that a played run makes, as `--record` would print it."""
    player = Player(document)
    first = await player.play(case(**fields))
    assert first.passed, (first.fault, first.differences)
    shown = [event.as_dict() for event in first.record.events if event.run_id == first.record.run_id]
    return player, recorded_case(shown, player.nodes)


async def again(player: Player, made: dict[str, Any]) -> Played:
    return await player.play(Case.model_validate(made))


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (workflow(function("a"), LOOP, agent("b"), edges=["a -> again"]),
         {"outputs": {"a": [{"n": 1}, {"error": "timeout"}, {"n": 3}], "b": "Done"}}),
        (workflow(MAP), {"input": XS, "outputs": {"f": [{"item": 1, "attempt": 1, "error": "timeout"}, [1]]}}),
        (workflow(MAP), {"input": XS, "outputs": {"f": [{"output": [1]}, "two", {"output": {"error": 3}}]}}),
        (workflow(MAP), {"input": XS, "outputs": {"f": [{"item": 0, "output": 1, "after_ms": 9}, 2]}}),
        (workflow(MAP_OF_LOOPS), {"input": XS, "outputs": {"a": [{"n": n} for n in (1, 2, 4, 3, 5)]}}),
        (workflow(ASK, transform("late", n="1")), {"outputs": {"ask": {"deadline": True}}}),
        (workflow(ASK, transform("late", n="1")), {"outputs": {"ask": {"fine": True}}}),
        (workflow(CALL), {"outputs": {"call": {"output": [1, 2]}}}),
        (workflow(function("a")),
         {"outputs": {"a": {"error": {"class": "permanent", "message": "no"}}}, "expect": {"status": "FAILED"}}),
    ],
    ids=["loop", "map", "lists", "the last first", "loops in items", "deadline", "answer", "call", "failure"],
)  # fmt: skip
async def test_a_recorded_run_passes_as_a_case(document: Document, fields: dict[str, Any]) -> None:
    player, made = await recorded(document, **fields)
    played = await again(player, made)
    assert played.passed, (made, played.fault, played.differences)


async def test_what_is_written() -> None:
    document = workflow(function("a"), LOOP, agent("b"), edges=["a -> again"])
    outputs = {"a": [{"n": 1}, {"n": 3}], "b": "Done"}
    _, made = await recorded(document, input={"x": 1}, outputs=outputs)
    assert made == {
        "name": "rehearsal",
        "input": {"x": 1},
        "outputs": {"a": [{"n": 1}, {"n": 3}], "b": {"text": "Done"}},
        "expect": {"output": {"text": "Done"}, "times": {"a": 2, "again": 2, "b": 1}},
    }


async def test_a_run_that_can_not_be_played_again_is_refused() -> None:
    document = workflow(function("a"))
    with pytest.raises(Unplayable, match="inline_bytes"):
        await recorded(document, outputs={"a": "x" * 50_000})
    with pytest.raises(Unplayable, match="TIMED_OUT"):
        await recorded(
            document, timeout_ms=1, outputs={"a": {"output": 1, "after_ms": 2}}, expect={"status": "TIMED_OUT"}
        )
