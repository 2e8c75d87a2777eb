"""Artifacts in an S3-compatible store: written before they are named, read from where they lie, deleted when nothing
names them; and a store that is away."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool
from redis.asyncio import Redis

from coordinator.recorder import Recorder
from history.artifact_store import ArtifactStore, StoreAway
from history.artifacts import SWEEP_LOCK, write_artifacts
from history.history import History
from history.journal import Journal, Page
from history.retention import Retention
from schemas.keys import Keys
from schemas.values import encode_value
from tests.s3_server import S3Server, s3_server
from tests.store_postgres.samples import batch, item, run_events

LARGE = {"text": "x" * 20_000}
TEXT, ARTIFACT = encode_value(LARGE)
assert ARTIFACT
NAME, PACKED = ARTIFACT.name, {ARTIFACT.name: ARTIFACT.packed}


class Calls:
    """Counts the calls of a method."""

    def __init__(self, of: Any, name: str) -> None:
        self.called = 0
        method = getattr(of, name)

        async def counted(*given: Any) -> Any:
            self.called += 1
            return await method(*given)

        setattr(of, name, counted)


server = pytest.fixture(scope="module")(s3_server)


@pytest.fixture
def bucket(server: S3Server) -> Iterator[str]:
    """An empty one, "kept"; what the test puts there goes with it."""
    httpx.post(f"{server.url}/moto-api/reset", trust_env=False).raise_for_status()
    httpx.put(f"{server.url}/kept", trust_env=False).raise_for_status()
    return "kept"


@pytest.fixture
def store(server: S3Server, bucket: str) -> ArtifactStore:
    return ArtifactStore(server.options(f"s3://{bucket}/pavane/of us"))


@pytest.fixture
def stored(history: History, pool: AsyncConnectionPool[Any], store: ArtifactStore) -> History:
    return History(pool, store)


async def test_a_recorded_artifact_lies_in_the_store_and_is_read_from_there(
    stored: History, history: History, database: psycopg.AsyncConnection[Any], server: S3Server, store: ArtifactStore
) -> None:
    page = Page("1-1", run_events("run_1", LARGE, stored_input=TEXT), artifacts=PACKED)
    await Journal("", store).write(database, page)
    assert server.objects("kept") == [f"pavane/of us/{NAME}"]
    cursor = await database.execute("SELECT name, packed, location, size FROM artifacts")
    assert await cursor.fetchall() == [(NAME, None, f"s3://kept/pavane/of us/{NAME}", len(PACKED[NAME]))]
    run = await stored.runs.get("run_1")
    assert run and (run["input"], run["output"]) == (LARGE, LARGE)
    assert await stored.artifacts.get(NAME) == PACKED[NAME]
    with pytest.raises(StoreAway, match="PAVANE_ARTIFACT_STORE"):
        await history.artifacts.get(NAME)


async def test_what_postgres_had_before_stays_where_it_is(stored: History, history: History, server: S3Server) -> None:
    assert ARTIFACT
    await history.artifacts.add([ARTIFACT])
    await stored.artifacts.add([ARTIFACT])
    assert server.objects("kept") == []
    other = encode_value({"text": "y" * 20_000})[1]
    assert other
    await stored.artifacts.add([other])
    await history.artifacts.add([other])  # a process without the store has it inline, where the row says otherwise
    both = {**PACKED, other.name: other.packed}
    assert await stored.artifacts.get_many(both) == both


async def test_inputs_of_items(stored: History, server: S3Server) -> None:
    await stored.batches.create(batch(1, [item(1, value=LARGE), item(2)]))
    assert len(server.objects("kept")) == 1
    async with stored.batches.claim("batch_1", 5) as claimed:
        assert [one.artifact for one in claimed.items] == [ARTIFACT, None]


async def test_an_object_that_is_gone_is_a_missing_artifact(stored: History, store: ArtifactStore) -> None:
    assert ARTIFACT
    await stored.artifacts.add([ARTIFACT])
    await store.delete([f"s3://kept/pavane/of us/{NAME}"])
    assert await stored.artifacts.get(NAME) is None


async def test_a_store_that_refuses_us_is_away_and_says_no_secret(server: S3Server, bucket: str) -> None:
    options = server.options("s3://nobodys", secret_access_key="sekret")
    assert "sekret" not in repr(options)
    with pytest.raises(StoreAway, match="s3://nobodys") as refused:
        await ArtifactStore(options).put(PACKED)
    assert "sekret" not in str(refused.value)
    with pytest.raises(StoreAway, match="404"):  # no bucket is not the same as no object
        await ArtifactStore(options).get({NAME: f"s3://nobodys/{NAME}"})


async def test_unnamed_artifacts_are_deleted_from_the_store(
    stored: History, database: psycopg.AsyncConnection[Any], database_url: str, server: S3Server, store: ArtifactStore,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert ARTIFACT
    kept = encode_value({"text": "y" * 20_000})[1]
    assert kept
    await stored.artifacts.add([ARTIFACT, kept])
    await database.execute("UPDATE artifacts SET named_at = now() - interval '1 day'")
    await database.execute("INSERT INTO loose_artifacts VALUES (%s)", (NAME,))
    connect = partial(psycopg.AsyncConnection.connect, database_url)
    retention = Retention(connect, tmp_path, store)
    report = await retention.apply(datetime.now(UTC) - timedelta(days=1), "test")
    assert report.artifacts == 1
    assert server.objects("kept") == [f"pavane/of us/{kept.name}"]
    assert (tmp_path / "artifacts" / f"{NAME}.msgpack.zst").read_bytes() == ARTIFACT.packed


async def test_nobody_deletes_what_is_being_written(
    stored: History, database: psycopg.AsyncConnection[Any], store: ArtifactStore
) -> None:
    """From the upload until the commit."""
    async with stored.pool.connection() as other, other.transaction():
        await write_artifacts(other, PACKED, store)
        cursor = await database.execute("SELECT pg_try_advisory_lock(%s)", (SWEEP_LOCK,))
        assert await cursor.fetchone() == (False,)
    cursor = await database.execute("SELECT pg_try_advisory_lock(%s)", (SWEEP_LOCK,))
    assert await cursor.fetchone() == (True,)


async def test_the_recorder_waits_for_the_store(
    stored: History, database_url: str, redis: Redis, wait_until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed and started again: nothing is lost, and it is said once."""
    server = S3Server()
    store = ArtifactStore(server.options("s3://kept", secret_access_key="sekret"))
    keys = Keys("")
    for event in run_events("run_1", LARGE):
        head = {"run": event.run_id, "seq": event.seq, "type": event.type, "at": event.at}
        places = {"node": event.node_id, "token": event.token_id, "scope": event.scope}
        await redis.xadd(keys.events, {**head, **places, "body": event.data, "applied": ""})
    await redis.hset(keys.artifacts("run_1"), NAME, PACKED[NAME])
    recorder = Recorder(redis, keys, partial(psycopg.AsyncConnection.connect, database_url), store)
    writes = Calls(recorder.journal, "write")
    stop = asyncio.Event()
    running = asyncio.create_task(recorder.run(stop))
    try:
        await wait_until(lambda: recorder.state == "away", 30)
        tries = writes.called
        await wait_until(lambda: writes.called > tries + 1, 30)
        assert await stored.events.after("run_1") == []
        server.start("kept")
        await wait_until(lambda: recorder.recorded == 4, 30)
        assert server.objects("kept") == [NAME]
        said = [record.message for record in caplog.records if "artifact store" in record.message]
        assert len(said) == 1 and "sekret" not in said[0]
        server.kill()
        with pytest.raises(StoreAway):
            await store.get({NAME: f"s3://kept/{NAME}"})
    finally:
        stop.set()
        await running
        server.kill()
