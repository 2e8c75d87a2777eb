"""Cases as they are written: what a file may hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pavane.rehearsal.case import read_cases
from schemas.errors import InvalidDocument


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cases.yaml"
    file.write_text(text)
    return file


def test_a_case_takes_from_the_file_what_it_does_not_say_itself(tmp_path: Path) -> None:
    text = """
      input: {n: 1}
      outputs: {a: A, b: B}
      cases:
        - {name: first}
        - {name: second, input: null, outputs: {b: C}}
    """
    first, second = read_cases(written(tmp_path, text))
    assert (first.input, first.outputs) == ({"n": 1}, {"a": "A", "b": "B"})
    assert (second.input, second.outputs) == (None, {"a": "A", "b": "C"})


def test_a_failure_is_expected_where_an_error_is(tmp_path: Path) -> None:
    text = "cases: [{name: a, expect: {error: {class: timeout}}}, {name: b}]"
    failing, passing = read_cases(written(tmp_path, text))
    assert (failing.expect.wanted_status, passing.expect.wanted_status) == ("FAILED", "COMPLETED")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("cases: []", "/cases"),
        ("casse: [{name: a}]", "/casse"),
        ("cases: [{input: 1}]", "/cases/0/name"),
        ("cases: [{name: a, expect: {statsu: FAILED}}]", "/cases/0/expect/statsu"),
        ("cases: [{name: a, expect: {status: DONE}}]", "/cases/0/expect/status"),
        ("cases: [{name: a, expect: {times: {b: -1}}}]", "/cases/0/expect/times/b"),
        ("cases: [{name: a, at: 3}]", "/cases/0/at"),
        ("cases: [{name: a, at: '2026-01-01'}]", "/cases/0/at"),
        ("cases: [{name: a}, {name: a}]", "/cases/1/name"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, path: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        read_cases(written(tmp_path, text))
    assert path in [problem.path for problem in refused.value.problems]


def test_a_time_is_text_by_rfc_3339(tmp_path: Path) -> None:
    (found,) = read_cases(written(tmp_path, "cases: [{name: a, at: '2026-03-01T08:00:00+01:00'}]"))
    assert found.at.isoformat() == "2026-03-01T08:00:00+01:00"
