"""Cases in which an agent patches its own run: the tool's own checks, and replies for nodes that it adds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rehearsal.stories import Document, agent, function, play, workflow

MAY_PATCH = {"tools": [{"patch_workflow": {"max_nodes": 1}}]}
ADDED = agent("translate", "Translate {{ output.text }}")
PATCH = [
    {"op": "add", "path": "/nodes/-", "value": ADDED},
    {"op": "add", "path": "/edges/-", "value": {"from": "translate", "to": "b"}},
    {"op": "replace", "path": "/edges/0/to", "value": "translate"},
]
SEND = [
    {"op": "add", "path": "/nodes/-", "value": function("send")},
    {"op": "add", "path": "/edges/-", "value": {"from": "a", "to": "send"}},
]


def patching() -> Document:
    first = agent("a")
    first["config"] |= MAY_PATCH
    return workflow(first, agent("b", "{{ output.text }}"), edges=["a -> b"])


async def test_an_added_step_is_executed_and_scripted() -> None:
    outputs = {"a": {"patch": PATCH, "output": "Hallo"}, "translate": "Hello", "b": "A greeting"}
    where = "rendered.translate.prompt == 'Translate Hallo' && rendered.b.prompt == 'Hello'"
    expect = {"path": ["a", "translate", "b"], "times": {"translate": 1}, "where": where}
    played = await play(patching(), outputs=outputs, expect=expect)
    assert played.passed, (played.fault, played.differences)


async def test_a_refusal_that_is_expected() -> None:
    outputs = {"a": {"patch": SEND, "refused": "not-allowed", "output": "x"}, "b": "y"}
    assert (await play(patching(), outputs=outputs, expect={"path": ["a", "b"]})).passed


@pytest.mark.parametrize(
    ("outputs", "place", "says"),
    [
        ({"a": {"patch": SEND, "output": "x"}}, "outputs.a.patch", "not-allowed"),
        (
            {"a": {"patch": PATCH, "refused": "max-nodes", "output": "x"}},
            "outputs.a.refused",
            "not refused as max-nodes",
        ),
        ({"a": {"patch": SEND, "refused": "max-nodes", "output": "x"}}, "outputs.a.refused", "not-allowed"),
        ({"a": {"patch": PATCH, "output": "x"}}, "outputs.translate", "no output for it"),
        ({"a": {"patch": PATCH, "output": "x"}, "translate": "y", "other": 1}, "outputs.other", "nor did a patch"),
        ({"a": "x", "translate": "y"}, "outputs.translate", "no such node"),
        ({"a": {"patch": {}, "output": "x"}}, "outputs.a.patch", "list of operations"),
        ({"a": {"refused": "max-nodes", "output": "x"}}, "outputs.a.refused", "`patch` beside it"),
        ({"a": "x", "b": {"patch": PATCH, "output": "y"}}, "outputs.b.patch", "no tool"),
    ],
)
async def test_faults(outputs: dict[str, Any], place: str, says: str) -> None:
    played = await play(patching(), outputs={"b": "z", **outputs})
    assert played.fault is not None and played.fault.place == place
    assert says in played.fault.message


async def test_a_case_leaves_the_workflow_as_it_was() -> None:
    """What one case patches is not there in the next."""
    outputs = {"a": {"patch": PATCH, "output": "Hallo"}, "translate": "Hello", "b": "y"}
    assert (await play(patching(), outputs=outputs)).passed
    assert (await play(patching(), outputs={"a": "Hallo", "b": "y"}, expect={"path": ["a", "b"]})).passed
