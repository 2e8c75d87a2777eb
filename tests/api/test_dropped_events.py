"""A run whose events were dropped: what it came to is told; what stood in its events is gone, which is said."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from history.retention import Retention
from tests.api.conftest import Api


async def test_a_run_whose_events_were_dropped(api: Api, record: Any, database_url: str, tmp_path: Path) -> None:
    run_id = await api.start(labels={"team": "x"})
    await api.play()
    await record()
    await api.store.redis.flushdb()
    whole = await api.get(f"/runs/{run_id}")
    retention = Retention(partial(psycopg.AsyncConnection.connect, database_url), tmp_path)
    report = await retention.apply(datetime.now(UTC) + timedelta(days=40), "test")  # this month is over then
    (file,) = [lot.file for lot in report.lots if lot.runs]

    assert await api.get(f"/runs/{run_id}") == whole
    assert (await api.get("/runs?label=team=x"))["runs"][0]["run_id"] == run_id
    for path in ("events", "events?after=2", "state", "state?at=2", "revisions", "nodes/hello/explain"):
        problem = await api.get(f"/runs/{run_id}/{path}", 410)
        assert (problem["dropped_seq"], problem["export"]) == (whole["seq"], file), path
        assert "were dropped on" in problem["detail"] and str(file) in problem["detail"]
    await api.post(f"/runs/{run_id}/fork", {"at": 2}, 410)
    await api.get(f"/runs/{run_id}/events", 410, headers={"accept": "text/event-stream"})
    assert (await api.get(f"/runs/{run_id}/events?after={whole['seq']}"))["events"] == []
    await api.get("/runs/run_nobody/events", 404)
