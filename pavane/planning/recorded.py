"""What the runs of an earlier batch did: their decisions, and how long each node's work took.

A task's time on a GPU depends on what ran beside it. The events say that: on each runner the tasks of every model at
every moment, so the law of batching (agent_runner/engines/simulated/gpu.py) is solved for the work that a task was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_runner.engines.simulated.gpu import BATCH_COST
from pavane.client import Client
from pavane.planning.fault import PlanFault

MAX_RUNS = 5_000
_PAGE = 500

Facts = dict[tuple[str, str], list[Any]]
"""(kind, node) -> values in their order. Kinds: rule (index, -1 the default), edges (targets), again (loops), items
(maps), seconds."""


@dataclass(frozen=True, slots=True)
class Recorded:
    batch_id: str
    runs: list[Facts]
    pooled: Facts
    measured: Mapping[str, int]  # node -> tasks
    pace: float = 1.0  # of the GPUs that they ran on
    speed: float = 1.0  # of those GPUs' simulation


@dataclass(slots=True)
class _Execution:
    """An agent's task on a runner; times are ms since the epoch."""

    runner: str
    model: str
    begin: float
    end: float
    work: float = 0.0  # solo milliseconds


def read_batch(client: Client, batch_id: str, *, pace: float = 1.0, speed: float = 1.0) -> Recorded:
    """The completed runs of a batch. `pace` is that of the GPUs it ran on, `speed` that of their simulation.

    Raises PlanFault, and what Client raises.
    """
    client.get("batches", batch_id)
    runs: list[str] = []
    cursor: str | None = None
    while len(runs) < MAX_RUNS:
        page = client.get("runs", batch_id=batch_id, status="COMPLETED", limit=_PAGE, cursor=cursor)
        runs += [run["run_id"] for run in page["runs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if not runs:
        raise PlanFault(f"no run of {batch_id} has completed yet")
    return record(batch_id, (client.events(run) for run in runs[:MAX_RUNS]), pace=pace, speed=speed)


def record(
    batch_id: str, histories: Iterable[list[dict[str, Any]]], *, pace: float = 1.0, speed: float = 1.0
) -> Recorded:
    """The facts of runs, by their events as the API shows them."""
    runs: list[Facts] = []
    executions: list[_Execution] = []
    pooled: Facts = {}
    for events in histories:
        facts: Facts = {}
        executions += _read_run(events, facts, speed)
        runs.append(facts)
    _solve(executions, pace)
    measured: dict[str, int] = {}
    for facts in runs:
        for key, values in facts.items():
            values[:] = [value.work * speed / 1_000 if isinstance(value, _Execution) else value for value in values]
            pooled.setdefault(key, []).extend(values)
            if key[0] == "seconds":
                measured[key[1]] = measured.get(key[1], 0) + len(values)
    return Recorded(batch_id, runs, pooled, measured, pace, speed)


def _read_run(events: Iterable[Mapping[str, Any]], facts: Facts, speed: float) -> list[_Execution]:
    """Notes what a run did. Executions stand for the seconds that are not known yet."""
    found: list[_Execution] = []
    began: dict[str, Mapping[str, Any]] = {}

    def note(kind: str, node: str, value: Any) -> None:
        facts.setdefault((kind, node), []).append(value)

    for event in events:
        token, node = event.get("token_id", ""), event.get("node_id", "")
        if event["type"] in ("task_started", "node_opened"):
            began[token] = event
        elif event["type"] == "map_started":
            note("items", node, event["total"])
        elif event["type"] == "node_completed":
            start, usage = began.pop(token, None), event.get("usage") or {}
            if usage.get("llm_model") and start is not None:
                ran = max(usage.get("execution_time_ms", 0) - usage.get("wait_ms", 0), 0)
                found.append(_Execution(start["runner"], usage["llm_model"], event["at"] - ran, event["at"]))
                note("seconds", node, found[-1])
            elif start is not None and start["type"] == "node_opened":
                note("seconds", node, (event["at"] - start["at"]) / 1_000)
            elif "execution_time_ms" in usage:
                note("seconds", node, usage["execution_time_ms"] / 1_000)
        for decision in event.get("decisions") or ():
            _note_decision(decision, note)
    return found


def _note_decision(decision: Mapping[str, Any], note: Any) -> None:
    node = decision["node"]
    if "rule" in decision:
        note("rule", node, -1 if decision["rule"] == "default" else decision["rule"])
    elif "pass" in decision:
        note("again", node, decision["result"] != "break")
    else:
        note("edges", node, tuple(decision["edges"]))


def _solve(executions: list[_Execution], pace: float) -> None:
    """Sets the work of each: the time it ran, at the speed that what ran beside it left."""
    by_runner: dict[str, list[tuple[float, bool, int, _Execution]]] = {}
    for place, execution in enumerate(executions):
        if execution.begin < execution.end:
            marks = by_runner.setdefault(execution.runner, [])
            marks += [(execution.begin, True, place, execution), (execution.end, False, place, execution)]
    for marks in by_runner.values():
        running: dict[str, int] = {}
        served: dict[str, float] = {}  # solo ms that a task which had run all the time would have got
        now = 0.0
        for at, begins, _, execution in sorted(marks, key=lambda mark: mark[:3]):
            for model, count in running.items():
                share = pace / len(running) / (1 + BATCH_COST * (count - 1))
                served[model] = served.get(model, 0.0) + (at - now) * share
            now, model = at, execution.model
            if begins:
                running[model] = running.get(model, 0) + 1
                execution.work = -served.get(model, 0.0)
            else:
                execution.work += served.get(model, 0.0)
                running[model] -= 1
                if not running[model]:
                    del running[model]
