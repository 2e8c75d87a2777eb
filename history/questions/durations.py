"""Durations: how long tasks were executed, and how long they had waited in their stream."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.json_sql import ms, number, readable
from history.questions.scope import EXAMPLES, MAX_GROUPS, Scope, asking

GROUPS = ("node", "model")

_NAMES = {"node": "node", "model": "coalesce(model, '')"}
# A token's records follow on each other, each with the time of its state: what lies between `queued` and `running` is
# waiting, what lies between `running` and what came of it is execution. Both are counted where they end.
_DURATIONS = f"""
    WITH moved AS (
        SELECT event.run_id, event.seq, event.type, event.node_id, event.token_id, {ms("event.at")} AS at,
            run.workflow_id, data.tokens, data.usage
        FROM execution_events AS event JOIN run_projection AS run USING (run_id),
            json_to_record({readable("event.data")}) AS data(tokens json, usage json)
        WHERE {{scope}} AND event.type NOT IN ('tool_called', 'run_completed')
        OFFSET 0
    ), step AS (
        SELECT run_id, seq, workflow_id, moved_token.key AS token, record.state, record.since, record.node,
            CASE WHEN starts_with(record.stream, 'wf.tasks.agent.') THEN substr(record.stream, 16) END AS model,
            CASE WHEN moved_token.key = token_id THEN usage END AS usage
        FROM moved, json_each(tokens) AS moved_token,
            json_to_record(moved_token.value) AS record(state text, since float8, node text, stream text)
        UNION ALL
        SELECT run_id, seq, workflow_id, token_id, 'done', at, node_id, NULL, usage
        FROM moved WHERE type IN ('node_completed', 'node_failed') AND (tokens -> token_id) IS NULL
    ), follows AS (
        SELECT *, lag(state) OVER token AS was, lag(since) OVER token AS began, lag(model) OVER token AS of_model
        FROM step WINDOW token AS (PARTITION BY token ORDER BY seq)
    ), took AS (
        SELECT run_id, seq, workflow_id, node, coalesce(model, of_model) AS model,
            CASE WHEN state = 'running' AND was = 'queued' THEN greatest(since - began, 0) END AS waited,
            CASE WHEN was = 'running' AND state IN ('done', 'delayed', 'dead') THEN
                greatest(coalesce(nullif({number("(usage -> 'execution_time_ms')")}, 0), since - began), 0) END AS ran
        FROM follows
    )
    SELECT {{name}} AS name, {{workflow}} AS workflow_id, count(ran)::integer AS tasks,
        percentile_cont(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY ran) AS ran,
        percentile_cont(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY waited) AS waited, sum(ran) AS total,
        (array_agg(run_id ORDER BY ran DESC) FILTER (WHERE ran IS NOT NULL))[1:{EXAMPLES}] AS examples
    FROM took WHERE (ran IS NOT NULL OR waited IS NOT NULL) AND {{only}}
    GROUP BY 1, 2 ORDER BY (percentile_cont(0.95) WITHIN GROUP (ORDER BY ran)) DESC NULLS LAST, 1, 2 LIMIT {MAX_GROUPS}
"""
_PERCENTILES = ("p50", "p95", "max")


async def durations(pool: AsyncConnectionPool[Any], scope: Scope, by: str = "node") -> list[dict[str, Any]]:
    """A row for each node or model, that of the slowest 5 % first.

    {name, workflow_id (of nodes), tasks, total_s, execution_s: {p50, p95, max}, waiting_s: likewise (null where nothing
    was started), examples: runs of the slowest}. `by` is one of GROUPS. Raises TooMuch.
    """
    where, given = scope.events()
    query = _DURATIONS.format(
        scope=where, name=_NAMES[by], workflow="workflow_id" if by == "node" else "NULL::text",
        only="true" if by == "node" else "model IS NOT NULL",
    )  # fmt: skip
    async with asking(pool) as connection:
        cursor = await connection.cursor(row_factory=dict_row).execute(query, given)
        return [_shown(row) for row in await cursor.fetchall()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": row["name"],
        **({"workflow_id": row["workflow_id"]} if row["workflow_id"] else {}),
        "tasks": row["tasks"],
        "total_s": _seconds(row["total"]),
        "execution_s": _percentiles(row["ran"]),
        "waiting_s": _percentiles(row["waited"]),
        "examples": list(dict.fromkeys(row["examples"] or ())),
    }


def _percentiles(values: list[float | None] | None) -> dict[str, float | None] | None:
    if not values or values[0] is None:
        return None
    return dict(zip(_PERCENTILES, map(_seconds, values), strict=True))


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value / 1_000, 3)
