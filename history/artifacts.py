"""Artifacts: large values, content-addressed, as `schemas/values.py` packs them.

They lie in Postgres, or in an artifact store where one is configured; the row says where.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from history.artifact_store import ArtifactStore, StoreAway
from schemas.values import Artifact, artifact_name, decode_value, unpack

log = logging.getLogger(__name__)

SWEEP_LOCK = 0x70617661_6E650002
"""Advisory lock: shared by who uploads artifacts until they are committed, taken alone by who deletes some."""


class Artifacts:
    """Reads of artifacts; those of runs are written by the recorder, those of batch items with the batch."""

    def __init__(self, pool: AsyncConnectionPool[Any], store: ArtifactStore | None = None) -> None:
        self._pool = pool
        self._store = store

    async def get(self, name: str) -> bytes | None:
        """The packed bytes of `sha256-<hex>`; None if there is no such artifact."""
        return (await self.get_many([name])).get(name)

    async def get_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The packed bytes of those that exist."""
        async with self._pool.connection() as connection:
            return await read_artifacts(connection, names, self._store)

    async def add(self, artifacts: Iterable[Artifact]) -> None:
        async with self._pool.connection() as connection, connection.transaction():
            await write_artifacts(connection, {artifact.name: artifact.packed for artifact in artifacts}, self._store)


async def read_artifacts(
    connection: AsyncConnection[Any], names: Iterable[str], store: ArtifactStore | None = None
) -> dict[str, bytes]:
    """The packed bytes of those that exist, from wherever they lie. Raises StoreAway."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    cursor = connection.cursor(binary=True)
    await cursor.execute("SELECT name, packed, location FROM artifacts WHERE name = ANY(%s)", (wanted,))
    found: dict[str, bytes] = {}
    elsewhere: dict[str, str] = {}
    for name, packed, location in await cursor.fetchall():
        if packed is None:
            elsewhere[name] = location
        else:
            found[name] = bytes(packed)
    if not elsewhere:
        return found
    if store is None:
        name, location = next(iter(elsewhere.items()))
        raise StoreAway(f"the artifact {name} lies at {location}: set PAVANE_ARTIFACT_STORE for this process too")
    fetched = await store.get(elsewhere)
    for name in elsewhere.keys() - fetched.keys():
        log.error("artifact %s is not at %s any more", name, elsewhere[name])
    return found | fetched


async def write_artifacts(
    connection: AsyncConnection[Any], packed: Mapping[str, bytes], store: ArtifactStore | None = None
) -> None:
    """Keep artifacts, in the caller's transaction. Raises StoreAway.

    With a store they are uploaded first, so no row that is committed names an object that is not there. Nobody deletes
    one of them before the transaction ends. Sorted, so that two writers of the same ones wait for each other and never
    both.
    """
    if not packed:
        return
    locations = await _upload(connection, packed, store) if store else {}
    for name in sorted(packed):
        part, location = packed[name], locations.get(name)
        await connection.execute(
            "INSERT INTO artifacts (name, packed, location, size) VALUES (%s, %s, %s, %s) ON CONFLICT (name) "
            "DO UPDATE SET named_at = now() WHERE artifacts.named_at < now() - interval '1 hour'",
            (name, None if location else part, location, len(part) if location else None),
        )


async def _upload(
    connection: AsyncConnection[Any], packed: Mapping[str, bytes], store: ArtifactStore
) -> dict[str, str]:
    """Where those lie that were not known."""
    await connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (SWEEP_LOCK,))
    cursor = await connection.execute("SELECT name FROM artifacts WHERE name = ANY(%s)", (list(packed),))
    known = {name for (name,) in await cursor.fetchall()}
    return await store.put({name: part for name, part in packed.items() if name not in known})


class Values:
    """Stored texts as values: `load` the artifacts of a few rows at once, then `get` each of their texts."""

    def __init__(self, connection: AsyncConnection[Any], store: ArtifactStore | None = None) -> None:
        self._connection = connection
        self._store = store
        self._loaded: dict[str, Any] = {}

    async def load(self, texts: Iterable[str | None]) -> None:
        names = {name for text in texts if text and (name := artifact_name(text))}
        packed = await read_artifacts(self._connection, names, self._store)
        self._loaded = {name: unpack(part) for name, part in packed.items()}

    def get(self, text: str) -> Any:
        """The value; None where the artifact is missing."""
        name = artifact_name(text)
        return decode_value(text) if name is None else self._loaded.get(name)
