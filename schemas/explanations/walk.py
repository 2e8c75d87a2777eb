"""Walk: the events of a run, read once in order, with an eye on one node. Pure.

It keeps what an explanation needs and no values: the tokens that are there, the executions of the node, and where each
other node last went.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.events import STARTS, STATUS_OF, Event
from schemas.explanations.explanation import Arrival, Attempt, Execution, Release, Value
from schemas.explanations.places import decision_of, executed, failed_in, shown, targets, value_of
from schemas.ir import IR
from schemas.keys import path_of
from schemas.snapshot import load_state

Record = Mapping[str, Any]
IDLE = ("waiting", "held")
_OPENED = ("waits_for", "assignee", "prompt", "event", "key", "due", "child")


@dataclass(slots=True)
class Past:
    """What became of a node's last execution in a scope."""

    seq: int
    next: list[str]
    decision: Mapping[str, Any] | None = None
    failed: bool = False
    inherited: bool = False


@dataclass(slots=True)
class Change:
    """A patch of the run."""

    seq: int
    revision: int
    added: list[str]
    removed: list[str]


@dataclass
class Walk:
    """`irs` by digest; where one is missing, what only a graph tells is left out. `item`: see to items with this index
    alone."""

    irs: Mapping[str, IR]
    node_id: str
    item: int | None = None
    run_id: str = ""
    status: str = ""
    seq: int = 0
    revision: int = 0
    digest: str = ""
    tokens: dict[str, Record] = field(default_factory=dict)
    open: dict[str, Execution] = field(default_factory=dict)  # by token
    closed: list[Execution] = field(default_factory=list)
    past: dict[str, dict[str, Past]] = field(default_factory=dict)  # scope -> node
    changes: list[Change] = field(default_factory=list)
    _queued: dict[str, int] = field(default_factory=dict)  # token of the node -> since when

    @property
    def ir(self) -> IR | None:
        return self.irs.get(self.digest)

    def read(self, events: Iterable[Event]) -> Walk:
        for event in events:
            self.see(event)
        return self

    def see(self, event: Event) -> None:
        """The next event."""
        self.seq, self.run_id = event.seq, event.run_id
        if event.type in STARTS or event.type in ("run_patched", "run_restated"):
            self._begin(event)
        elif event.type in STATUS_OF:
            self._end(event)
        elif event.type in ("run_paused", "run_resumed", "run_retried"):
            self.status = "PAUSED" if event.type == "run_paused" else "RUNNING"
        for node in executed(event):
            self._executed(event, node)
        if event.node_id == self.node_id:
            self._note(event)
        self._follow_tokens(event)
        if event.type == "item_completed":
            self._forget(f"{path_of(event.run_id, event.token_id)}-{event.data['index']}")

    # -- the run -----------------------------------------------------------------------------------
    def _begin(self, event: Event) -> None:
        data = event.data
        if "state" in data:
            self._inherit(event)
        if event.type in STARTS:
            self.status = "RUNNING"
        self.revision, self.digest = data.get("revision", self.revision), data.get("digest", self.digest)
        if event.type == "run_patched":
            made = Change(event.seq, self.revision, list(data.get("added", ())), list(data.get("removed", ())))
            self.changes.append(made)

    def _inherit(self, event: Event) -> None:
        """A whole state, and no events that led there."""
        state = load_state(event.data["state"])
        self.revision, self.digest, self.status = state.revision, state.digest, state.status
        if event.type == "run_restated":
            self.tokens = dict(state.tokens)
        for scope, outputs in state.outputs.items():
            for node in outputs:
                self.past.setdefault(scope, {}).setdefault(node, Past(event.seq, [], inherited=True))
        known = {scope: outputs[self.node_id] for scope, outputs in state.outputs.items() if self.node_id in outputs}
        for scope, value in known.items():
            if self._wants(scope):
                text = getattr(value, "text", None)
                output = Value(text) if text else shown(value)
                done = Execution(scope, self.revision, "inherited", seq=event.seq, at=event.at, output=output)
                self.closed.append(done)

    def _end(self, event: Event) -> None:
        self.status = STATUS_OF[event.type]
        if event.type == "run_failed":
            return  # dead and held tokens stay
        for token in list(self.open):
            self._close(token, event)
        self.tokens.clear()

    # -- what other nodes did ----------------------------------------------------------------------
    def _wants(self, scope: str) -> bool:
        return self.item is None or not scope or scope.rpartition("-")[2] == str(self.item)

    def _executed(self, event: Event, node: str) -> None:
        went = targets(event, node, self.ir)
        if not event.scope or (self.item is not None and self._wants(event.scope)):
            made = Past(event.seq, went, decision_of(event, node), failed_in(event, node))
            self.past.setdefault(event.scope, {})[node] = made
        if node != self.node_id or not self._wants(event.scope):
            return
        if node == event.node_id:
            own = self.open.get(event.token_id)
            if own is None:  # the history of its token is not there
                own = self.open[event.token_id] = self._made(event, event.token_id, event.scope)
            self._finish(own, event, went)
            own.ended_seq, own.ended_at = event.seq, event.at
        else:
            self._passed(event, went)

    def _passed(self, event: Event, went: list[str]) -> None:
        """The node was decided in passing, in the step of another one's token."""
        made = self._made(event, "", event.scope)
        made.step_of = event.node_id
        for source in executed(event):
            if source != self.node_id and self.node_id in targets(event, source, self.ir):
                failed = failed_in(event, source)
                made.arrivals.append(Arrival(source, event.seq, value_of(event, source), failed))
                break
        self._finish(made, event, went)
        made.ended_seq, made.ended_at = event.seq, event.at
        self.closed.append(made)

    def _finish(self, own: Execution, event: Event, went: list[str]) -> None:
        data, node = event.data, self.node_id
        failed = failed_in(event, node)
        own.state, own.next = "failed" if failed else "completed", went
        own.output = None if failed else value_of(event, node)
        own.decision, own.undecided = decision_of(event, node), data.get("undecided") if failed else None
        own.condition_errors = [told for told in data.get("condition_errors", ()) if told.get("node") == node]
        if failed:
            own.error, own.taken_over = data.get("error"), data.get("taken_over")

    # -- the node's own events ---------------------------------------------------------------------
    def _note(self, event: Event) -> None:
        own = self.open.get(event.token_id)
        if own is None:
            return
        data, attempts = event.data, own.attempts
        match event.type:
            case "task_started":
                if attempts and not attempts[-1].ended:
                    attempts[-1].ended, attempts[-1].took_ms = "lost", event.at - attempts[-1].at
                revision = data.get("revision", self.revision)
                made = Attempt(data.get("attempt", 1), event.seq, event.at, revision, data.get("runner", ""))
                made.queued_ms = event.at - self._queued.pop(event.token_id, event.at)
                attempts.append(made)
                own.revision = revision
            case "task_retried" | "node_completed" | "node_failed" if attempts and not attempts[-1].ended:
                _end_attempt(attempts[-1], event)
            case "tool_called" if attempts:
                attempts[-1].tools += 1
            case "node_opened":
                own.opened = {name: data[name] for name in _OPENED if data.get(name) is not None}
            case "node_answered":
                own.answered_by = str(data.get("by", ""))
            case "map_started":
                own.opened = {"waits_for": "items", "total": data["total"], "done": 0}
            case "item_completed":
                own.opened["done"] = own.opened.get("done", 0) + 1

    # -- tokens ------------------------------------------------------------------------------------
    def _follow_tokens(self, event: Event) -> None:
        for token, record in (event.data.get("tokens") or {}).items():
            if record["node"] == self.node_id and self._wants(record.get("scope", "")):
                self._follow(event, token, record, self.tokens.get(token))
            self.tokens[token] = record
        for token in event.data.get("gone") or ():
            record = self.tokens.pop(token, {})
            if token in self.open:
                self._close(token, event)
            if record.get("map"):
                self._forget(path_of(self.run_id, token), event)

    def _follow(self, event: Event, token: str, record: Record, before: Record | None) -> None:
        own = self.open.get(token)
        if own is None:
            own = self.open[token] = self._made(event, token, record.get("scope", ""))
        known = {origin[0]: origin for origin in (before or {}).get("from") or ()}
        for origin in record.get("from") or ():
            source = origin[0]
            if known.get(source) != origin:
                arrival = Arrival(source, event.seq, value_of(event, source), failed_in(event, source))
                own.arrivals = [*(one for one in own.arrivals if one.source != source), arrival]
        state = record["state"]
        if state == "waiting":
            own.waited = True
        elif state not in IDLE and own.released is None and (own.waited or self._waits()):
            own.waited, own.released = True, Release(event.seq, event.node_id, event.token_id)
        if state == "queued" and (before is None or before["state"] != "queued"):
            self._queued[token] = event.at
        if state != "dead":  # one that is dead has failed, until a retry restores it
            own.state, own.error, own.ended_seq, own.ended_at = state, None, None, None
        own.iteration = record.get("iteration", own.iteration)

    def _waits(self) -> bool:
        node = self.ir.nodes.get(self.node_id) if self.ir else None
        return bool(node and node.analysis.waits)

    def _made(self, event: Event, token: str, scope: str) -> Execution:
        return Execution(scope, self.revision, "", token_id=token, seq=event.seq, at=event.at)

    def _close(self, token: str, event: Event) -> None:
        """The token is gone; its execution was withdrawn, unless it was over."""
        own = self.open.pop(token)
        self._queued.pop(token, None)
        if not own.is_over:
            own.state, own.ended_seq, own.ended_at = "withdrawn", event.seq, event.at
        self.closed.append(own)

    def _forget(self, path: str, event: Event | None = None) -> None:
        """What lies in a scope, or in the items of a map (`event` ended it), is over."""
        if event is None:
            if self.item is None:
                self.past.pop(path, None)
            return
        head = f"{self.run_id}.{path}-"
        for token in [token for token in self.tokens if token.startswith(head)]:
            del self.tokens[token]
            if token in self.open:
                self._close(token, event)


def _end_attempt(attempt: Attempt, event: Event) -> None:
    data = event.data
    attempt.ended = "completed" if event.type == "node_completed" else "failed"
    attempt.took_ms = event.at - attempt.at
    attempt.usage = data.get("usage") or {}
    attempt.error, attempt.again_in_ms = data.get("error"), data.get("delay_ms")
    attempt.of, attempt.retryable = data.get("max_attempts"), data.get("retryable")
