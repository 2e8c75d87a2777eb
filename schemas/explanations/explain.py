"""explain: why a node of a run was executed as it was, or was not, from its events. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schemas.events import Event
from schemas.explanations.explanation import Execution, Explanation
from schemas.explanations.reasons import LIVE, blockers, is_out_of_reach, why_not
from schemas.explanations.walk import Walk
from schemas.ir import IR

SHOWN = 20
"""Executions that an explanation holds by default."""


def explain(
    events: Iterable[Event], irs: Mapping[str, IR], node_id: str, item: int | None = None, limit: int = SHOWN
) -> Explanation:
    """The explanation of a node. `irs`: the graphs that the run had, by digest. `item`: of maps' items only those with
    this index. At most `limit` executions: those that failed first, then the newest; they stand in their order.

    Never raises for what a history can hold; where a graph is missing, it tells what the events tell.
    """
    return explained(Walk(irs, node_id, item).read(events), limit)


def explained(walk: Walk, limit: int = SHOWN) -> Explanation:
    """What a walk has come to; it can go on afterwards."""
    node = walk.ir.nodes.get(walk.node_id) if walk.ir else None
    every = [*walk.closed, *walk.open.values()]
    chosen = sorted(every, key=lambda one: (one.state == "failed", not one.is_over, one.seq), reverse=True)[:limit]
    for one in chosen:
        one.blockers = blockers(walk, one.scope) if one.state == "waiting" else []
    reasons = [] if every else why_not(walk, _scope(walk))
    return Explanation(
        walk.run_id, walk.node_id, node.type if node else "", walk.status, walk.revision, walk.seq, walk.item,
        reachable=not every and walk.status in LIVE and not is_out_of_reach(reasons),
        total=len(every), executions=sorted(chosen, key=_order), reasons=reasons,
    )  # fmt: skip


def _order(one: Execution) -> tuple[int, str]:
    return one.seq, one.token_id


def _scope(walk: Walk) -> str:
    """The scope of the item that was asked for, if it is there."""
    if walk.item is None:
        return ""
    scopes = {str(record.get("scope", "")) for record in walk.tokens.values()} | walk.past.keys()
    return next((scope for scope in sorted(scopes) if scope.rpartition("-")[2] == str(walk.item)), "")
