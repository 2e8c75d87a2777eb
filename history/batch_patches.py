"""Batch patches: what was asked of a batch's runs, which workflow its items begin with since, what came of each run.

(asked) ──► canary ──promote──► applied          `done` is false until every run was asked: who finds it so goes on
   └───────────┼──────────────►    │
               └──────revert───────┴──► reverted
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.batch_control import finish_patch_action, keep_action
from history.workflows import write_ir
from schemas.ir import IR

State = Literal["canary", "applied", "reverted"]
Outcome = Literal["patched", "refused", "ended", "reverted", "kept"]
OUTCOMES: tuple[Outcome, ...] = ("patched", "reverted", "refused", "kept", "ended")

ALL = 2**31 - 1
"""`through` of a patch with which every item begins."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch patch as it is asked for. `options`: {live_tokens?, running?, filter?, canary?}."""

    by: str
    description: str | None
    operations: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    through: int | None  # the last position whose item begins with it; None: none does
    before: str  # digest of the IR that items begin with until then
    after: IR  # that they begin with since

    @property
    def state(self) -> State:
        return "canary" if "canary" in self.options else "applied"


@dataclass(frozen=True, slots=True)
class BatchPatch:
    """A batch patch as it is kept. Times are ms since the epoch."""

    batch_id: str
    number: int
    state: State
    done: bool
    by: str
    description: str | None
    operations: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    through: int | None
    before: str
    after: str
    at: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class OpenItem:
    """An item that has not ended, as far as is recorded."""

    position: int
    key: str  # its key, else its position
    run_id: str
    admitted: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What came of the run of one item. `revision`: that it has since; `reason`: {reason, message, tokens? or errors?}
    of one that is refused or kept."""

    position: int
    outcome: Outcome
    revision: int | None = None
    reason: Mapping[str, Any] | None = None


class BatchPatches:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    # -- what is asked -----------------------------------------------------------------------------
    async def start(self, batch_id: str, asked: Asked, chosen: Sequence[int] = ()) -> BatchPatch:
        """Keep a patch: from now on items begin with it. `chosen`: positions of the items that a filter chose."""
        async with self._pool.connection() as connection, connection.transaction():
            await write_ir(connection, asked.after.digest, asked.after.text)
            cursor = await connection.execute(
                "INSERT INTO batch_patches "
                "(batch_id, number, state, by, description, operations, options, through, before, after) "
                "SELECT %s, coalesce(max(number), 0) + 1, %s, %s, %s, %s, %s, %s, %s, %s FROM batch_patches "
                "WHERE batch_id = %s RETURNING number",
                (
                    batch_id, asked.state, asked.by, asked.description, _text(asked.operations), _text(asked.options),
                    asked.through, asked.before, asked.after.digest, batch_id,
                ),
            )  # fmt: skip
            row = await cursor.fetchone()
            assert row is not None
            await _keep_results(connection, batch_id, row[0], [(position, None, None, None) for position in chosen])
            await keep_action(connection, batch_id, "patch", asked.by, asked.description)
        return await self._get(batch_id, row[0])

    async def change(
        self, patch: BatchPatch, state: State, by: str, reason: str | None, options: Mapping[str, Any]
    ) -> BatchPatch:
        """It is promoted or reverted: from now on items begin with it, or with what was before."""
        everything = state == "applied" and "filter" not in patch.options
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(
                "UPDATE batch_patches SET state = %s, done = false, options = %s, through = %s, "
                "changed_at = clock_timestamp() WHERE batch_id = %s AND number = %s",
                (state, _text(options), ALL if everything else patch.through, patch.batch_id, patch.number),
            )
            action = "promote" if state == "applied" else "revert"
            await keep_action(connection, patch.batch_id, action, by, reason)
        return await self._get(patch.batch_id, patch.number)

    async def keep_results(self, patch: BatchPatch, results: Sequence[Result]) -> None:
        rows = [
            (one.position, one.outcome, one.revision, None if one.reason is None else _text(one.reason))
            for one in results
        ]
        async with self._pool.connection() as connection, connection.transaction():
            await _keep_results(connection, patch.batch_id, patch.number, rows)

    async def finish(self, patch: BatchPatch) -> BatchPatch:
        """All runs were asked; those that a filter chose and that were not found have ended."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(
                "UPDATE batch_patches SET done = true WHERE batch_id = %s AND number = %s",
                (patch.batch_id, patch.number),
            )
            await connection.execute(
                "UPDATE batch_patch_runs SET outcome = 'ended' WHERE batch_id = %s AND number = %s AND outcome IS NULL",
                (patch.batch_id, patch.number),
            )
            await finish_patch_action(connection, patch.batch_id, patch.number)
        return await self._get(patch.batch_id, patch.number)

    # -- what it is about --------------------------------------------------------------------------
    async def begins_with(self, batch_id: str) -> str:
        """Digest of the IR with which the last of a batch's items begin now."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT coalesce((SELECT after FROM batch_patches AS patch WHERE patch.batch_id = batches.batch_id "
                f"AND state <> 'reverted' AND through = {ALL} ORDER BY number DESC LIMIT 1), digest) "
                "FROM batches WHERE batch_id = %s",
                (batch_id,),
            )
            row = await cursor.fetchone()
        assert row is not None
        return str(row[0])

    async def open_items(self, batch_id: str) -> list[OpenItem]:
        """Items that have not ended, in order."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT position, coalesce(key, position::text), run_id, state = 'admitted' FROM batch_items "
                "WHERE batch_id = %s AND state IN ('pending', 'admitted') ORDER BY position",
                (batch_id,),
            )
            return [OpenItem(*row) for row in await cursor.fetchall()]

    async def chosen(self, patch: BatchPatch) -> set[int]:
        """Positions of the items whose runs were chosen or asked."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT position FROM batch_patch_runs WHERE batch_id = %s AND number = %s",
                (patch.batch_id, patch.number),
            )
            return {position for (position,) in await cursor.fetchall()}

    # -- reads -------------------------------------------------------------------------------------
    async def newest(self, batch_id: str) -> BatchPatch | None:
        found = await self.list(batch_id, 1)
        return found[0] if found else None

    async def get(self, batch_id: str, number: int) -> BatchPatch | None:
        found = await self._select("number = %s ORDER BY number", batch_id, number)
        return found[0] if found else None

    async def counts(self, patch: BatchPatch) -> dict[str, int]:
        """Runs by what came of them; `waiting` were not asked yet, `begin`: items that will begin with it."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                "SELECT coalesce(outcome, 'waiting'), count(*) FROM batch_patch_runs "
                "WHERE batch_id = %s AND number = %s GROUP BY 1",
                (patch.batch_id, patch.number),
            )
            counts = dict(await cursor.fetchall())
            through = -1 if patch.through is None or patch.state == "reverted" else patch.through
            cursor = await connection.execute(
                "SELECT count(*) FROM batch_items WHERE batch_id = %s AND state = 'pending' AND position <= %s",
                (patch.batch_id, through),
            )
            row = await cursor.fetchone()
        assert row is not None
        return {name: counts.get(name, 0) for name in (*OUTCOMES, "waiting")} | {"begin": row[0]}

    async def runs(
        self, patch: BatchPatch, outcomes: Sequence[str] = (), limit: int = 100, after: int = -1
    ) -> list[dict[str, Any]]:
        """{position, run_id, key, outcome, revision, reason} of the runs that were asked, in the order of the items."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                "SELECT position, run_id, coalesce(key, position::text) AS key, outcome, revision, reason::text "
                "FROM batch_patch_runs JOIN batch_items USING (batch_id, position) WHERE batch_id = %s AND number = %s "
                "AND position > %s AND (%s OR outcome = ANY(%s)) ORDER BY position LIMIT %s",
                (patch.batch_id, patch.number, after, not outcomes, list(outcomes), limit),
            )
            rows = await cursor.fetchall()
        return [row | {"reason": row["reason"] and orjson.loads(row["reason"])} for row in rows]

    async def _get(self, batch_id: str, number: int) -> BatchPatch:
        found = await self.get(batch_id, number)
        assert found is not None
        return found

    async def _select(self, where: str, batch_id: str, *parameters: Any) -> list[BatchPatch]:
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                "SELECT batch_id, number, state, done, by, description, operations::text, options::text, through, "
                "before, after, (extract(epoch FROM at) * 1000)::bigint AS at, "
                "(extract(epoch FROM changed_at) * 1000)::bigint AS changed_at "
                f"FROM batch_patches WHERE batch_id = %s AND {where}",
                (batch_id, *parameters),
            )
            return [_batch_patch(row) for row in await cursor.fetchall()]

    async def list(self, batch_id: str, limit: int = 100) -> list[BatchPatch]:
        """The newest first."""
        return await self._select("true ORDER BY number DESC LIMIT %s", batch_id, limit)


def _batch_patch(row: dict[str, Any]) -> BatchPatch:
    return BatchPatch(**row | {name: orjson.loads(row[name]) for name in ("operations", "options")})


async def _keep_results(
    connection: AsyncConnection[Any], batch_id: str, number: int, rows: Sequence[tuple[Any, ...]]
) -> None:
    columns = [[row[n] for row in rows] for n in range(4)]
    await connection.execute(
        "INSERT INTO batch_patch_runs (batch_id, number, position, outcome, revision, reason) "
        "SELECT %s, %s, * FROM unnest(%s::integer[], %s::text[], %s::integer[], %s::json[]) "
        "ON CONFLICT (batch_id, number, position) DO UPDATE SET "
        "outcome = excluded.outcome, revision = excluded.revision, reason = excluded.reason",
        (batch_id, number, *columns),
    )


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()
