"""`pavane history`: moments, lines, and options that do not go together."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import typer
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from pavane.cli.history import change_text, moment

NOW = datetime(2026, 3, 2, 10, 30, tzinfo=timezone(timedelta(hours=1)))


def local(*when: int) -> int:
    return round(datetime(*when).timestamp() * 1_000)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-03-01", local(2026, 3, 1)),
        ("2026-03-01 14:00", local(2026, 3, 1, 14)),
        ("2026-03-01T14:00:00Z", 1_772_373_600_000),
        ("today", local(2026, 3, 2)),
        ("yesterday", local(2026, 3, 1)),
        ("90m", round(NOW.timestamp() * 1_000) - 5_400_000),
        ("7d", round(NOW.timestamp() * 1_000) - 7 * 86_400_000),
    ],
)
def test_moments(text: str, at: int) -> None:
    assert moment("--since", text, NOW) == at


@given(st.text(max_size=12))
def test_whatever_is_written_is_a_moment_or_refused(text: str) -> None:
    try:
        found = moment("--since", text, NOW)
    except typer.BadParameter as error:
        assert "24h" in str(error)
    else:
        assert found is not None and found >= 0


@pytest.mark.parametrize(
    ("change", "text"), [(57, "+57"), (-3, "-3"), (0, "+0"), (0.5, "+0.5"), ([None, "x"], 'null -> "x"')]
)
def test_changes(change: Any, text: str) -> None:
    assert change_text(change) == text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--skipped"], "pavane history BATCH --skipped"),
        (["batch_1", "--skipped", "--failed"], "--skipped and --failed"),
        (["batch_1", "--by", "ada"], "takes no filters"),
        (["batch_1", "--runs"], "takes no filters"),
        (["--runs", "--action", "pause"], "--action"),
        (["--since", "never"], "is no time"),
    ],
)
def test_what_does_not_go_together(pavane: Callable[..., Result], words: list[str], says: str) -> None:
    result = pavane("history", *words)
    assert result.exit_code == 2 and says in result.stderr


def test_an_audit_goes_with_a_batch_and_a_connection(pavane: Callable[..., Result]) -> None:
    for words in (["--input", "{}"], ["--items", "items.jsonl"]):
        result = pavane("run", "hello", *words, "--audit-sql", "SELECT 1 AS a")
        assert result.exit_code == 2 and "--audit" in result.stderr
