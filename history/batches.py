"""Batches: many runs of one workflow. Their items wait here until a coordinator admits them.

create ── pending ──claim──► admitted ──recorder: the run ended──► done | failed
              └──cancel──► withdrawn       ◄──recorder: the run was retried──┘
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore
from history.artifacts import read_artifacts, write_artifacts
from history.audit_query import AuditQuery, State
from history.batch_control import claims_lock
from history.batch_counts import STILL_PAUSED_MS, count_items, end_batches, totals
from history.batch_skips import choose_items, keep_skips, known_keys
from history.workflows import read_irs
from schemas.batch_mark import BatchMark
from schemas.submission import Priority
from schemas.values import Artifact, artifact_name

KEY_LENGTH = 512
"""Bound on an item's key, in characters: it is indexed."""

ONE_IN_MS = 60_000
"""A workflow starts at most one batch in this time, unless forced."""


class BatchRefused(Exception):
    """The batch may not start now: `running` (another one of this workflow is), or `rate` (started too soon)."""

    def __init__(self, reason: Literal["running", "rate"], other: str, retry_after_s: float) -> None:
        self.reason = reason
        self.other = other  # id of the batch that stands in the way
        self.retry_after_s = retry_after_s
        super().__init__(
            f"{other} of this workflow is running"
            if reason == "running"
            else f"{other} of this workflow was started less than a minute ago; wait {retry_after_s:.0f} s, or force it"
        )


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item as it is handed in. `key` None: never skipped."""

    run_id: str
    key: str | None
    input: str  # stored text
    artifact: Artifact | None = None  # what `input` refers to


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as it is handed in. `version` None: of no registered workflow. `created_at`: ms since the epoch. `by`:
    who asked, as far as the API knows, whatever `requested_by` says. `state`: what the audit query gave before."""

    batch_id: str
    workflow_id: str
    version: int | None
    digest: str  # of the IR, which must be recorded (`Workflows.register`, `add_ir`)
    items: Sequence[NewItem]
    created_at: int
    requested_by: str | None = None
    priority: str = "normal"
    labels: Mapping[str, str] = field(default_factory=dict)
    force: bool = False
    by: str | None = None
    audit: AuditQuery | None = None
    state: State | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    batch_id: str
    accepted: int
    skipped: int


@dataclass(frozen=True, slots=True)
class OpenBatch:
    """A batch with items that wait to be admitted."""

    batch_id: str
    workflow_id: str
    version: int | None
    priority: Priority
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Item:
    """An item to admit."""

    position: int  # from 0
    key: str  # its key, else its position
    run_id: str
    input: str  # stored text
    artifact: Artifact | None
    digest: str  # of the IR that it begins with
    batch_patch: str = ""  # which patch of the batch made that IR, a BatchMark


@dataclass(frozen=True, slots=True)
class Claimed:
    """Items to admit; those that are taken out of the list wait again. `failed` is for the run ids of those that cannot
    be started. `irs`: texts by digest, of those that are recorded and were not known."""

    items: list[Item]
    irs: Mapping[str, str]
    failed: list[str] = field(default_factory=list)


