"""What an expression or template sees: one builder for coordinator and runners, so that both agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def make_variables(
    *,
    node_type: str,
    input: Any,
    arrived: Mapping[str, Any],
    ctx: Mapping[str, Any],
    iteration: int,
    run: Mapping[str, Any],
    item: Any = None,
    index: int | None = None,
) -> dict[str, Any]:
    """Variables at a node. `arrived` holds {predecessor: output}, empty at an entry; `ctx` {node: output}.

    `index` is None outside of maps; `item` is the value of the innermost map's item.
    """
    variables = {
        "input": input,
        "output": arrived_output(node_type, input if index is None else item, arrived),
        "ctx": {node: {"output": output} for node, output in ctx.items()},
        "iteration": iteration,
        "run": run,
    }
    return variables if index is None else variables | {"item": item, "index": index}


def item_index(scope: str) -> int | None:
    """The index of the item that a scope is; None for the run itself."""
    return int(scope.rpartition("-")[2]) if scope else None


def arrived_output(node_type: str, entry: Any, arrived: Mapping[str, Any]) -> Any:
    """`output` at a node that starts (routing semantics: "`output`, `ctx`, the run's output").

    `entry` is what an entry gets: the run's input, or the item.
    """
    if not arrived:
        return entry
    if node_type == "join" or len(arrived) > 1:
        return dict(arrived)
    return next(iter(arrived.values()))


def run_variables(run_id: str, workflow_id: str, batch_id: str, key: str) -> dict[str, str]:
    """The variable `run`; what is empty is left out, so that `has(run.batch_id)` tells."""
    values = {"id": run_id, "workflow_id": workflow_id, "batch_id": batch_id, "key": key}
    return {name: value for name, value in values.items() if value}
