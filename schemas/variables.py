"""What an expression or template sees: one builder for coordinator and runners, so that both agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def make_variables(
    *,
    node_type: str,
    waits: bool,
    input: Any,
    arrived: Mapping[str, Any],
    ctx: Mapping[str, Any],
    iteration: int,
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Variables at a node. `arrived` holds {predecessor: output}, empty at an entry; `ctx` {node: output}."""
    return {
        "input": input,
        "output": arrived_output(node_type, waits, input, arrived),
        "ctx": {node: {"output": output} for node, output in ctx.items()},
        "iteration": iteration,
        "run": run,
    }


def arrived_output(node_type: str, waits: bool, input: Any, arrived: Mapping[str, Any]) -> Any:
    """`output` at a node that starts (routing semantics: "`output`, `ctx`, the run's output")."""
    if not arrived:
        return input
    if node_type == "join" or (waits and len(arrived) > 1):
        return dict(arrived)
    return next(iter(arrived.values()))


def run_variables(run_id: str, workflow_id: str, batch_id: str, key: str) -> dict[str, str]:
    """The variable `run`; what is empty is left out, so that `has(run.batch_id)` tells."""
    values = {"id": run_id, "workflow_id": workflow_id, "batch_id": batch_id, "key": key}
    return {name: value for name, value in values.items() if value}
