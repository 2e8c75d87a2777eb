"""Artifacts: large values, content-addressed, as `schemas/values.py` packs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from schemas.values import Artifact, artifact_name, decode_value, unpack


class Artifacts:
    """Reads of artifacts; those of runs are written by the recorder, those of batch items with the batch."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def get(self, name: str) -> bytes | None:
        """The packed bytes of `sha256-<hex>`; None if there is no such artifact."""
        async with self._pool.connection() as connection:
            return (await read_artifacts(connection, [name])).get(name)

    async def get_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The packed bytes of those that exist."""
        async with self._pool.connection() as connection:
            return await read_artifacts(connection, names)

    async def add(self, artifacts: Iterable[Artifact]) -> None:
        async with self._pool.connection() as connection, connection.transaction():
            await write_artifacts(connection, {artifact.name: artifact.packed for artifact in artifacts})


async def read_artifacts(connection: AsyncConnection[Any], names: Iterable[str]) -> dict[str, bytes]:
    wanted = sorted(set(names))
    if not wanted:
        return {}
    cursor = connection.cursor(binary=True)
    await cursor.execute("SELECT name, packed FROM artifacts WHERE name = ANY(%s)", (wanted,))
    return {name: bytes(packed) for name, packed in await cursor.fetchall()}


async def write_artifacts(connection: AsyncConnection[Any], packed: Mapping[str, bytes]) -> None:
    """Sorted, so that two writers of the same ones wait for each other and never both."""
    for name in sorted(packed):
        await connection.execute(
            "INSERT INTO artifacts (name, packed) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, packed[name])
        )


class Values:
    """Stored texts as values: `load` the artifacts of a few rows at once, then `get` each of their texts."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        self._connection = connection
        self._loaded: dict[str, Any] = {}

    async def load(self, texts: Iterable[str | None]) -> None:
        names = {name for text in texts if text and (name := artifact_name(text))}
        packed = await read_artifacts(self._connection, names)
        self._loaded = {name: unpack(part) for name, part in packed.items()}

    def get(self, text: str) -> Any:
        """The value; None where the artifact is missing."""
        name = artifact_name(text)
        return decode_value(text) if name is None else self._loaded.get(name)
