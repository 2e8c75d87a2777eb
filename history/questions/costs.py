"""Costs: what tasks took - tokens, seconds, loads, money - by model, node, workflow, batch, day or label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from history.questions.json_sql import number, readable
from history.questions.scope import MAX_GROUPS, Scope, asking

GROUPS = ("model", "node", "workflow", "batch", "day", "label")

Price = Callable[[str, Mapping[str, float]], float | None]
"""(model, usage) -> money; None for a model without a price."""

_NAMES = {
    "model": "coalesce(model, '')",
    "node": "node_id",
    "workflow": "workflow_id",
    "batch": "coalesce(batch_id, '')",
    "day": "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "label": "coalesce(labels ->> %(label)s, '')",
}
_SUMS = (
    "tasks", "failed", "prompt_tokens", "completion_tokens", "execution_s", "gpu_s", "loads", "load_s", "failed_gpu_s",
)  # fmt: skip
# Failed attempts cost too, and their events say what. A tool call's usage is in that of its node.
_COSTS = f"""
    WITH spent AS (
        SELECT event.type, event.node_id, event.at, run.workflow_id, run.batch_id, run.labels,
            {readable("event.data")} -> 'usage' AS usage
        FROM execution_events AS event JOIN run_projection AS run USING (run_id)
        WHERE {{scope}} AND event.type IN ('node_completed', 'node_failed', 'task_retried')
            AND strpos(event.data::text, '"usage"') > 0
        OFFSET 0
    ), told AS (
        SELECT spent.*, said.*, said.llm_model AS model, type <> 'node_completed' AS failed
        FROM spent, json_to_record(CASE json_typeof(usage) WHEN 'object' THEN usage ELSE '{{{{}}}}' END) AS said(
            llm_model text, prompt_tokens json, completion_tokens json, execution_time_ms json, gpu_ms json,
            load_ms json)
        WHERE %(model)s::text IS NULL OR said.llm_model = %(model)s OFFSET 0
    ), task AS (
        SELECT type, node_id, at, workflow_id, batch_id, labels, model, failed,
            {number("told.prompt_tokens")} AS prompt_tokens, {number("told.completion_tokens")} AS completion_tokens,
            {number("told.execution_time_ms")} / 1000 AS execution_s, {number("told.load_ms")} AS load_ms,
            CASE WHEN model IS NULL THEN 0 WHEN told.gpu_ms IS NULL THEN {number("told.execution_time_ms")} / 1000
                ELSE {number("told.gpu_ms")} / 1000 END AS gpu_s
        FROM told OFFSET 0
    )
    SELECT {{name}} AS name, {{workflow}} AS workflow_id, model, count(*)::integer AS tasks,
        (count(*) FILTER (WHERE failed))::integer AS failed, sum(prompt_tokens)::bigint AS prompt_tokens,
        sum(completion_tokens)::bigint AS completion_tokens, sum(execution_s) AS execution_s, sum(gpu_s) AS gpu_s,
        (count(*) FILTER (WHERE load_ms > 0))::integer AS loads, sum(load_ms) / 1000 AS load_s,
        coalesce(sum(gpu_s) FILTER (WHERE failed), 0) AS failed_gpu_s
    FROM task GROUP BY 1, 2, 3 ORDER BY sum(gpu_s) DESC, 1, 2, 3 LIMIT {MAX_GROUPS + 1}
"""


async def costs(
    pool: AsyncConnectionPool[Any], scope: Scope, by: str = "model", *,
    model: str | None = None, label: str | None = None, price: Price | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:  # fmt: skip
    """A row for each group, the dearest first; their sum; whether groups were left out.

    A row: name, workflow_id (of nodes), tasks (executions, the failed ones too), failed, prompt_tokens,
    completion_tokens, execution_s, gpu_s, failed_gpu_s, loads, load_s, and with prices money (null where a model has
    none). `by` is one of GROUPS. Raises TooMuch.
    """
    where, given = scope.events()
    query = _COSTS.format(scope=where, name=_NAMES[by], workflow="workflow_id" if by == "node" else "NULL::text")
    async with asking(pool) as connection:
        cursor = await connection.cursor(row_factory=dict_row).execute(query, {**given, "model": model, "label": label})
        found = await cursor.fetchall()
    rows = _merged(found[:MAX_GROUPS], price)
    total = _sum(rows, price)
    return rows, total, len(found) > MAX_GROUPS


def _merged(found: Iterable[Mapping[str, Any]], price: Price | None) -> list[dict[str, Any]]:
    """Rows of one name as one: prices are a model's."""
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for row in found:
        priced = {**row}
        if price is not None:
            priced["money"] = price(row["model"], _usage(row)) if row["model"] else 0.0
        groups.setdefault((row["name"], row["workflow_id"]), []).append(priced)
    merged = [
        {"name": name} | ({"workflow_id": workflow} if workflow else {}) | _sum(rows, price)
        for (name, workflow), rows in groups.items()
    ]
    return sorted(merged, key=lambda row: (-row["gpu_s"], -row["execution_s"], row["name"]))


def _usage(row: Mapping[str, Any]) -> dict[str, float]:
    return {
        "prompt_tokens": row["prompt_tokens"],
        "completion_tokens": row["completion_tokens"],
        "execution_time_ms": row["execution_s"] * 1_000,
        "gpu_ms": row["gpu_s"] * 1_000,
        "load_ms": row["load_s"] * 1_000,
    }


def _sum(rows: Iterable[Mapping[str, Any]], price: Price | None) -> dict[str, Any]:
    rows = list(rows)
    added: dict[str, Any] = {name: sum(row[name] for row in rows) for name in _SUMS}
    added = {name: round(value, 3) if isinstance(value, float) else value for name, value in added.items()}
    if price is not None:
        money = [row["money"] for row in rows]
        added["money"] = None if None in money else round(sum(money), 6)
    return added
