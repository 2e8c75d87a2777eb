"""StateView: a run's state as clients are shown it: what GET /runs/{run_id} answered at that moment. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from schemas.run_state import Record, Reference, RunState, run_output


def by_name(value: Any) -> Any:
    """A large value as its name, `artifact://sha256-...`."""
    return value.text if isinstance(value, Reference) else value


def shown_state(state: RunState, load: Callable[[Any], Any] = by_name) -> dict[str, Any]:
    """The state as JSON. `load` makes a value of a `Reference`, and leaves other values as they are."""
    outputs = {node: load(value) for node, value in state.outputs.get("", {}).items()}
    output = run_output(state)
    several = isinstance(output, dict)  # a run's output of several ends; plain values hold no references
    return {
        "run_id": state.run_id,
        "seq": state.seq,
        "status": state.status,
        "workflow_id": state.workflow_id,
        "version": state.version,
        "revision": state.revision,
        "digest": state.digest,
        "batch_id": state.batch_id,
        "key": state.key,
        "labels": state.labels,
        "priority": state.priority,
        "parent": state.started.get("parent"),
        "forked_from": state.started.get("forked_from"),
        "input": load(state.input),
        "outputs": outputs,
        "output": {node: load(value) for node, value in output.items()} if several else load(output),
        "ends": sorted(state.ends.get("", ())),
        "passes": state.passes.get("", {}),
        "error": state.error,
        "live_tokens": [_with_wait(token, state) for token in live_tokens(state.tokens)],
        "waiting": state.waiting.get("", {}),
        "counter": state.live,
        "created_at": state.created_at,
        "ended_at": state.ended_at,
        "usage": asdict(state.usage),
    }


def live_tokens(tokens: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The run's own tokens in the order in which they were made, without those of maps' items; those of a failed run
    are dead or held."""
    own = {token: record for token, record in tokens.items() if not record.get("scope")}
    return [
        {
            "token_id": token,
            "node_id": record["node"],
            "state": record["state"],
            "attempt": record["attempt"],
            "stream": record.get("stream"),
            "since": record.get("since"),
            "runner": record.get("runner"),
            "scope": record.get("scope", ""),
        }
        for token, record in sorted(own.items(), key=lambda item: _number(item[0]))
    ]


def waits_for(record: Record, question: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What ends a token's waiting; `due` is ms since the epoch, `question` what a person is asked."""
    due = {"due": record.get("due")}
    match record["state"]:
        case "asked":
            return {name: (question or {}).get(name) for name in ("assignee", "prompt", "choices")} | due
        case "listening":
            return {"event": record.get("event"), "key": record.get("key", "")} | due
        case "timed":
            return due
        case "calling":
            return {"run_id": record.get("child")}
    return None


def _with_wait(token: dict[str, Any], state: RunState) -> dict[str, Any]:
    token_id = token["token_id"]
    if token["state"] == "mapping" and (known := state.maps.get(token_id)):
        return token | {"items": {"total": known.total, "running": known.running, "done": len(known.results)}}
    if token["state"] == "waiting":
        return token | {"arrived": sorted(state.arrivals.get(token_id, ()))}
    if waiting := waits_for(state.tokens[token_id], state.opened.get(token_id)):
        return token | {"waits_for": waiting}
    return token


def _number(token: str) -> int:
    tail = token.rpartition(".")[2]
    return int(tail) if tail.isdigit() else 0
