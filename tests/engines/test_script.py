"""Scripts for the simulated engine: what they say, and how they are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runner.engines.simulated.script import ORDINARY, InvalidScript, Outcome, Script


def test_the_first_rule_that_matches_decides() -> None:
    script = Script.parse(
        {
            "rules": [
                {"model": "phi3", "contains": "grade", "answer": {"score": 1}},
                {"contains": "grade", "answer": "none", "delay_s": 2},
                {"model": "phi3", "error": {"status": 500, "message": "died"}},
            ]
        }
    )
    assert script.outcome("phi3", "please grade").answer == '{"score": 1}'
    assert script.outcome("gemma2:2b", "grade it") == Outcome(answer="none", delay_s=2.0)
    assert script.outcome("phi3", "other") == Outcome(status=500, message="died")
    assert script.outcome("gemma2:2b", "other") is ORDINARY
    assert Script().outcome("phi3", "x") is ORDINARY


def test_a_sequence_goes_on_and_its_last_outcome_stays() -> None:
    rule = {"sequence": [{"error": {"status": 503}}, {"answer": "a"}, {}]}
    script = Script.parse([rule])
    seen = [script.outcome("m", text) for text in ("x", "y", "x", "z")]
    assert seen == [Outcome(status=503), Outcome(answer="a"), ORDINARY, ORDINARY]
    each = Script.parse([{**rule, "per_prompt": True}])
    assert [each.outcome("m", text).status for text in ("x", "y", "x", "z")] == [503, 503, None, 503]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "rules: must be a list"),
        ({"rules": {}}, "rules: must be a list"),
        ([{}] * 1001, "rules: more than 1000"),
        ([{}, 3], "rules[1]: must be an object"),
        ([{"anwser": 1}], "rules[0].anwser: is not known here"),
        ([{"model": 1}], "rules[0].model: must be a string"),
        ([{"error": {"status": 200}}], "rules[0].error.status: must be 400 to 599"),
        ([{"error": {"status": True}}], "rules[0].error.status"),
        ([{"error": "no"}], "rules[0].error: must be an object"),
        ([{"error": {"status": 500, "message": 1}}], "rules[0].error.message"),
        ([{"delay_s": -1}], "rules[0].delay_s: must be a number of seconds"),
        ([{"work_s": float("inf")}], "rules[0].work_s"),
        ([{"hang": 1}], "rules[0].hang: must be true or false"),
        ([{"answer": "a", "hang": True}], "rules[0]: has both answer and hang"),
        ([{"sequence": []}], "rules[0].sequence: must be a list of 1 to 1000"),
        ([{"sequence": [{}, {"x": 1}]}], "rules[0].sequence[1].x: is not known here"),
        ([{"sequence": [{}], "answer": 1}], "rules[0]: has both a sequence and answer"),
    ],
)
def test_a_bad_script_is_refused_with_the_place(script: Any, said: str) -> None:
    with pytest.raises(InvalidScript) as refused:
        Script.parse(script)
    assert str(refused.value).startswith(said)


def test_reading_a_file(tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(json.dumps([{"answer": None}]))
    assert Script.read(path).outcome("m", "x").answer == "null"
    path.write_text("[{")
    with pytest.raises(InvalidScript, match=r"script\.json: "):
        Script.read(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["rules", "answer", "error", "status", "sequence", "hang"]), inner)
    ),
    max_leaves=10,
)


@given(json_values)
def test_any_document_is_a_script_or_refused(document: Any) -> None:
    try:
        script = Script.parse(document)
    except InvalidScript:
        return
    script.outcome("m", "text")
