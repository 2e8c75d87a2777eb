"""Sweep: deletes artifacts that a dropped event named and that nothing names any more.

What an artifact is named by: a projection's input or outputs, a recorded event, an item of a batch. A snapshot names
only what its run's events do, and goes with them. An artifact that was written within the last hour stays until the
next sweep: what names it may not be committed yet.
"""

from __future__ import annotations

import logging
from typing import Any

from psycopg import AsyncConnection

from history.artifact_store import ArtifactStore, StoreAway
from history.artifacts import SWEEP_LOCK
from history.export import Export

log = logging.getLogger(__name__)

SLICE = 200
"""Artifacts that are deleted in one transaction: whoever writes some waits no longer."""


async def sweep(connection: AsyncConnection[Any], store: ArtifactStore | None, export: Export | None) -> int:
    """How many were deleted. With an export each is kept in its folder first, as `artifacts/<name>.msgpack.zst`.

    `connection` is in autocommit. Raises OSError where the export fails. A store that is away stops the sweep; the next
    one goes on.
    """
    cursor = await connection.execute(_UNNAMED)
    names = [name for (name,) in await cursor.fetchall()]
    deleted = 0
    for first in range(0, len(names), SLICE):
        try:
            deleted += await _delete(connection, names[first : first + SLICE], store, export)
        except StoreAway as error:
            log.warning("%s; %d artifacts wait for the next retention", error, len(names) - first)
            return deleted
    await connection.execute(_FORGET)
    return deleted


async def _delete(
    connection: AsyncConnection[Any], names: list[str], store: ArtifactStore | None, export: Export | None
) -> int:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (SWEEP_LOCK,))
        cursor = connection.cursor(binary=True)
        await cursor.execute(
            "DELETE FROM artifacts WHERE name = ANY(%s) AND named_at < now() - interval '1 hour' "
            "RETURNING name, location, packed",
            (names,),
        )
        rows = await cursor.fetchall()
        elsewhere = {name: location for name, location, _ in rows if location}
        if elsewhere and store is None:
            raise StoreAway(f"artifacts lie at {next(iter(elsewhere.values()))}: set PAVANE_ARTIFACT_STORE")
        if export:
            fetched = await store.get(elsewhere) if store and elsewhere else {}
            for name, _, packed in rows:
                if (content := fetched.get(name) if packed is None else bytes(packed)) is not None:
                    await export.keep(f"artifacts/{name}.msgpack.zst", content)
        if store and elsewhere:
            await store.delete(elsewhere.values())
    return len(rows)


# One pass over what there is, and no index on it: this is done when events were dropped, which is once a month.
# Names are looked for as text, so no place in an event where one may stand is forgotten.
_NAMED = """
    SELECT substr(input, 12) FROM run_projection WHERE input LIKE 'artifact://%'
    UNION ALL SELECT name[1] FROM run_projection, regexp_matches(stored::text, 'sha256-[0-9a-f]{64}', 'g') AS name
    UNION ALL SELECT substr(input, 12) FROM batch_items WHERE input LIKE 'artifact://%'
    UNION ALL SELECT name[1] FROM execution_events, regexp_matches(data::text, 'sha256-[0-9a-f]{64}', 'g') AS name
        WHERE data::text LIKE '%sha256-%'
    UNION ALL SELECT name[1] FROM diverged_events, regexp_matches(data::text, 'sha256-[0-9a-f]{64}', 'g') AS name
        WHERE data::text LIKE '%sha256-%'
"""
_UNNAMED = (
    "SELECT name FROM loose_artifacts WHERE EXISTS (SELECT FROM artifacts AS a WHERE a.name = loose_artifacts.name) "
    f"EXCEPT ({_NAMED}) ORDER BY name"
)
# Those that are named go on being named until more is dropped, which makes them loose again.
_FORGET = (
    "DELETE FROM loose_artifacts WHERE NOT EXISTS (SELECT FROM artifacts AS a WHERE a.name = loose_artifacts.name "
    "AND a.named_at >= now() - interval '2 hours')"
)
