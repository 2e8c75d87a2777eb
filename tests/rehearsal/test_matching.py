"""What counts as expected."""

from __future__ import annotations

from typing import Any

import pytest

from pavane.rehearsal.matching import MISSING, differences, follows


def found(expected: Any, actual: Any, *, exact: bool = False) -> list[str]:
    return [difference.place for difference in differences("x", expected, actual, exact=exact)]


def test_an_object_needs_what_is_expected_and_may_have_more() -> None:
    assert found({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}) == []
    assert found({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, exact=True) == ["x.a.c", "x.d"]


def test_every_difference_has_its_place() -> None:
    assert found({"a": 1, "b": [{"c": 2}, 3]}, {"b": [{"c": 4}, 3]}) == ["x.a", "x.b[0].c"]


def test_lists_are_whole() -> None:
    assert found([1], [1, 2]) == ["x"]


def test_numbers_are_numbers_and_booleans_are_not() -> None:
    assert found(1, 1.0) == []
    assert found(1, True) == ["x"]
    assert found(False, 0) == ["x"]


def test_null_is_a_value() -> None:
    assert found(None, None) == []
    assert found(None, MISSING) == ["x"]


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("abc", ["a", "b", "c"], True),
        ("abc", ["a", "b"], False),
        ("abc", ["a", "c", "b"], False),
        ("abc", ["a", "...", "c"], True),
        ("abc", ["...", "c"], True),
        ("abc", ["a", "..."], True),
        ("abc", ["..."], True),
        ("", ["..."], True),
        ("abc", ["a", "...", "b"], False),
        ("abab", ["...", "a", "b"], True),
        ("abcd", ["a", ["c", "b"], "d"], True),
        ("abcd", ["a", ["b", "b"], "d"], False),
        ("abcd", [["b", "a"], "..."], True),
        ("ab", ["a", "b", "c", "..."], False),
        ("ab", ["a", ["b", "c"]], False),
    ],
)
def test_paths(path: str, pattern: list[Any], fits: bool) -> None:
    assert follows(list(path), pattern) is fits
