"""Missing: the items of a batch that have no output of a node, and where each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.dropped import dropped_of, kept
from history.questions.json_sql import readable
from history.questions.scope import EXAMPLES, Scope, asking
from history.questions.whereabouts import Moved, Place, Trail, items_around, live_records, place_of
from schemas.events import STATUS_OF
from schemas.ir import IR

ENDED = frozenset(STATUS_OF.values())

_SINCE = "event.at >= (SELECT created_at FROM batches WHERE batch_id = %(batch)s) - interval '1 hour'"
_DATA = readable("event.data")
_GIVING = "('node_completed', 'node_failed', 'run_forked', 'run_restated')"
"""Types of the events that may hold outputs; the last two hold a whole state."""
# Of a run that has ended the projection has the outputs of its own scope; of others, and in maps, the events have them.
_ITEMS = f"""
    SELECT item.position, item.key, item.run_id, item.state, run.status, run.digest,
        {readable("run.error")}::text AS error, run.broken_at IS NOT NULL AS broken,
        run.outputs IS NULL OR run.broken_at IS NOT NULL OR %(in_map)s AS unsettled
    FROM batch_items AS item LEFT JOIN run_projection AS run USING (run_id)
    WHERE item.batch_id = %(batch)s AND (run.outputs IS NULL OR %(in_map)s OR NOT (
        ({readable("run.outputs")} -> %(node)s::text) IS NOT NULL
        OR (coalesce(run.stored, '{{}}') -> %(node)s::text) IS NOT NULL))
    ORDER BY item.position
"""
_HAVING = f"""
    SELECT DISTINCT event.run_id FROM execution_events AS event
    WHERE event.run_id = ANY(%(runs)s) AND {_SINCE} AND event.type IN {_GIVING}
        AND (event.type <> 'node_failed' OR event.node_id <> %(node)s::text)
        AND strpos(event.data::text, %(quoted)s::text) > 0
        AND (({_DATA} -> 'outputs' -> %(node)s::text) IS NOT NULL
            OR ({_DATA} -> 'stored' -> %(node)s::text) IS NOT NULL
            OR EXISTS (SELECT FROM json_each({_DATA} -> 'state' -> 'outputs') AS scope
                WHERE (scope.value -> %(node)s::text) IS NOT NULL))
"""
_TOKENS = f"""
    WITH moved AS (
        SELECT event.run_id, event.seq, event.type = 'run_restated' AS anew,
            coalesce(data.tokens, data.state -> 'tokens', '{{}}') AS tokens, coalesce(data.gone, '[]') AS gone
        FROM execution_events AS event, json_to_record({_DATA}) AS data(tokens json, gone json, state json)
        WHERE event.run_id = ANY(%(runs)s) AND {_SINCE} AND event.type <> 'tool_called' OFFSET 0
    ), newest AS (
        SELECT DISTINCT ON (run_id, key) run_id, key AS token, seq, value AS record,
            max(seq) FILTER (WHERE (value -> 'map') IS NULL) OVER (PARTITION BY run_id, key) AS anew
        FROM moved, json_each(tokens) ORDER BY run_id, key, seq DESC
    ), gone AS (
        SELECT run_id, token, max(seq) AS seq FROM moved, json_array_elements_text(moved.gone) AS token
        GROUP BY run_id, token
    ), began AS (
        SELECT run_id, max(seq) AS seq FROM moved WHERE anew GROUP BY run_id
    )
    SELECT run_id, token, newest.seq, coalesce(newest.anew, 0), record::text
    FROM newest LEFT JOIN gone USING (run_id, token) LEFT JOIN began USING (run_id)
    WHERE (gone.seq IS NULL OR gone.seq < newest.seq) AND (began.seq IS NULL OR began.seq <= newest.seq)
