"""Routed: one completion signal with all that its decision needs, and the steps that it may come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from coordinator.decide import FailMap
from coordinator.opening import StartMap, Wait
from lua.answers import Loaded, Token
from lua.run_store import Failed, MapStart, Opening
from schemas.ir import IR, Node
from schemas.messages import CompletionSignal
from schemas.plan import Plan
from schemas.values import artifact_name


@dataclass(slots=True)
class Routed:
    """One signal with what is known for its decision."""

    signal: CompletionSignal
    loaded: Loaded
    ir: IR

    @property
    def token(self) -> Token:
        assert self.loaded.token is not None
        return self.loaded.token

    @property
    def node(self) -> Node:
        return self.ir.nodes[self.token.node]

    def failed(self, event: Mapping[str, Any], delay_ms: int | None = None) -> Failed:
        """The step of a failure: another attempt after `delay_ms`, or with None the end of the run."""
        body = {"attempt": self.token.attempt, **event, **_raw(self.signal), **_usage(self.signal)}
        signal = self.signal
        return Failed(
            signal.run_id, signal.token_id, self.node.id, signal.attempt, self.ir.digest, orjson.dumps(body), delay_ms
        )

    def opening(self, wait: Wait) -> Opening:
        signal = self.signal
        approval = wait.approval and {
            "run_id": signal.run_id, "node_id": self.node.id, "token_id": signal.token_id, **wait.approval,
        }  # fmt: skip
        return Opening(
            signal.run_id, signal.token_id, self.node.id, signal.attempt, self.ir.digest, wait.state, wait.fields,
            orjson.dumps(wait.facts), approval,
        )  # fmt: skip

    def map_start(self, start: StartMap) -> MapStart:
        signal = self.signal
        shown = {"stored_items": start.text} if start.artifact else {"items": orjson.Fragment(start.text)}
        body = orjson.dumps({"total": len(start.items), **shown})
        return MapStart(
            signal.run_id, signal.token_id, self.node.id, signal.attempt, self.ir.digest, start.text,
            len(start.items), start.parallel, body, start.artifact,
        )  # fmt: skip

    def signal_of_map(self, failed: FailMap) -> CompletionSignal:
        """The failure of the map that the token is in an item of."""
        failure = failed.failure
        metadata = {
            "error_type": failure.klass, "error_message": failure.message, "retryable": False, "cause": failure.cause,
        }  # fmt: skip
        map_token = f"{self.signal.run_id}.{self.token.scope.rpartition('-')[0]}"
        return CompletionSignal(map_token, self.signal.run_id, failed.map, None, "failed", metadata=metadata)


def event_body(signal: CompletionSignal, attempt: int, plan: Plan, facts: Mapping[str, Any], *, ranked: bool) -> bytes:
    """The body of node_completed or node_failed; stored texts that are JSON go in as they are."""
    outputs = {o.node: orjson.Fragment(o.value) for o in plan.outputs if o.value and not artifact_name(o.value)}
    stored = {o.node: o.value for o in plan.outputs if o.value and artifact_name(o.value)}
    body: dict[str, Any] = {"attempt": attempt, "outputs": outputs}
    if stored:
        body["stored"] = stored
    ends = [output.node for output in plan.outputs if output.ends]
    if ends:
        body["ends"] = ends
    if ranked:
        body["ranks"] = {output.node: output.rank for output in plan.outputs}
    if plan.passes:
        body["passes"] = plan.passes
    if plan.restarted:
        body["restarted"] = plan.restarted
    return orjson.dumps({**body, **facts, **_usage(signal)})


_NO_USAGE = ("error_type", "error_message", "raw", "retryable", "cause", "passes_on")


def _usage(signal: CompletionSignal) -> dict[str, Any]:
    usage = {k: v for k, v in (signal.metadata or {}).items() if k not in _NO_USAGE}
    return {"usage": usage} if usage else {}


def _raw(signal: CompletionSignal) -> dict[str, Any]:
    """The model's own words, when they were no valid output."""
    raw = (signal.metadata or {}).get("raw")
    return {"raw": str(raw)[:16_384]} if raw is not None else {}