class Batches:
    def __init__(self, pool: AsyncConnectionPool[Any], store: ArtifactStore | None = None) -> None:
        self._pool = pool
        self._store = store

    # -- start -------------------------------------------------------------------------------------
    async def create(self, batch: NewBatch) -> Accepted:
        """Take a batch in, without the items whose key this workflow version has done or is working on.

        Raises BatchRefused, and ValueError for a key over KEY_LENGTH or with U+0000. A batch of which everything is
        skipped has ended at once.
        """
        for position, item in enumerate(batch.items):
            if item.key is not None and (len(item.key) > KEY_LENGTH or "\0" in item.key):
                raise ValueError(f"the key of item {position} is longer than {KEY_LENGTH} or holds U+0000")
        async with self._pool.connection() as connection, connection.transaction():
            # One after the other per workflow, so that two at once see each other.
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"pavane batch {batch.workflow_id}",)
            )
            if not batch.force:
                await _check_may_start(connection, batch)
            known = {} if batch.force else await known_keys(connection, batch.digest, batch.items)
            items, skips = (batch.items, []) if batch.force else choose_items(batch.items, known, batch.batch_id)
            await _insert(connection, batch, len(items), len(skips))
            await keep_skips(connection, batch.batch_id, skips)
            artifacts = {item.artifact.name: item.artifact.packed for item in items if item.artifact}
            await write_artifacts(connection, artifacts, self._store)
            await _copy_items(connection, batch.batch_id, items)
            await end_batches(connection, [batch.batch_id])
        return Accepted(batch.batch_id, len(items), len(skips))

    # -- admission ---------------------------------------------------------------------------------
    async def pending(self, limit: int = 100) -> list[OpenBatch]:
        """Running batches with items that wait, the oldest first."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT batch_id, workflow_id, version, priority, labels::text FROM batches AS batch "
                "WHERE ended_at IS NULL AND status = 'RUNNING' AND EXISTS (SELECT FROM batch_items AS item "
                "WHERE item.batch_id = batch.batch_id AND item.state = 'pending') ORDER BY created_at LIMIT %s",
                (limit,),
            )
            return [_open_batch(*row) for row in await cursor.fetchall()]

    @asynccontextmanager
    async def claim(self, batch_id: str, limit: int, known: Container[str] = ()) -> AsyncIterator[Claimed]:
        """The next items to admit, up to `limit`, which nobody else is given while the block lasts.

        They count as admitted when it ends; when it raises, or its process dies, they wait again. So starting their
        runs in the block must bear a repetition: `start_run` does. They begin with the batch's workflow as it is
        patched now; who patches it waits for the block to end, and then finds them admitted. `known`: digests of IRs
        that the caller has.
        """
        async with self._pool.connection() as connection, connection.transaction():
            # Who pauses or patches the batch waits for the claims that are going on, and later ones see what it did.
            await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (claims_lock(batch_id),))
            rows = await (await connection.execute(_CLAIM, (batch_id, limit))).fetchall()
            names = [name for row in rows if (name := artifact_name(row[3]))]
            packed = await read_artifacts(connection, names, self._store)
            items = [_item(row, packed) for row in rows]
            irs = await read_irs(connection, {item.digest for item in items if item.digest not in known})
            claimed = Claimed(items, irs)
            yield claimed
            await connection.execute(
                "UPDATE batch_items SET state = 'admitted' "
                "WHERE batch_id = %s AND position = ANY(%s) AND state = 'pending'",
                (batch_id, [item.position for item in claimed.items]),
            )
            if claimed.items:
                await connection.execute(
                    "UPDATE batches SET started_at = clock_timestamp() WHERE batch_id = %s AND started_at IS NULL",
                    (batch_id,),
                )
            await count_items(connection, dict.fromkeys(claimed.failed, "failed"))

    # -- reads -------------------------------------------------------------------------------------
    async def get(self, batch_id: str) -> dict[str, Any] | None:
        """The batch and its counts: total = pending + running + done + failed + withdrawn. Times are ms."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                f"{_SELECT} WHERE batch_id = %s", (batch_id,)
            )
            row = await cursor.fetchone()
        return _batch(row) if row else None

    async def list(self, workflow_id: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Batches as `get` gives them, the newest first."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                f"{_SELECT} WHERE %(id)s::text IS NULL OR workflow_id = %(id)s "
                "ORDER BY batches.created_at DESC, batch_id DESC LIMIT %(limit)s",
                {"id": workflow_id, "limit": limit},
            )
            return [_batch(row) for row in await cursor.fetchall()]


# An item begins with the newest patch of the batch that reaches to its position and is not reverted.
_CLAIM = """
    SELECT item.position, item.key, item.run_id, item.input, coalesce(patch.after, batch.digest),
        patch.number, patch.before
    FROM batch_items AS item JOIN batches AS batch USING (batch_id) LEFT JOIN LATERAL (
        SELECT number, before, after FROM batch_patches AS known
        WHERE known.batch_id = item.batch_id AND known.through >= item.position AND known.state <> 'reverted'
        ORDER BY number DESC LIMIT 1
    ) AS patch ON true
    WHERE item.batch_id = %s AND item.state = 'pending' AND batch.status = 'RUNNING'
    ORDER BY item.position LIMIT %s FOR UPDATE OF item SKIP LOCKED
"""

