"""One number in one condition at several values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pavane.cli.whatif import sweep_values
from pavane.whatif.definitions import Definitions
from pavane.whatif.play import Player
from pavane.whatif.question import ask_sweep
from pavane.whatif.swept import plays
from pavane.whatif.threshold import find_threshold, numbers
from schemas.errors import InvalidDocument
from tests.whatif.histories import grading, recorded_of, route_again

IR = grading()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("output.score >= 80", ["80"]),
        ("output.v2 > -0.5 && 'a 7' != \"8\"", ["-0.5"]),
        ("output.a - 3 > 0x1F", ["3", "0x1F"]),
        ("output.x[2] > 1e3 // 9", ["2", "1e3"]),
        ("size(output.l) == 4u", ["4u"]),
    ],
)
def test_numbers_of_an_expression(text: str, found: list[str]) -> None:
    assert [one.text for one in numbers(text)] == found


@pytest.mark.parametrize(
    "path",
    [
        "nodes.quality.rules.0",
        "nodes.quality.config.rules.0.condition.expression",
        "/nodes/1/config/rules/0",
        "nodes.quality.rules.0#1",
    ],
)
def test_ways_to_name_a_threshold(path: str) -> None:
    threshold = find_threshold(IR.workflow, path)
    assert (threshold.node, threshold.at(70), threshold.at(-2.5)) == (
        "quality",
        "output.score >= 70",
        "output.score >= -2.5",
    )


@pytest.mark.parametrize(
    ("rule", "path", "says"),
    [
        ("output.a >= 80 && output.a < 200", "nodes.quality.rules.0", r"rules\.0#1 and so on \(#1 is 80, #2 is 200\)"),
        ("output.ok", "nodes.quality.rules.0", "has no number"),
        ("output.score >= 80", "nodes.quality.rules.0#2", "#2 is none of them"),
        ("output.score >= 80", "nodes.nobody.rules.0", "`nobody` is not there"),
        ("output.score >= 80", "nodes.grade", "no condition in CEL"),
        ("output.score >= 80", "", "no condition in CEL"),
    ],
)  # fmt: skip
def test_a_path_that_names_no_number_says_what_to_write(rule: str, path: str, says: str) -> None:
    with pytest.raises(InvalidDocument, match=says):
        find_threshold(grading(rule).workflow, path)


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 100), min_size=1, max_size=6),
    st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True),
)
def test_a_sweep_is_each_value_by_itself(scores: list[int], values: list[int]) -> None:
    question = ask_sweep(IR, "nodes.quality.rules.0", values)
    for number, score in enumerate(scores):
        recorded = recorded_of(IR, score, number)
        told = 0
        for played, agreed in plays(
            lambda recorded=recorded: Player(recorded, question.ir, Definitions(), {}), question.swept, question.count
        ):
            for one in agreed:
                alone = route_again(recorded, grading(f"output.score >= {question.values[one]}"))
                assert (played.path, played.needed, played.status) == (alone.path, alone.needed, alone.status)
                told += 1
        assert told == len(values)


def test_a_sweep_plays_a_run_once_for_all_values_that_agree() -> None:
    question = ask_sweep(IR, "nodes.quality.rules.0", list(range(60, 91)))
    made = list(
        plays(lambda: Player(recorded_of(IR, 75), question.ir, Definitions(), {}), question.swept, question.count)
    )
    assert [len(agreed) for _, agreed in made] == [16, 15]


@pytest.mark.parametrize(
    ("text", "values"),
    [("60..63", [60, 61, 62, 63]), ("60..70/5", [60, 65, 70]), ("0.1..0.3/0.1", [0.1, 0.2, 0.3]), ("7, 8.5", [7, 8.5])],
)
def test_values_on_the_command_line(text: str, values: list[float]) -> None:
    assert sweep_values(text) == values


@pytest.mark.parametrize("values", [[], [1] * 201, [True], ["7"], [1e300]])
def test_values_are_bounded(values: list[object]) -> None:
    with pytest.raises(InvalidDocument):
        ask_sweep(IR, "nodes.quality.rules.0", values)
