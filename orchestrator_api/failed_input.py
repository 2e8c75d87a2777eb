"""Failed input: what the task that ended a run was given, from the run's events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from orchestrator_api.run_states import whole
from orchestrator_api.services import Services
from schemas.events import Event
from schemas.fold import fold
from schemas.ids import NAME, TOKEN_ID
from schemas.ir import IR
from schemas.keys import scope_of
from schemas.run_state import Reference, RunState
from schemas.values import artifact_name
from schemas.variables import item_index, make_variables


async def failed_input(backend: Services, run_id: str, token_id: str) -> dict[str, Any] | None:
    """{token_id, node_id, node_type, and the variables that the node saw: output, ctx (what it reads), input,
    iteration, item and index in a map}. Of a map that failed, those of the task in its item. None where the token is
    not dead, or nobody knows any more.

    Folds all events of the run, as GET /runs/{run_id}/state does.
    """
    if not (NAME.fullmatch(run_id) and TOKEN_ID.fullmatch(token_id)):
        return None
    state, maps = await _failed_state(backend, run_id)
    if state is None or (dead := _dead_token(state, token_id)) is None:
        return None
    record = state.tokens[dead]
    text = (await backend.states.ir(run_id))[0] or await backend.revisions.ir(run_id, state.digest)
    node = IR.from_json(text).nodes.get(record["node"]) if text else None
    if node is None:
        return None
    scope = scope_of(run_id, dead)
    index = item_index(scope)
    item = None if index is None else await _item(backend, state, maps, scope, index)
    arrived = _arrived(state, dead, scope)
    reads = dict.fromkeys([*node.analysis.task_reads, *(() if node.is_task else node.analysis.route_reads)])
    ctx = {name: value for name in reads if (value := _output(state, scope, name)) is not _MISSING}
    packed = await backend.states.packed(run_id, [state.input, *arrived.values(), *ctx.values()])
    variables = make_variables(
        node_type=node.type,
        input=whole(state.input, packed),
        arrived={name: whole(value, packed) for name, value in arrived.items()},
        ctx={name: whole(value, packed) for name, value in ctx.items()},
        iteration=record.get("iteration", 0),
        run={},
        item=item,
        index=index,
    )
    del variables["run"]
    return {"token_id": dead, "node_id": node.id, "node_type": node.type, **variables}


async def _failed_state(backend: Services, run_id: str) -> tuple[RunState | None, dict[str, Event]]:
    """The run's last state, and how its maps started, by their tokens."""
    state: RunState | None = None
    maps: dict[str, Event] = {}
    while events := await backend.log.after(run_id, state.seq if state else 0):
        maps |= {event.token_id: event for event in events if event.type == "map_started"}
        state = fold(events, state)
    return state, maps


def _dead_token(state: RunState, token_id: str) -> str | None:
    """The token, or of a map the dead one in its items: the one that failed first."""
    while True:
        inner = [
            token
            for token, record in state.tokens.items()
            if token.startswith(f"{token_id}-") and record["state"] == "dead"
        ]
        if not inner:
            break
        token_id = min(inner, key=lambda token: (state.tokens[token].get("since", 0), token))
    record = state.tokens.get(token_id)
    return token_id if record and record["state"] == "dead" else None


def _arrived(state: RunState, token_id: str, scope: str) -> dict[str, Any]:
    """What arrived for a token, by predecessor."""
    arrived = dict(state.arrivals.get(token_id, {}))
    for source, *_ in state.tokens[token_id].get("from") or ():
        arrived.setdefault(source, state.outputs.get(scope, {}).get(source))
    return arrived


_MISSING = object()


def _output(state: RunState, scope: str, node: str) -> Any:
    """The newest output of a node in a scope or an enclosing one."""
    while True:
        outputs = state.outputs.get(scope, {})
        if node in outputs or not scope:
            return outputs.get(node, _MISSING)
        scope = scope.rpartition("-")[0].rpartition(".")[0]


async def _item(backend: Services, state: RunState, maps: Mapping[str, Event], scope: str, index: int) -> Any:
    """The item of a map that a scope is."""
    started = maps.get(f"{state.run_id}.{scope.rpartition('-')[0]}")
    if started is None:
        return None
    items = started.data.get("items")
    if stored := started.data.get("stored_items"):
        reference = Reference(stored)
        packed = await backend.states.packed(state.run_id, [reference])
        items = whole(reference, packed) if artifact_name(stored) else orjson.loads(stored)
    return items[index] if isinstance(items, list) and index < len(items) else None