_SELECT = f"""
    SELECT batch_id, workflow_id, version, digest, status, priority, labels::text, requested_by, by,
        total, skipped, done, failed, withdrawn,
        (SELECT count(*) FROM batch_items AS item
            WHERE item.batch_id = batches.batch_id AND state = 'pending')::integer AS pending,
        state_before::text, expected_work::text, state_after::text, delta::text,
        audit::text, audit_due IS NOT NULL AS audit_waits, audit_error,
        (extract(epoch FROM created_at) * 1000)::bigint AS created_at,
        (extract(epoch FROM started_at) * 1000)::bigint AS started_at,
        (extract(epoch FROM ended_at) * 1000)::bigint AS ended_at,
        paused_ms + {STILL_PAUSED_MS} AS paused_ms
    FROM batches
"""


def _batch(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("labels", "state_before", "expected_work", "state_after", "delta", "audit"):
        row[name] = orjson.loads(row[name]) if row[name] is not None else None
    waits, error = row.pop("audit_waits"), row.pop("audit_error")
    if row["audit"]:
        row["audit"] |= {"waits": waits, "error": error}
    row["running"] = row["total"] - sum(row[name] for name in ("pending", "done", "failed", "withdrawn"))
    return row


def _open_batch(batch_id: str, workflow_id: str, version: int | None, priority: Priority, labels: str) -> OpenBatch:
    return OpenBatch(batch_id, workflow_id, version, priority, orjson.loads(labels))


def _item(row: tuple[Any, ...], packed: Mapping[str, bytes]) -> Item:
    position, key, run_id, text, digest, patch, before = row
    name = artifact_name(text)
    artifact = Artifact(name, packed[name]) if name else None
    mark = "" if patch is None else str(BatchMark(str(patch), 1, before))
    return Item(position, str(position) if key is None else key, run_id, text, artifact, digest, mark)


async def _check_may_start(connection: AsyncConnection[Any], batch: NewBatch) -> None:
    cursor = await connection.execute(
        "SELECT batch_id, (extract(epoch FROM created_at) * 1000)::bigint, ended_at IS NULL FROM batches "
        # One of which everything was skipped did nothing: the next one need not wait.
        "WHERE workflow_id = %s AND total > 0 ORDER BY ended_at IS NULL DESC, created_at DESC LIMIT 1",
        (batch.workflow_id,),
    )
    running = await cursor.fetchone()
    if running and running[2]:
        raise BatchRefused("running", running[0], 5)
    if running and (passed := batch.created_at - running[1]) < ONE_IN_MS:
        raise BatchRefused("rate", running[0], (ONE_IN_MS - passed) / 1_000)


async def _insert(connection: AsyncConnection[Any], batch: NewBatch, total: int, skipped: int) -> None:
    before: dict[str, Any] = await totals(connection, batch.digest)
    if batch.state is not None:
        before["audit"] = batch.state
    audit = None if batch.audit is None else orjson.dumps(asdict(batch.audit)).decode()
    await connection.execute(
        "INSERT INTO batches (batch_id, workflow_id, version, digest, status, priority, labels, requested_by, by, "
        "audit, total, skipped, state_before, expected_work, created_at) "
        "VALUES (%s, %s, %s, %s, 'RUNNING', %s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s::bigint / 1000.0))",
        (
            batch.batch_id, batch.workflow_id, batch.version, batch.digest, batch.priority,
            orjson.dumps(batch.labels).decode(), batch.requested_by, batch.by, audit, total, skipped,
            orjson.dumps(before).decode(), orjson.dumps({"runs": total, "skipped": skipped}).decode(),
            batch.created_at,
        ),
    )  # fmt: skip


async def _copy_items(connection: AsyncConnection[Any], batch_id: str, items: Sequence[NewItem]) -> None:
    async with (
        connection.cursor() as cursor,
        cursor.copy("COPY batch_items (batch_id, position, key, run_id, input) FROM STDIN") as copy,
    ):
        for position, item in enumerate(items):
            await copy.write_row((batch_id, position, item.key, item.run_id, item.input))