"""
_OVER = f"""
    WITH ended AS (
        SELECT event.seq, event.token_id || '-' || ({_DATA} ->> 'index') AS item FROM execution_events AS event
        WHERE event.run_id = ANY(%(runs)s) AND {_SINCE} AND event.type = 'item_completed'
            AND event.token_id = ANY(%(maps)s) OFFSET 0
    )
    SELECT item, max(seq) FROM ended WHERE item = ANY(%(items)s) GROUP BY item
"""
_DECISIONS = f"""
    SELECT event.run_id, ({_DATA} -> 'decisions')::text FROM execution_events AS event
    WHERE event.run_id = ANY(%(runs)s) AND {_SINCE} AND strpos(event.data::text, '"decisions"') > 0
        AND event.type IN ('node_completed', 'node_failed')
    ORDER BY event.run_id, event.seq
"""
_FAILURES = f"""
    SELECT DISTINCT ON (event.run_id) event.run_id, ({_DATA} -> 'error')::text FROM execution_events AS event
    WHERE event.run_id = ANY(%(runs)s) AND {_SINCE} AND event.type = 'node_failed' AND event.node_id = %(node)s
    ORDER BY event.run_id, event.seq DESC
"""


class UnknownNode(ValueError):
    """No workflow that the batch's runs have followed has this node; the text says which there are."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An item without an output of the node."""

    position: int
    key: str
    run_id: str
    status: str  # of the run; PENDING, CANCELLED or RUNNING where there is none
    place: Place


async def missing(pool: AsyncConnectionPool[Any], batch_id: str, node_id: str) -> tuple[list[Missing], int] | None:
    """The items without an output of the node, in order, and how many items the batch has; None if it is not known.

    Raises UnknownNode, TooMuch.
    """
    async with asking(pool) as connection:
        total, irs, default = await _batch(connection, batch_id)
        if total is None:
            return None
        _check(node_id, irs)
        given = {
            "batch": batch_id, "node": node_id, "quoted": f'"{node_id}"',
            "in_map": any(node_id in ir.nodes and ir.nodes[node_id].analysis.map for ir in irs.values() if ir),
        }  # fmt: skip
        cursor = await connection.cursor(row_factory=dict_row).execute(_ITEMS, given)
        rows = await cursor.fetchall()
        unsettled = [row["run_id"] for row in rows if row["unsettled"] and row["status"]]
        having = {run_id for (run_id,) in await _rows(connection, _HAVING, {**given, "runs": unsettled})}
        rows = [row for row in rows if row["run_id"] not in having]
        trails = await _trails(connection, rows, given)
        if await dropped_of(connection, Scope(batch_id=batch_id)):
            recorded = await kept(connection, [row["run_id"] for row in rows if row["status"] in ENDED])
        else:
            recorded = {row["run_id"] for row in rows}
        rows = [row | {"kept": row["run_id"] in recorded and not row["broken"]} for row in rows]
    return [_missing(row, trails, node_id, irs.get(row["digest"]) or default) for row in rows], total


def by_reason(found: Iterable[Missing]) -> list[dict[str, Any]]:
    """{reason, node, detail, items, since (the oldest), message, examples: [{key, run_id}]} of each reason, the most
    frequent first."""
    groups: dict[tuple[str, str, str], list[Missing]] = {}
    for one in found:
        groups.setdefault((one.place.reason, one.place.node, one.place.detail), []).append(one)
    shown = []
    for (reason, node, detail), members in groups.items():
        times = [one.place.since for one in members if one.place.since is not None]
        shown.append({
            "reason": reason, "node": node, "detail": detail, "items": len(members),
            "since": min(times) if times else None,
            "message": next((one.place.message for one in members if one.place.message), None),
            "examples": [{"key": one.key, "run_id": one.run_id} for one in members[:EXAMPLES]],
        })  # fmt: skip
    return sorted(shown, key=lambda row: (-row["items"], row["reason"], row["node"], row["detail"]))


