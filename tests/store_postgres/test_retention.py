"""Retention: which events go and which stay, their export, and the artifacts that nothing names any more."""

import gzip
import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import pytest

from history.export import read_export
from history.history import History
from history.retention import LOCK, Report, Retention, RetentionBusy
from schemas.fold import fold
from schemas.run_state import Reference
from schemas.values import encode_value
from tests.store_postgres.samples import batch, entry, item, record, run_events

Retain = Callable[..., Awaitable[Report]]

DAY = 86_400_000
LARGE, ITEMS = {"text": "x" * 20_000}, ["y" * 20_000]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


OCTOBER, NOVEMBER, DECEMBER = ms("2025-10-10"), ms("2025-11-10"), ms("2025-12-10")
BEFORE = datetime(2025, 12, 1, tzinfo=UTC)


@pytest.fixture
async def months(history: History, database: psycopg.AsyncConnection[Any]) -> None:
    """Partitions of October to December 2025."""
    await database.execute("SELECT create_event_partitions('2025-10-05', 2)")


@pytest.fixture
def retain(database_url: str, months: None) -> Retain:
    async def retain(folder: Path | None = None, before: datetime = BEFORE, **more: Any) -> Report:
        retention = Retention(lambda: psycopg.AsyncConnection.connect(database_url), folder)
        return await retention.apply(before, "test", **more)

    return retain


async def partitions(database: psycopg.AsyncConnection[Any]) -> list[str]:
    cursor = await database.execute(
        "SELECT right(c.relname, 7) FROM pg_inherits JOIN pg_class AS c ON c.oid = inhrelid "
        "WHERE inhparent = 'execution_events'::regclass AND c.relname ~ '\\d$' ORDER BY 1"
    )
    return [name for (name,) in await cursor.fetchall()]


async def runs_with_events(database: psycopg.AsyncConnection[Any]) -> set[str]:
    cursor = await database.execute("SELECT DISTINCT run_id FROM execution_events")
    return {run_id for (run_id,) in await cursor.fetchall()}


def straddling(run_id: str) -> list[Any]:
    """A run that began at the end of October and ended in November."""
    first, *others = run_events(run_id, at=ms("2025-10-31T23:00"))
    return [first, *[event._replace(at=event.at + DAY) for event in others]]


def packed(*values: Any) -> dict[str, bytes]:
    made = [encode_value(value)[1] for value in values]
    return {artifact.name: artifact.packed for artifact in made if artifact}


async def test_whole_runs_go_with_a_month_and_what_they_came_to_stays(
    retain: Retain, history: History, database: psycopg.AsyncConnection[Any]
) -> None:
    for run_id, at in (("october", OCTOBER), ("november", NOVEMBER), ("december", DECEMBER)):
        await record(database, *run_events(run_id, at=at))
    await record(database, *straddling("both"))
    await database.execute("INSERT INTO run_snapshots VALUES ('both', 3, now(), 1, ''), ('december', 3, now(), 1, '')")
    report = await retain(before=datetime(2025, 11, 15, tzinfo=UTC))
    assert [(lot.source[-7:], lot.events, lot.runs, lot.held) for lot in report.lots] == [("2025_10", 8, 2, 0)]
    assert await runs_with_events(database) == {"november", "december"}  # "both" is gone from November too
    assert await partitions(database) == ["2025_11", "2025_12"]
    cursor = await database.execute("SELECT run_id FROM run_snapshots")
    assert await cursor.fetchall() == [("december",)]
    run = await history.runs.get("both")
    assert run and (run["status"], run["output"]) == ("COMPLETED", 1)


async def test_a_month_is_held_by_a_run_that_goes_on_or_ended_too_lately(
    retain: Retain, database: psycopg.AsyncConnection[Any]
) -> None:
    await record(database, *run_events("old", at=OCTOBER))
    await record(database, *run_events("endless", at=OCTOBER)[:2])
    late = [event._replace(at=event.at + 60 * DAY) for event in run_events("late", at=NOVEMBER)[2:]]
    await record(database, *run_events("late", at=NOVEMBER)[:2], *late)
    report = await retain()
    assert [(lot.held, lot.held_by) for lot in report.lots] == [(1, ["endless"]), (1, ["late"])]
    assert await runs_with_events(database) == {"old", "endless", "late"}
    # Once they have ended, both go.
    await record(database, *run_events("endless", at=OCTOBER)[2:])
    report = await retain(before=datetime(2026, 2, 1, tzinfo=UTC))
    assert [lot.runs for lot in report.lots] == [2, 1, 0]
    assert await runs_with_events(database) == set()


