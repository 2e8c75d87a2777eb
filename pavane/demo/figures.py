"""What a batch came to, counted from its events in Postgres and from the meters of its GPUs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

_EVENTS = """
    SELECT type, node_id, data->'decisions' AS decisions
    FROM execution_events JOIN run_projection USING (run_id)
    WHERE batch_id = %s AND type IN ('node_completed', 'node_failed', 'task_retried')
"""
_TIMES = """
    SELECT
        (extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY ended_at - created_at)) * 1000)::float8,
        (extract(epoch FROM max(ended_at) - min(created_at)) * 1000)::float8
    FROM run_projection WHERE batch_id = %s
"""
_LONGEST = """
    SELECT run_id FROM run_projection WHERE batch_id = %s ORDER BY seq DESC, run_id LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of one batch. Times are ms. `passes`: {loop: {passes of an item: items}}."""

    executions: Mapping[str, int]  # node -> tasks done
    branches: Mapping[str, Mapping[str, int]]  # branch -> where it led -> times
    passes: Mapping[str, Mapping[int, int]]
    retried: int
    median_item_ms: float
    wall_ms: float  # from the first run's start to the last one's end
    longest_run: str  # the run with the most events


def count(dsn: str, batch_id: str) -> Figures:
    """Raises psycopg.Error."""
    executions: dict[str, int] = {}
    branches: dict[str, dict[str, int]] = {}
    passes: dict[str, dict[int, int]] = {}
    retried = 0
    with psycopg.connect(dsn) as connection:
        for kind, node, decisions in connection.execute(_EVENTS, (batch_id,)):
            if kind == "task_retried":
                retried += 1
            elif kind == "node_completed":
                executions[node] = executions.get(node, 0) + 1
            for decision in decisions or ():
                _add(decision, branches, passes)
        times = connection.execute(_TIMES, (batch_id,)).fetchone() or (0.0, 0.0)
        longest = connection.execute(_LONGEST, (batch_id,)).fetchone() or ("",)
    return Figures(executions, branches, passes, retried, times[0], times[1], longest[0])


def _add(decision: Mapping[str, Any], branches: dict[str, dict[str, int]], passes: dict[str, dict[int, int]]) -> None:
    node = decision["node"]
    if "rule" in decision:
        to = ", ".join(decision["next"]) or "nothing"
        branches.setdefault(node, {})
        branches[node][to] = branches[node].get(to, 0) + 1
    elif decision.get("result") in ("break", "timeout"):  # an item that left the loop, after so many passes
        passes.setdefault(node, {})
        passes[node][decision["pass"]] = passes[node].get(decision["pass"], 0) + 1


@dataclass(frozen=True, slots=True)
class Meter:
    """What the GPUs did together, in their own seconds."""

    loads: int
    active_s: float
    loading_s: float
    total_s: float

    def since(self, before: "Meter") -> "Meter":
        return Meter(
            self.loads - before.loads, self.active_s - before.active_s,
            self.loading_s - before.loading_s, self.total_s - before.total_s,
        )  # fmt: skip

    @property
    def active_share(self) -> float:
        return self.active_s / self.total_s if self.total_s else 0.0

    @property
    def loading_share(self) -> float:
        return self.loading_s / self.total_s if self.total_s else 0.0


def simulated_meter(stats: Sequence[Mapping[str, Any]]) -> Meter:
    """The sum of what simulated engines say about themselves at /simulated/stats."""
    return Meter(
        sum(int(each["loads"]) for each in stats),
        sum(float(each["active_s"]) for each in stats),
        sum(float(each["loading_s"]) for each in stats),
        sum(float(each["simulated_s"]) for each in stats),
    )


def runner_meter(runners: Sequence[Mapping[str, Any]], elapsed_s: float) -> Meter:
    """The sum of what agent runners report: loads, and shares of the time that they have been up."""
    engines = [runner for runner in runners if runner.get("engine")]
    return Meter(
        sum(int(runner["loads"] or 0) for runner in engines),
        sum(float(runner["active_share"] or 0) for runner in engines) * elapsed_s,
        sum(float(runner["loading_share"] or 0) for runner in engines) * elapsed_s,
        len(engines) * elapsed_s,
    )