async def _batch(connection: AsyncConnection[Any], batch_id: str) -> tuple[int | None, dict[str, IR | None], IR | None]:
    """How many items it has; the IRs that its runs have now, by digest (None: not kept); the one it was made with."""
    cursor = await connection.execute("SELECT total, digest FROM batches WHERE batch_id = %s", (batch_id,))
    row = await cursor.fetchone()
    if row is None:
        return None, {}, None
    total, digest = row
    cursor = await connection.execute(
        "WITH used AS (SELECT DISTINCT digest FROM run_projection WHERE batch_id = %s UNION SELECT %s::text) "
        "SELECT used.digest, ir FROM used LEFT JOIN irs USING (digest)",
        (batch_id, digest),
    )
    irs = {name: IR.from_json(text) if text else None for name, text in await cursor.fetchall()}
    return total, irs, irs.get(digest)


def _check(node_id: str, irs: Mapping[str, IR | None]) -> None:
    if all(ir is not None and node_id not in ir.nodes for ir in irs.values()):
        known = sorted({name for ir in irs.values() if ir for name in ir.nodes})
        shown = ", ".join(known[:50]) + (" ..." if len(known) > 50 else "")
        raise UnknownNode(f"The batch's workflow has no node {node_id}. It has: {shown}.")


async def _trails(
    connection: AsyncConnection[Any], rows: Sequence[Mapping[str, Any]], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """{run_id: the fields of its Trail that the events know}."""
    live = [row["run_id"] for row in rows if row["status"] in ("RUNNING", "PAUSED")]
    completed = [row["run_id"] for row in rows if row["status"] == "COMPLETED"]
    trails: dict[str, dict[str, Any]] = {
        run_id: {"tokens": tokens} for run_id, tokens in (await _live_tokens(connection, live, given)).items()
    }
    for name, query in (("decisions", _DECISIONS), ("failure", _FAILURES)):
        for run_id, text in await _rows(connection, query, {**given, "runs": completed}):
            value, trail = orjson.loads(text or "null"), trails.setdefault(run_id, {})
            if name == "failure":
                trail[name] = value
            else:
                trail.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return trails


async def _live_tokens(
    connection: AsyncConnection[Any], runs: Sequence[str], given: Mapping[str, Any]
) -> dict[str, list[Mapping[str, Any]]]:
    """{run_id: the records of its tokens}. Those in the items of a map are forgotten with the item, or the map."""
    found: dict[str, dict[str, Moved]] = {}
    for run_id, token, seq, anew, text in await _rows(connection, _TOKENS, {**given, "runs": runs}):
        found.setdefault(run_id, {})[token] = Moved(seq, anew, orjson.loads(text))
    around = {
        run_id: {item for token in known for item in items_around(run_id, token)} for run_id, known in found.items()
    }
    items = [f"{map}-{index}" for pairs in around.values() for map, index in pairs]
    asked = {
        **given, "runs": [run_id for run_id, pairs in around.items() if pairs], "items": items,
        "maps": list({map for pairs in around.values() for map, _ in pairs}),
    }  # fmt: skip
    over: dict[str, int] = dict(await _rows(connection, _OVER, asked))
    return {run_id: live_records(run_id, known, over) for run_id, known in found.items()}


async def _rows(connection: AsyncConnection[Any], query: str, given: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
    return await (await connection.execute(query, given)).fetchall() if given["runs"] else ()


def _missing(row: Mapping[str, Any], trails: Mapping[str, Mapping[str, Any]], node_id: str, ir: IR | None) -> Missing:
    error = orjson.loads(row["error"]) if row["error"] else None
    known = trails.get(row["run_id"], {})
    trail = Trail(row["state"], row["status"], error, **known, kept=row["kept"], settled=not row["unsettled"])
    status = row["status"] or {"pending": "PENDING", "withdrawn": "CANCELLED"}.get(row["state"], "RUNNING")
    key = str(row["position"]) if row["key"] is None else row["key"]
    return Missing(row["position"], key, row["run_id"], status, place_of(node_id, trail, ir))
