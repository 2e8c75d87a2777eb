"""Reasons: why a node was not executed, or is not yet. Pure: by the graph, and by what other nodes did."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.explanations.explanation import Blocker, Reason
from schemas.explanations.said import decided, names
from schemas.explanations.walk import Past, Walk
from schemas.ir import IR

MOST = 10
"""Reasons that are told."""
LIVE = ("RUNNING", "PAUSED")
STATES = {
    "queued": "waits in its queue", "running": "runs", "waiting": "waits for others", "delayed": "is tried again soon",
    "parked": "is parked while the run is paused", "deciding": "is decided now", "answered": "has its answer",
    "asked": "waits for a person", "listening": "waits for an event", "timed": "waits for its time",
    "calling": "waits for a child run", "mapping": "works on its items", "held": "is held: the run has failed",
    "dead": "has failed",
}  # fmt: skip
"""What a token does, by its state."""


def why_not(walk: Walk, scope: str = "") -> list[Reason]:
    """Why the node has no execution in a scope; the first reasons say most."""
    ir, node_id = walk.ir, walk.node_id
    if ir is None:
        return [Reason("The workflow of this run is not kept any more, so only what happened can be told.")]
    if node_id not in ir.nodes:
        gone = next((change for change in walk.changes if node_id in change.removed), None)
        return [Reason(f"Revision {gone.revision} took it away before it was reached.", seq=gone.seq)] if gone else []
    reasons = list({reason.text: reason for reason in _frontier(walk, ir, node_id, scope)}.values())
    added = next((change for change in walk.changes if node_id in change.added), None)
    if added:
        reasons.append(Reason(f"It is there only since revision {added.revision}.", seq=added.seq))
    if walk.status not in LIVE:
        reasons.append(Reason(f"The run has ended: {walk.status}."))
    elif is_out_of_reach(reasons):
        reasons.append(Reason("Nothing that goes on can reach it any more."))
    return _first(reasons)


def is_out_of_reach(reasons: list[Reason]) -> bool:
    """Whether no reason names something that is still under way."""
    return not any(reason.seq is None and reason.node for reason in reasons)


def _first(reasons: list[Reason]) -> list[Reason]:
    if len(reasons) <= MOST:
        return reasons
    return [*reasons[: MOST - 1], Reason(f"There are {len(reasons) - MOST + 1} reasons more.")]


def _frontier(walk: Walk, ir: IR, node_id: str, scope: str) -> Iterator[Reason]:
    """Backwards from the node to what was executed and went elsewhere, or is still under way."""
    past, live = walk.past.get(scope, {}), _live(walk, scope)
    behind, seen = [node_id], {node_id}
    for node in behind:  # grows while it is walked
        sources = ir.nodes[node].analysis.predecessors
        if not sources:
            yield from _entry(walk, ir, node, node == node_id)
        for source in sources:
            if state := live.get(source):
                yield Reason(
                    f"{source} comes before it and {STATES.get(state, state)}{_for(walk, source, scope)}.", source
                )
            elif source in past:
                yield _went(source, past[source], node, node_id, ir)
            elif source not in seen and source in ir.nodes:
                seen.add(source)
                behind.append(source)


def _live(walk: Walk, scope: str) -> dict[str, str]:
    return {r["node"]: r["state"] for r in walk.tokens.values() if r.get("scope", "") == scope}


def _entry(walk: Walk, ir: IR, node: str, itself: bool) -> Iterator[Reason]:
    """A way that leads back to the beginning of its graph."""
    enclosing = ir.nodes[node].analysis.map
    if enclosing is None:
        return
    done = walk.past.get("", {}).get(enclosing)
    state = _live(walk, "").get(enclosing)
    if done is None and state is None:
        yield Reason(f"It is part of the map {enclosing}, which has not begun.", enclosing, None)
    elif done is None and state == "mapping":
        yield Reason(f"It is part of the map {enclosing}, whose items have not come so far.", enclosing)
    elif done is not None:
        yield Reason(f"It is part of the map {enclosing}, and no item of it came here.", enclosing, done.seq)


def _went(source: str, past: Past, node: str, asked: str, ir: IR) -> Reason:
    to = "it" if node == asked else node
    if past.inherited:
        return Reason(f"{source} was done in the run that this one goes on from.", source, past.seq)
    if node in past.next:
        return Reason(f"{source} led to {to}, which ended before it began.", source, past.seq)
    if past.failed:
        taken = f" and {names(past.next)} took over" if past.next else " and nothing took over"
        return Reason(f"{source} failed{taken}, so it did not go on to {to}.", source, past.seq)
    if node in (ir.nodes[source].on_error or ()) if source in ir.nodes else False:
        return Reason(f"{source} did not fail, and only then would {to} take over.", source, past.seq)
    why = f": {decided(past.decision)}" if past.decision else ""
    return Reason(f"{source} went to {names(past.next) or 'nothing more'} and not to {to}{why}.", source, past.seq)


def _for(walk: Walk, waiting: str, scope: str) -> str:
    """` (ask)`: what a node waits for."""
    found = dict.fromkeys(blocker.node for blocker in blockers(walk, scope, waiting))
    return f" ({names(list(found)[:MOST])})" if found else ""


def blockers(walk: Walk, scope: str, node_id: str | None = None) -> list[Blocker]:
    """The live tokens of a scope that can still reach a node (by default the walk's) while it waits for them."""
    ir, node_id = walk.ir, node_id or walk.node_id
    if ir is None:
        return []
    found = []
    for token, record in walk.tokens.items():
        node = ir.nodes.get(record["node"])
        if record.get("scope", "") == scope and node and node_id in node.analysis.blocks:
            found.append(Blocker(record["node"], token, record["state"]))
    return found
