"""Events: one fact about a run each, past tense, numbered by `seq` within the run from 1 without gaps.

    type            what happened                        body                                           applied
    run_started     a run was created                    workflow_id, version, revision, digest, input  tokens, live
                                                         or stored_input, batch_id, key, labels,
                                                         priority, by, batch_patch, fields (of
                                                         docs/redis.md, as they are)
    run_forked      it was created from the state that       as run_started; forked_from, state,       tokens, live
                    another one had                          artifacts
    run_recovered   it was rebuilt in Redis from what is     from_seq, reason, by                       tokens, live
                    recorded
    run_restated    Postgres had lost events of it: this is  reason, state, artifacts
                    its whole state
    task_started    a runner executes a token (again)    revision, attempt, runner                      tokens, live
    node_completed  a token's work is done and it        attempt, outputs, stored, ends, ranks, passes, tokens, gone,
                    moved on                             restarted, decisions, condition_errors, usage  live
    node_failed     a task failed for good; on_error     as node_completed, and error; map_answer (the  tokens, gone,
                    took over, or run_failed follows     outcome of the map whose item it failed)       live
    task_retried    it failed and gets another attempt   attempt, error, delay_ms, raw                  tokens, live
    task_queued     a backoff was over, or its runner died and a patch has given it another stream      tokens, live
    node_opened     a node that ends later waits         waits_for (answer, event, time, child) and     tokens, live
                                                         what belongs to it: prompt, assignee, due, ...
    node_answered   a person, an event, a timer or an    by, what they say; answer: {result or          tokens, live
                    outside worker answered              stored_result or failed, metadata}
    node_reminded   nobody answered for remind_ms        times                                          tokens, live
    tool_called     an agent called a tool               round, call, tool, kind, arguments, result or error,
                                                         ms, usage
    map_started     a map knows its items                total, items or stored_items                   tokens, live
    items_started   a slice of them was started          first, count                                   tokens, live
    item_completed  an item is over                      index, result or stored_result                     tokens, live
    items_held, items_restored: items of a map whose run failed, or is retried                          tokens, live
    run_paused, run_resumed                              by, reason
    run_retried     a failed run goes on                 by, reason                                     tokens, live
    run_patched     it goes over to another revision     revision, digest, operations, description, by, tokens, gone,
                    of its workflow                      added, removed, changed, loops (gone),         live
                                                         unranked, rollback_to, agents, batch_patch,
                                                         reverted
    items_patched   and so do items of a map             indexes, loops, unranked                       tokens, gone,
                                                                                                        live
    tokens_parked, tokens_unparked: what a paused run did not emit, and emits now                       tokens, live
    run_completed, run_failed, run_cancelled, run_timed_out: it ended    error, by, reason

`outputs` holds {node: value} of every node executed in the step (those decided in passing too), `stored` {node:
"artifact://..."} the large ones; `ends` the executed nodes that emitted nothing; `ranks` {node: [depth, lane]} where
executions may overlap; `passes` {loop: passes completed}; `restarted` the loops whose count was deleted.
`state` is a run's whole state (schemas/snapshot.py), `artifacts` names the large values in it.
`tokens` holds {token: record} of each record as the step left it (`tokens:<run>` in Redis), `gone` the tokens consumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

TYPES = (
    "run_started", "run_forked", "run_recovered", "run_restated",
    "task_started", "node_completed", "node_failed", "task_retried", "task_queued",
    "node_opened", "node_answered", "node_reminded", "tool_called",
    "map_started", "items_started", "item_completed", "items_held", "items_restored",
    "run_paused", "run_resumed", "run_retried", "run_patched", "items_patched", "tokens_parked", "tokens_unparked",
    "run_completed", "run_failed", "run_cancelled", "run_timed_out",
)  # fmt: skip

STARTS = ("run_started", "run_forked")
"""Types of the events that begin a run."""

CONTINUING = frozenset({"item_completed", "run_completed", "run_failed", "run_paused"})
"""Types of the events that a script may write after another one of the same run, in one step: what is recorded never
ends between the two."""

STATUS_OF = {
    "run_completed": "COMPLETED",
    "run_failed": "FAILED",
    "run_cancelled": "CANCELLED",
    "run_timed_out": "TIMED_OUT",
}
"""Run status by the event that ends the run."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `at` is ms since the epoch by the Redis server's clock; `data` is body and applied together."""

    run_id: str
    seq: int
    type: str
    at: int
    node_id: str = ""
    token_id: str = ""
    scope: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The form that the API and the CLI show."""
        head = {name: getattr(self, name) for name in ("run_id", "seq", "type", "at")}
        places = {name: getattr(self, name) for name in ("node_id", "token_id", "scope")}
        return head | {name: value for name, value in places.items() if value} | dict(self.data)


def read_event(fields: Mapping[bytes, bytes]) -> Event:
    """The event of an entry of the `events` stream."""
    return Event(
        run_id=fields[b"run"].decode(),
        seq=int(fields[b"seq"]),
        type=fields[b"type"].decode(),
        at=int(fields[b"at"]),
        node_id=fields[b"node"].decode(),
        token_id=fields[b"token"].decode(),
        scope=fields[b"scope"].decode(),
        data=orjson.loads(event_json(fields[b"body"], fields[b"applied"])),
    )


def event_json(body: bytes, applied: bytes) -> bytes:
    """`body` and `applied`, each a JSON object or empty, as one object: what the database keeps, without a parse."""
    if not body or body == b"{}":
        return applied or b"{}"
    if not applied or applied == b"{}":
        return body
    return body[:-1] + b"," + applied[1:]
