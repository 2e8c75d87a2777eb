"""Failures of tasks: how many attempts failed, and what came of the tasks."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.json_sql import ms, readable
from history.questions.scope import EXAMPLES, MAX_GROUPS, Scope, asking

GROUPS = ("class", "node", "model", "runner")

_NAMES = {
    "class": "coalesce(class, '')", "node": "node_id", "model": "coalesce(model, '')", "runner": "coalesce(runner, '')",
}  # fmt: skip
# What came of a task is what its token's last event says: completed, given to on_error or collected (it is gone), dead.
# The runs in which something failed are read once: looked up failure by failure, a large map would be read as often as
# its items failed.
_FAILURES = f"""
    WITH failing AS (
        SELECT DISTINCT event.run_id FROM execution_events AS event JOIN run_projection AS run USING (run_id)
        WHERE {{scope}} AND event.type IN ('node_failed', 'task_retried')
    ), attempt AS (
        SELECT event.run_id, event.seq, event.type, event.node_id, event.token_id, event.at, run.workflow_id,
            run.status, ({{scope}}) AS asked,
            CASE WHEN event.type <> 'node_completed' THEN {readable("event.data")} END AS data
        FROM execution_events AS event JOIN run_projection AS run USING (run_id)
        WHERE event.run_id = ANY(ARRAY(SELECT run_id FROM failing))
            AND event.type IN ('node_completed', 'node_failed', 'task_retried'{{starts}})
        OFFSET 0
    ), tried AS (
        SELECT attempt.*,
            last_value(type) OVER came AS last, last_value((data -> 'gone') IS NOT NULL) OVER came AS gone,
            count(*) FILTER (WHERE type = 'task_started') OVER (PARTITION BY run_id, token_id ORDER BY seq) AS start
        FROM attempt
        WINDOW came AS (PARTITION BY run_id, token_id, type = 'task_started' ORDER BY seq
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
    ), told AS (
        SELECT tried.*, data -> 'error' ->> 'class' AS class, data -> 'error' ->> 'message' AS message,
            coalesce(data -> 'usage' ->> 'llm_model',
                substring(data -> 'tokens' -> token_id ->> 'stream' FROM '^wf[.]tasks[.]agent[.](.*)$')) AS model,
            coalesce(data -> 'usage' ->> 'runner',
                max(data ->> 'runner') OVER (PARTITION BY run_id, token_id, start)) AS runner
        FROM tried
    ), ended AS (
        SELECT told.*, CASE
            WHEN last = 'node_completed' THEN 'recovered'
            WHEN gone THEN 'taken over'
            WHEN status IN ('RUNNING', 'PAUSED') THEN 'open'
            ELSE 'final' END AS came_to
        FROM told WHERE type IN ('node_failed', 'task_retried') AND asked
    )
    SELECT {{name}} AS name, {{workflow}} AS workflow_id, count(*)::integer AS attempts,
        count(DISTINCT token_id)::integer AS tasks,
        (count(DISTINCT token_id) FILTER (WHERE came_to = 'recovered'))::integer AS recovered,
        (count(DISTINCT token_id) FILTER (WHERE came_to = 'taken over'))::integer AS taken_over,
        (count(DISTINCT token_id) FILTER (WHERE came_to = 'open'))::integer AS open,
        (count(DISTINCT token_id) FILTER (WHERE came_to = 'final'))::integer AS final,
        {ms("min(at)")} AS first_at, {ms("max(at)")} AS last_at,
        (array_agg(class ORDER BY at DESC, seq DESC))[1] AS class,
        (array_agg(message ORDER BY at DESC, seq DESC))[1] AS message,
        (array_agg(run_id ORDER BY at DESC, seq DESC))[1] AS run_id,
        (array_agg(node_id ORDER BY at DESC, seq DESC))[1] AS node,
        (array_agg(DISTINCT run_id))[1:{EXAMPLES}] AS examples
    FROM ended GROUP BY 1, 2 ORDER BY 8 DESC, 3 DESC, 1, 2 LIMIT {MAX_GROUPS}
"""


async def failures(pool: AsyncConnectionPool[Any], scope: Scope, by: str = "class") -> list[dict[str, Any]]:
    """A row for each group, the one with most final failures first.

    {name, workflow_id (of nodes), attempts that failed, tasks they belong to, and of those recovered, taken_over (by
    on_error, or collected by a map), open, final; first_at, last_at; newest: {class, message, run_id, node}; examples}.
    `by` is one of GROUPS. Raises TooMuch.
    """
    where, given = scope.events()
    query = _FAILURES.format(
        scope=where, name=_NAMES[by], workflow="workflow_id" if by == "node" else "NULL::text",
        starts=", 'task_started'" if by == "runner" else "",
    )  # fmt: skip
    async with asking(pool) as connection:
        cursor = await connection.cursor(row_factory=dict_row).execute(query, given)
        return [_shown(row) for row in await cursor.fetchall()]


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    newest = {name: row.pop(name) for name in ("class", "message", "run_id", "node")}
    if row["workflow_id"] is None:
        del row["workflow_id"]
    examples = list(dict.fromkeys([newest["run_id"], *row.pop("examples")]))[:EXAMPLES]
    return row | {"newest": newest, "examples": examples}
