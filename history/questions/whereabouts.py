"""Whereabouts: why an item has no output of a node, and where it is now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.ir import IR, Node

PENDING = "pending"  # not admitted yet
STARTING = "starting"  # admitted a moment ago, nothing recorded yet
WITHDRAWN = "withdrawn"  # cancelled before it was admitted
LIVE = "live"  # a token waits or is executed
FAILED = "failed"
CANCELLED = "cancelled"
TIMED_OUT = "timed out"
TAKEN_OVER = "taken over"  # the node failed, and on_error went on
ELSEWHERE = "elsewhere"  # the run has completed on another path
NO_SUCH_NODE = "no such node"  # in the revision that the run has
NOT_KEPT = "not kept"  # whether it had one is not known: its events were dropped, or lost
REASONS = (
    PENDING, STARTING, WITHDRAWN, LIVE, FAILED, CANCELLED, TIMED_OUT, TAKEN_OVER, ELSEWHERE, NO_SUCH_NODE, NOT_KEPT,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """`node` is where the item is or was sent elsewhere; `detail` the state, the class, or the way that was taken."""

    reason: str
    node: str = ""
    detail: str = ""
    since: int | None = None  # ms since the epoch, of what is live
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Trail:
    """What is known of an item's run. `tokens` are records as Redis has them, `decisions` those of its events in order,
    `failure` the error of the node in question."""

    state: str  # of the item
    status: str | None  # of the run; None while it is not recorded
    error: Mapping[str, Any] | None = None
    tokens: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Mapping[str, Any]] = ()
    failure: Mapping[str, Any] | None = None
    kept: bool = True  # its events
    settled: bool = True  # whether it had an output is known without them


@dataclass(frozen=True, slots=True)
class Moved:
    """A token's newest record, the event that wrote it, and the last one by which it was, if it is a map, none yet."""

    seq: int
    anew: int
    record: Mapping[str, Any]


def items_around(run_id: str, token: str) -> list[tuple[str, str]]:
    """(token of the map, index) of the items that the token lies in, the outermost first."""
    head, parts = f"{run_id}.", token.removeprefix(f"{run_id}.").split("-")
    return [(head + "-".join(parts[:n]), parts[n].partition(".")[0]) for n in range(1, len(parts))]


def live_records(run_id: str, tokens: Mapping[str, Moved], over: Mapping[str, int]) -> list[Mapping[str, Any]]:
    """The records of the tokens that are there, as fold has them: one in an item is forgotten, and no event names it,
    when the item is over (`over`: {map-index: the last event that said so}), or its map is gone or begins anew."""

    def is_there(map: str, index: str, seq: int) -> bool:
        return map in tokens and tokens[map].anew <= seq and over.get(f"{map}-{index}", 0) < seq

    return [
        moved.record
        for token, moved in tokens.items()
        if all(is_there(map, index, moved.seq) for map, index in items_around(run_id, token))
    ]


def place_of(node_id: str, trail: Trail, ir: IR | None) -> Place:
    """Why there is no output of `node_id`. `ir`: that of the run, None if it is not to be had."""
    if trail.status is None:
        return Place({"pending": PENDING, "withdrawn": WITHDRAWN}.get(trail.state, STARTING))
    if trail.status in ("RUNNING", "PAUSED"):
        return _live(trail)
    if not (trail.kept or trail.settled):
        return Place(NOT_KEPT)
    if trail.status == "FAILED":
        return _failed(FAILED, trail.error or {})
    if trail.status in ("CANCELLED", "TIMED_OUT"):
        reason = str((trail.error or {}).get("reason") or "")
        return Place(CANCELLED if trail.status == "CANCELLED" else TIMED_OUT, message=reason or None)
    if trail.failure is not None:
        return _failed(TAKEN_OVER, {"node": node_id, **trail.failure})
    if ir is not None and node_id not in ir.nodes:
        return Place(NO_SUCH_NODE)
    if not trail.kept:
        return Place(ELSEWHERE, message="its events were dropped, and with them which way it went")
    return _elsewhere(node_id, trail.decisions, ir)


def _live(trail: Trail) -> Place:
    if not trail.tokens:
        return Place(LIVE, detail="paused" if trail.status == "PAUSED" else "")
    oldest = min(trail.tokens, key=lambda record: record.get("since") or 0)
    since = oldest.get("since")
    return Place(LIVE, str(oldest.get("node", "")), str(oldest.get("state", "")), int(since) if since else None)


def _failed(reason: str, error: Mapping[str, Any]) -> Place:
    message = error.get("message")
    return Place(reason, str(error.get("node") or ""), str(error.get("class") or ""),
                 message=None if message is None else str(message))  # fmt: skip


def _elsewhere(node_id: str, decisions: Sequence[Mapping[str, Any]], ir: IR | None) -> Place:
    """The last decision that could have led to the node, and led elsewhere."""
    before = leads_to(node_id, ir) if ir else None
    for decision in reversed(decisions):
        chosen = _targets(decision)
        if before is None or (decision.get("node") in before and not before & set(chosen)):
            return Place(ELSEWHERE, str(decision.get("node", "")), _way(decision, chosen))
    return Place(ELSEWHERE)


def _targets(decision: Mapping[str, Any]) -> list[str]:
    found = decision.get("next", decision.get("edges"))
    return [str(name) for name in found] if isinstance(found, list) else []


def _way(decision: Mapping[str, Any], chosen: Sequence[str]) -> str:
    if "rule" in decision:
        said = "default" if decision["rule"] == "default" else f"rule {decision['rule']}"
    else:
        said = str(decision.get("result", "edges"))
    return f"{said} -> {', '.join(chosen) or 'nothing'}"


def leads_to(node_id: str, ir: IR) -> frozenset[str]:
    """The node, and every one from which a way leads to it."""
    sources: dict[str, list[str]] = {}
    for node in ir.nodes.values():
        for target in successors(node):
            sources.setdefault(target, []).append(node.id)
    found, open_ends = {node_id}, [node_id]
    while open_ends:
        fresh = [source for source in sources.get(open_ends.pop(), ()) if source not in found]
        found.update(fresh)
        open_ends += fresh
    return frozenset(found)


def successors(node: Node) -> Iterable[str]:
    """Every node that may be next: over edges, rules, loops and failures, and the entries of a map."""
    yield from (edge.to for edge in node.edges)
    for rule in node.rules:
        yield from rule.next
    if node.loop:
        yield from (node.loop.back_to, *node.loop.break_path, *(node.loop.timeout_path or ()))
    for targets in (node.default, node.on_error, node.deadline_path, node.analysis.entries):
        yield from targets or ()
