"""Which reply an execution gets, and how replies are written."""

from __future__ import annotations

from typing import Any

import pytest

from pavane.rehearsal.fault import CaseFault
from pavane.rehearsal.reply import Moment, Script, read_script
from schemas.compiler.compiler import compile_workflow
from schemas.ir import Node
from tests.rehearsal.stories import function, workflow

NODE: Node = compile_workflow(workflow(function("a"))).ir.nodes["a"]
FIRST = Moment(0, None, 1)


def given(script: Script, *moments: Moment, **variables: Any) -> list[Any]:
    """The outputs of executions at these moments."""
    found = []
    for moment in moments:
        reply = script.next(moment, variables)
        found.append(reply.output if reply else None)
        if reply:
            script.take(reply)
    return found


def script(value: Any) -> Script:
    return Script(read_script(NODE, value))


def test_one_value_is_given_again_and_again() -> None:
    assert given(script({"n": 1}), FIRST, FIRST) == [{"n": 1}, {"n": 1}]


def test_several_are_given_once_each() -> None:
    assert given(script([1, 2]), FIRST, FIRST, FIRST) == [1, 2, None]


def test_an_output_that_is_a_list_says_so() -> None:
    assert given(script({"output": [1, 2]}), FIRST, FIRST) == [[1, 2], [1, 2]]


def test_a_condition_goes_before_the_order_and_does_not_use_it_up() -> None:
    made = script([{"item": 1, "output": "second item"}, {"iteration": 2, "output": "third pass"}, "a", "b"])
    moments = [Moment(0, 0, 1), Moment(0, 1, 1), Moment(2, 0, 1), Moment(0, 2, 1)]
    assert given(made, *moments) == ["a", "second item", "third pass", "b"]


def test_attempts_are_told_apart() -> None:
    made = script([{"attempt": 1, "error": "rate_limit"}, "done"])
    first, second = (made.next(Moment(0, None, attempt), {}) for attempt in (1, 2))
    assert first is not None and first.failure is not None and first.failure.retryable
    assert second is not None and second.output == "done"


def test_when_reads_what_the_node_reads() -> None:
    made = script([{"when": "input.n > 1", "output": "many"}, "one"])
    assert given(made, FIRST, input={"n": 2}) == ["many"]
    assert given(made, FIRST, input={"n": 1}) == ["one"]


def test_a_condition_in_error_is_a_fault_of_the_case() -> None:
    with pytest.raises(CaseFault, match=r"outputs\.a\.when"):
        given(script({"when": "input.n > 1", "output": 1}), FIRST, input={})


def test_objects_that_only_look_like_replies_are_outputs() -> None:
    plain = [{"deadline": "2026-01-01"}, {"event": 1}, {"when": "noon"}, {"answer": 1}]
    assert given(script(plain), FIRST, FIRST, FIRST, FIRST) == plain


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": 1, "score": 2},
        {"error": {"message": "x"}},
        {"error": "no_such_class"},
        {"error": {"class": "timeout", "mesage": "x"}},
        {"error": "timeout", "output": 1},
        {"output": 1, "iteration": -1},
        {"output": 1, "when": "1 +"},
        {"output": 1, "after_ms": True},
    ],
    ids=str,
)
def test_a_wrong_reply_is_a_fault_of_the_case(wrong: Any) -> None:
    with pytest.raises(CaseFault, match=r"outputs\.a"):
        script(wrong)


def test_a_class_of_ones_own_says_whether_it_is_tried_again() -> None:
    reply = script({"error": {"class": "out_of_paper", "retryable": True}}).next(FIRST, {})
    assert reply is not None and reply.failure is not None
    assert (reply.failure.klass, reply.failure.retryable) == ("out_of_paper", True)
