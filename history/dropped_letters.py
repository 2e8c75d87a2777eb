"""Dropped letters: dead letters that somebody has taken off the list, with who did it, when and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool


class DroppedLetters:
    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def add(self, shard: str, letter: Mapping[str, Any], *, by: str, reason: str) -> None:
        """Keep a letter that is dropped; one that was kept already stays as it is. `letter` has an `id`."""
        run_id = letter.get("run_id")
        async with self._pool.connection() as connection:
            await connection.execute(
                "INSERT INTO dropped_letters (shard, letter_id, run_id, reason, by, letter) "
                "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (
                    shard, letter["id"], None if run_id is None else str(run_id).replace("\0", "�"), reason, by,
                    orjson.dumps(letter).decode(),
                ),
            )  # fmt: skip

    async def get(self, shard: str, letter_id: str) -> dict[str, Any] | None:
        found = await self._read(shard, "letter_id = %(value)s", letter_id, 1)
        return found[0] if found else None

    async def page(self, shard: str, limit: int, before: int | None = None) -> list[dict[str, Any]]:
        """Letters, the last dropped first; those dropped before the one of that `number`."""
        return await self._read(shard, "(%(value)s::bigint IS NULL OR number < %(value)s)", before, limit)

    async def _read(self, shard: str, where: str, value: Any, limit: int) -> list[dict[str, Any]]:
        """Each letter with `dropped` {number, by, reason, at}; times are ms."""
        async with self._pool.connection() as connection:
            cursor = await connection.cursor(row_factory=dict_row).execute(
                "SELECT letter::text, number, by, reason, (extract(epoch FROM at) * 1000)::bigint AS at "
                f"FROM dropped_letters WHERE shard = %(shard)s AND {where} ORDER BY number DESC LIMIT %(limit)s",
                {"shard": shard, "value": value, "limit": limit},
            )
            return [orjson.loads(row.pop("letter")) | {"dropped": row} for row in await cursor.fetchall()]
