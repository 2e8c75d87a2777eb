"""`pavane expire`: what it refuses, what it asks, and what it says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from history.migration import migrate
from tests.store_postgres.samples import record, run_events

MAY = 1_746_000_000_000  # 2025-04-30
LONG_AGO = MAY - 100 * 86_400_000


@pytest.fixture
def filled(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month with three runs, and a later one that a run holds."""

    async def fill() -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
            await migrate(connection)
            await connection.execute("SELECT create_event_partitions('2025-01-15', 3)")
            for number in range(3):
                await record(connection, *run_events(f"run_{number}", at=LONG_AGO))
            await record(connection, *run_events("endless", at=MAY)[:2])

    asyncio.run(fill())
    monkeypatch.setenv("DATABASE_URL", database_url)


@pytest.mark.parametrize("age", ["90", "0d", "d", "-1d", "101y", "3m"])
def test_an_age_that_is_none(pavane: Any, age: str) -> None:
    result = pavane("expire", "--older-than", age)
    assert result.exit_code == 2 and "90d" in result.output


def test_nothing_goes_unasked(pavane: Any, filled: None) -> None:
    result = pavane("expire", "--older-than", "90d")
    assert result.exit_code == 2 and "--export" in result.output
    result = pavane("expire", "--older-than", "1d", "--yes")
    assert result.exit_code == 2 and "PAVANE_RETENTION_S" in result.output
    dry = json.loads(pavane("expire", "--older-than", "90d", "--dry-run", "--json").output)
    assert dry["dry_run"] and [lot["runs"] for lot in dry["dropped"]] == [3, 0, 0]


def test_what_goes_and_what_stays(pavane: Any, filled: None, tmp_path: Path) -> None:
    result = pavane("expire", "--older-than", "90d", "--export", tmp_path / "kept")
    assert result.exit_code == 0, result.output
    file = tmp_path / "kept" / "execution_events_2025_01.ndjson.gz"
    assert f"execution_events_2025_01: dropped 12 events of 3 runs, exported to {file}" in result.output
    assert "execution_events_2025_04: stays, held by 1 run that goes on or ended later: endless" in result.output
    again = json.loads(pavane("expire", "--older-than", "90d", "--yes", "--json").output)
    assert again["dropped"] == [] and again["held"] == [
        {"source": "execution_events_2025_04", "runs": 1, "held_by": ["endless"]}
    ]


def test_a_folder_that_can_not_be_written_to(pavane: Any, filled: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = pavane("expire", "--older-than", "90d", "--export", tmp_path / "file", "--json")
    assert result.exit_code == 1 and "still in the database" in json.loads(result.stderr)["error"]
    result = pavane("expire", "--older-than", "90d", "--yes", "--json")
    assert json.loads(result.stdout)["dropped"][0]["runs"] == 3


def test_no_postgres(pavane: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/none")
    assert pavane("expire", "--older-than", "90d", "--yes").exit_code == 3