async def test_events_without_a_partition_and_diverged_ones_go_by_their_run(
    retain: Retain, history: History, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    early = ms("2025-03-01")
    await record(database, *run_events("early", at=early))
    await record(database, *run_events("going", at=early)[:2])
    again = run_events("early", at=early)
    # As a Redis tells it that came back older:
    await record(database, again[2]._replace(data=b'{"outputs": {"a": 2}}'), again[3]._replace(data=b'{"n": 1}'))
    await record(database, *run_events("october", at=OCTOBER), *run_events("endless", at=OCTOBER)[:2])
    await record(database, run_events("october", at=OCTOBER)[3]._replace(data=b'{"n": 1}'))
    await record(database, *run_events("december", at=DECEMBER))
    report = await retain(tmp_path)
    shown = {lot.source: (lot.events, lot.runs, lot.file) for lot in report.lots if lot.events}
    assert shown == {
        "execution_events_default": (4, 1, "execution_events_default-2025-12-01.ndjson.gz"),
        "diverged_events": (3, 2, "diverged_events-2025-12-01.ndjson.gz"),
    }
    assert await runs_with_events(database) == {"going", "december", "october", "endless"}
    assert await history.dropped_events.of("early") and await history.dropped_events.of("going") is None
    cursor = await database.execute("SELECT count(*) FROM diverged_events")
    assert await cursor.fetchone() == (0,)


async def test_an_export_folds_to_the_projection(
    retain: Retain, history: History, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    await record(database, *run_events("plain", 'a \0 \\ "\n', at=OCTOBER))
    await record(database, *run_events("large", LARGE, at=OCTOBER + 1), artifacts=packed(LARGE))
    await record(database, *run_events("failed", at=OCTOBER, error={"class": "handler", "message": "no"}))
    await record(database, *straddling("both"))
    recorded = {run: await history.events.state(run) for run in ("plain", "large", "failed", "both")}
    report = await retain(tmp_path / "made")
    lot = report.lots[0]
    assert lot.file and (lot.events, lot.runs) == (16, 4)
    file = tmp_path / "made" / lot.file
    events = list(read_export(file))
    assert {run: fold(part) for run, part in groupby(events, lambda event: event.run_id)} == recorded
    manifest = json.loads((tmp_path / "made" / "execution_events_2025_10.manifest.json").read_text())
    assert manifest["sha256"] == lot.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (manifest["lines"], manifest["runs"]) == (16, 4)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "execution_events_2025_10.manifest.json",
        "execution_events_2025_10.ndjson.gz",
    ]


async def test_an_export_that_was_cut_short_is_begun_anew_and_another_one_is_kept(
    retain: Retain, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    await record(database, *run_events("run_1", at=OCTOBER))
    (tmp_path / "execution_events_2025_10.part").write_bytes(b"half of it")
    foreign = tmp_path / "execution_events_2025_10.ndjson.gz"
    foreign.write_bytes(gzip.compress(b"of another database"))
    report = await retain(tmp_path)
    assert report.lots[0].file == "execution_events_2025_10-2.ndjson.gz"
    assert len(list(read_export(tmp_path / report.lots[0].file))) == 4
    assert gzip.decompress(foreign.read_bytes()) == b"of another database"
    assert not list(tmp_path.glob("*.part"))


async def test_a_drop_that_fails_after_its_export_is_done_again_into_the_same_file(
    retain: Retain, database: psycopg.AsyncConnection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(database, *run_events("run_1", at=OCTOBER))

    async def cut_off(*_: Any) -> None:
        raise psycopg.OperationalError("cut off")

    with monkeypatch.context() as patched, pytest.raises(psycopg.OperationalError):
        patched.setattr("history.retention._delete", cut_off)
        patched.setattr("time.time", lambda: 1.0)  # long before
        await retain(tmp_path)
    assert await runs_with_events(database) == {"run_1"} and len(list(tmp_path.iterdir())) == 2
    report = await retain(tmp_path)
    assert report.lots[0].file == "execution_events_2025_10.ndjson.gz" and len(list(tmp_path.iterdir())) == 2
    assert await runs_with_events(database) == set()


async def test_nothing_is_dropped_whose_export_fails(
    retain: Retain, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    await record(database, *run_events("run_1", at=OCTOBER))
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(OSError):
        await retain(file)
    assert await runs_with_events(database) == {"run_1"}
    assert await partitions(database) == ["2025_10", "2025_11", "2025_12"]


async def test_a_dry_run_says_the_same_and_changes_nothing(
    retain: Retain, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    await record(database, *run_events("run_1", at=OCTOBER), *run_events("run_2", at=NOVEMBER)[:2])
    dry = await retain(tmp_path, dry_run=True)
    assert await runs_with_events(database) == {"run_1", "run_2"} and not list(tmp_path.iterdir())
    done = await retain()
    assert [(lot.source, lot.events, lot.runs, lot.held) for lot in dry.lots] == [
        (lot.source, lot.events, lot.runs, lot.held) for lot in done.lots
    ]


async def test_once_a_day_and_one_at_a_time(
    retain: Retain, database: psycopg.AsyncConnection[Any], database_url: str
) -> None:
    await record(database, *run_events("run_1", at=OCTOBER))
    retention = Retention(lambda: psycopg.AsyncConnection.connect(database_url))
    now = datetime.now(UTC)
    await database.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
    assert await retention.run_if_due(30, now) is None
    with pytest.raises(RetentionBusy):
        await retain()
    await database.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    report = await retention.run_if_due(30, now)
    assert report and report.lots[0].runs == 1
    assert await retention.run_if_due(30, now + timedelta(hours=23)) is None
    assert await retention.run_if_due(30, now + timedelta(hours=25)) is not None


async def test_artifacts_go_when_nothing_names_them_any_more(
    retain: Retain, history: History, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    """`shared` is named by a run that stays, `kept` by a projection, `asked` by an item; `loose` by nothing else, and
    `young` too, but it has just been written."""
    values = {name: {name: "x" * 20_000} for name in ("shared", "kept", "asked", "loose", "young")}
    names = {name: next(iter(packed(value))) for name, value in values.items()}
    texts = {name: f"artifact://{given}" for name, given in names.items()}

    def mapped(run_id: str, at: int, *named: str) -> list[Any]:
        first, started, done, end = run_events(run_id, values["kept"], at=at)
        called = [
            entry(run_id, 3 + n, "tool_called", at, "a", "t1", stored={"x": texts[name]})
            for n, name in enumerate(named)
        ]
        return [first, started, *called, *[e._replace(seq=e.seq + len(named)) for e in (done, end)]]

    await record(
        database, *mapped("old", OCTOBER, "shared", "loose", "asked", "young"), artifacts=packed(*values.values())
    )
    await record(database, run_events("new", at=DECEMBER, stored_input=texts["shared"])[0])
    await history.batches.create(batch(1, [item(1, value=values["asked"])]))
    await database.execute(
        "UPDATE artifacts SET named_at = now() - interval '1 day' WHERE name <> %s", (names["young"],)
    )
    assert (await retain(tmp_path)).artifacts == 1
    cursor = await database.execute("SELECT name FROM artifacts")
    assert {name for (name,) in await cursor.fetchall()} == set(names.values()) - {names["loose"]}
    cursor = await database.execute("SELECT name FROM loose_artifacts")
    assert await cursor.fetchall() == [(names["young"],)]
    kept = tmp_path / "artifacts" / f"{names['loose']}.msgpack.zst"
    assert kept.read_bytes() == packed(values["loose"])[names["loose"]]
    await database.execute("UPDATE artifacts SET named_at = now() - interval '1 day'")
    assert (await retain()).artifacts == 1  # now it is old enough
    assert await history.artifacts.get(names["young"]) is None
    assert (await retain()).artifacts == 0
    run = await history.runs.get("old")
    assert run and run["output"] == values["kept"]


async def test_a_run_whose_events_were_dropped_is_known_from_its_projection(
    retain: Retain, history: History, database: psycopg.AsyncConnection[Any], tmp_path: Path
) -> None:
    await record(database, *run_events("old", LARGE, at=OCTOBER, labels={"a": "b"}), artifacts=packed(LARGE))
    await record(database, *run_events("new", at=DECEMBER))
    folded = await history.events.state("old")
    await retain(tmp_path)
    state = await history.dropped_events.state("old")
    assert folded and state
    for name in ("run_id", "status", "seq", "labels", "input", "outputs", "ends", "created_at", "ended_at", "usage"):
        assert getattr(state, name) == getattr(folded, name), name
    assert state.outputs[""]["a"] == Reference(encode_value(LARGE)[0])
    dropped = await history.dropped_events.of("old")
    assert dropped and (dropped.seq, dropped.file) == (4, "execution_events_2025_10.ndjson.gz")
    assert await history.dropped_events.of("new") is None
    assert await history.dropped_events.of("nobody") is None and await history.dropped_events.state("nobody") is None
