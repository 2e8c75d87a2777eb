"""Conditions that err: an error counts as false, so that nobody notices but who asks."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.json_sql import ms, readable
from history.questions.scope import EXAMPLES, MAX_GROUPS, Scope, asking

_CONDITIONS = f"""
    WITH found AS (
        SELECT event.run_id, event.at, run.workflow_id,
            {readable("event.data")} -> 'condition_errors' AS errors
        FROM execution_events AS event JOIN run_projection AS run USING (run_id)
        WHERE {{scope}} AND event.type IN ('node_completed', 'node_failed')
            AND strpos(event.data::text, '"condition_errors"') > 0
        OFFSET 0
    ), fault AS (
        SELECT found.*, fault ->> 'node' AS node, fault ->> 'rule' AS rule, fault ->> 'to' AS "to",
            fault ->> 'expression' AS expression,
            fault ->> 'code' AS code, fault ->> 'message' AS message
        FROM found, json_array_elements(CASE json_typeof(errors) WHEN 'array' THEN errors ELSE '[]' END) AS fault
        OFFSET 0
    )
    SELECT workflow_id, node, rule, "to", expression, code,
        (array_agg(message ORDER BY at DESC))[1] AS message,
        count(*)::integer AS count, count(DISTINCT run_id)::integer AS runs,
        {ms("min(at)")} AS first_at, {ms("max(at)")} AS last_at, (array_agg(DISTINCT run_id))[1:{EXAMPLES}] AS examples
    FROM fault GROUP BY workflow_id, node, rule, "to", expression, code
    ORDER BY count(*) DESC, workflow_id, node, rule, "to", expression LIMIT {MAX_GROUPS}
"""


async def conditions(pool: AsyncConnectionPool[Any], scope: Scope) -> list[dict[str, Any]]:
    """The conditions that were in error, the most frequent first.

    {workflow_id, node, rule (of a branch), to (of an edge), expression, code, message (the newest), count, runs,
    first_at, last_at, examples}. Raises TooMuch.
    """
    where, given = scope.events()
    async with asking(pool) as connection:
        cursor = await connection.cursor(row_factory=dict_row).execute(_CONDITIONS.format(scope=where), given)
        return await cursor.fetchall()
