"""Workflows: registered documents, their versions, and the IRs by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from schemas.ir import IR


@dataclass(frozen=True, slots=True)
class WorkflowVersion:
    """One version of a registered workflow; versions count from 1. `created_at` is ms since the epoch."""

    workflow_id: str
    version: int
    digest: str  # of its IR
    document: Mapping[str, Any]
    created_at: int


_COLUMNS = "workflow_id, version, digest, document::text, (extract(epoch FROM created_at) * 1000)::bigint"


class Workflows:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def register(self, ir: IR) -> tuple[WorkflowVersion, bool]:
        """The version of this document, and whether it is new: a document that was registered keeps its version."""
        document = orjson.dumps(ir.workflow, option=orjson.OPT_SORT_KEYS)
        sha256 = hashlib.sha256(document).digest()
        async with self._pool.connection() as connection, connection.transaction():
            # Two first registrations at once: the second waits here for the first.
            await connection.execute(
                "INSERT INTO workflows (workflow_id, latest) VALUES (%s, 0) ON CONFLICT DO NOTHING",
                (ir.workflow_id,),
            )
            cursor = await connection.execute(
                "SELECT latest FROM workflows WHERE workflow_id = %s FOR UPDATE", (ir.workflow_id,)
            )
            row = await cursor.fetchone()
            assert row is not None
            known = await _version(connection, "workflow_id = %s AND document_sha256 = %s", (ir.workflow_id, sha256))
            if known:
                return known, False
            await write_ir(connection, ir.digest, ir.text)
            await connection.execute(
                "INSERT INTO workflow_versions (workflow_id, version, digest, document, document_sha256) "
                "VALUES (%s, %s, %s, %s, %s)",
                (ir.workflow_id, row[0] + 1, ir.digest, orjson.dumps(ir.workflow).decode(), sha256),
            )
            await connection.execute(
                "UPDATE workflows SET latest = %s WHERE workflow_id = %s", (row[0] + 1, ir.workflow_id)
            )
            added = await _version(connection, "workflow_id = %s AND version = %s", (ir.workflow_id, row[0] + 1))
            assert added is not None
            return added, True

    async def get(self, workflow_id: str, version: int | None = None) -> WorkflowVersion | None:
        """A version, by default the latest; None if there is none."""
        async with self._pool.connection() as connection:
            return await _version(
                connection,
                "workflow_id = %s AND version = coalesce(%s, "
                "(SELECT latest FROM workflows WHERE workflow_id = workflow_versions.workflow_id))",
                (workflow_id, version),
            )

    async def list(self, limit: int = 100, after: str = "") -> list[dict[str, Any]]:
        """{workflow_id, version (the latest), created_at (its, ms), description} by id, those after `after`."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(
                f"SELECT {_COLUMNS} FROM workflow_versions WHERE workflow_id > %s AND version = "
                "(SELECT latest FROM workflows WHERE workflow_id = workflow_versions.workflow_id) "
                "ORDER BY workflow_id LIMIT %s",
                (after, limit),
            )
            found = [_read(row) for row in await cursor.fetchall()]
        return [
            {
                "workflow_id": one.workflow_id,
                "version": one.version,
                "created_at": one.created_at,
                "description": one.document.get("description"),
            }
            for one in found
        ]

    async def ir(self, digest: str) -> str | None:
        """The text of an IR; None if it was never recorded."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute("SELECT ir FROM irs WHERE digest = %s", (digest,))
            row = await cursor.fetchone()
            return row[0] if row else None

    async def add_ir(self, ir: IR) -> None:
        """Keep an IR that no registered workflow brought."""
        async with self._pool.connection() as connection, connection.transaction():
            await write_ir(connection, ir.digest, ir.text)


async def write_ir(connection: AsyncConnection[Any], digest: str, text: str) -> None:
    await connection.execute("INSERT INTO irs (digest, ir) VALUES (%s, %s) ON CONFLICT DO NOTHING", (digest, text))


async def read_irs(connection: AsyncConnection[Any], digests: Iterable[str]) -> dict[str, str]:
    """Texts of the IRs that are recorded, by digest."""
    if not (asked := list(digests)):
        return {}
    cursor = await connection.execute("SELECT digest, ir FROM irs WHERE digest = ANY(%s)", (asked,))
    return dict(await cursor.fetchall())


async def _version(connection: AsyncConnection[Any], where: str, parameters: tuple[Any, ...]) -> WorkflowVersion | None:
    cursor = await connection.execute(f"SELECT {_COLUMNS} FROM workflow_versions WHERE {where}", parameters)
    row = await cursor.fetchone()
    return _read(row) if row else None


def _read(row: tuple[Any, ...]) -> WorkflowVersion:
    workflow_id, version, digest, document, created_at = row
    return WorkflowVersion(workflow_id, version, digest, orjson.loads(document), created_at)
