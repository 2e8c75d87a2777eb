"""Runs that Redis has lost: when one counts as lost, and what is done about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.recovery import Report, Survey
from pavane.services import recovery
from pavane.services.recovery import LostRuns
from pavane.settings import Settings
from pavane.up import Layout, Up


class Work:
    """A recovery of which only the calls are kept."""

    def __init__(self, unfinished: int = 0, present: int = 0) -> None:
        self.found = Survey(unfinished, present)
        self.reasons: list[str] = []

    async def survey(self) -> Survey:
        return self.found

    async def missing(self, limit: int) -> set[str]:
        return {"run_1"}

    async def recover(self, reason: str) -> Report:
        self.reasons.append(reason)
        return Report()


def test_a_run_is_lost_when_it_is_missing_twice_and_told_once() -> None:
    looks = LostRuns()
    assert looks.look({"ended just now", "a"}) == set()
    assert looks.look({"a", "b"}) == {"a"}
    assert looks.look({"a", "b"}) == {"b"}, "a was told"
    assert looks.look(set()) == set()
    assert looks.look({"a"}) == set()
    assert looks.look({"a"}) == {"a"}, "lost once more"


@pytest.mark.parametrize("present", [0, 1])
async def test_up_asks_also_where_a_new_run_has_begun_since(
    present: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, asked = Work(121, present), []

    @asynccontextmanager
    async def servers(settings: Settings, by: str) -> AsyncIterator[Work]:
        yield work

    monkeypatch.setattr("pavane.up.recovery", servers)
    settings = Settings.from_environment({"PAVANE_DATA": str(tmp_path)})
    up = Up(settings, Layout(recovers=lambda runs: bool(asked.append(runs)) or True), lambda instance: None)
    await up._recover(settings)
    assert asked == [121 - present] and len(work.reasons) == 1


@pytest.mark.parametrize("recovers", [True, False])
async def test_a_redis_that_is_emptied_is_seen(
    recovers: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait_until: Any
) -> None:
    monkeypatch.setattr(recovery, "LOOK_S", 0.001)
    work, stop = Work(), asyncio.Event()
    watch = asyncio.create_task(recovery.watch_for_loss(work, stop, recovers))  # type: ignore[arg-type]
    await wait_until(lambda: work.reasons or caplog.records)
    stop.set()
    await watch
    assert bool(work.reasons) == recovers and ("pavane recover" in caplog.text) != recovers
