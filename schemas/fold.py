"""fold: a run's state from its events. Pure; the projections, time travel and recovery all stand on it.

The state equals what Redis holds for the run, value by value: a script writes the event in the step that makes the
change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from schemas.batch_mark import BatchMark, reverted
from schemas.events import STARTS, STATUS_OF, Event
from schemas.held import MADE_APART, held
from schemas.keys import path_of
from schemas.run_state import MapState, Record, Reference, RunState, Usage
from schemas.snapshot import load_state


class BrokenHistory(ValueError):
    """Events that do not follow on each other: a gap, another run's, or a value that no event brought."""


def fold(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """The state after `events`, which go on from `state` (of the same run). Raises BrokenHistory.

    A `run_restated` holds a whole state: what comes before it may be missing.
    """
    state = state.copy() if state else RunState()
    for event in events:
        if event.type == "run_restated":
            state = load_state(event.data["state"])
            state.seq, state.last_at = event.seq, event.at
            continue
        if event.seq != state.seq + 1 or (state.run_id and event.run_id != state.run_id):
            raise BrokenHistory(
                f"event {event.seq} of {event.run_id} after event {state.seq} of {state.run_id or 'none'}"
            )
        state.seq = event.seq
        _apply(state, event)
        state.last_at = event.at
    return state


def _apply(state: RunState, event: Event) -> None:
    if change := _CHANGES.get(event.type):
        change(state, event)
    data = event.data
    values = _values(event)
    if values:
        _record_outputs(state, event, values)
    if "passes" in data or "restarted" in data:
        _count_passes(state, event)
    # The event of a run's failure repeats the one of its node, and a node's usage holds that of its tool calls.
    if (used := data.get("usage")) and event.node_id and event.type != "tool_called":
        _add_usage(state.usage, used)
    _move_tokens(state, event, values)
    if event.type == "item_completed":
        _forget_items(state, f"{event.token_id}-{data['index']}.")


_SHOWN_APART = ("tokens", "live", "input", "stored_input", "state", "artifacts")


def _start(state: RunState, event: Event) -> None:
    data = event.data
    if event.type == "run_forked":
        _begin_with(state, load_state(data["state"]))
    state.started = {name: value for name, value in data.items() if name not in _SHOWN_APART}
    state.batch_mark = (data.get("fields") or {}).get("batch_patch", "")
    state.run_id, state.status = event.run_id, state.status or "RUNNING"
    state.created_at = state.created_at or event.at
    state.workflow_id, state.version = data["workflow_id"], data.get("version")
    state.revision, state.digest = data["revision"], data["digest"]
    state.batch_id, state.key = data.get("batch_id"), data.get("key")
    state.labels, state.priority = data.get("labels") or {}, data.get("priority") or "normal"
    state.input = Reference(data["stored_input"]) if "stored_input" in data else data.get("input")


def _begin_with(state: RunState, other: RunState) -> None:
    """The state of a fork is that of the run that it was forked from, but for its number and its usage."""
    for name in RunState.__dataclass_fields__:
        if name not in ("seq", "usage"):
            setattr(state, name, getattr(other, name))
    state.made += MADE_APART
    _hold_items(state)


def _hold_items(state: RunState) -> None:
    """The items of maps of a run that was rebuilt: they are restored slice by slice (`items_restored`)."""
    for token, record in state.tokens.items():
        if record.get("scope"):
            state.tokens[token] = held(record, answered=token in state.answers)


def _count_task(state: RunState, event: Event) -> None:
    state.usage.tasks += 1


def _pause(state: RunState, event: Event) -> None:
    state.status, state.paused_at = "PAUSED", event.at


def _resume(state: RunState, event: Event) -> None:
    state.paused_ms += event.at - (state.paused_at or event.at)
    state.status, state.paused_at = "RUNNING", None


def _retry(state: RunState, event: Event) -> None:
    state.paused_ms += event.at - (state.ended_at or event.at)  # as if it had been paused
    state.status, state.ended_at, state.error = "RUNNING", None, None
    state.epoch += 1


def _recover(state: RunState, event: Event) -> None:
    if state.paused_at is None:
        state.paused_ms += event.at - state.last_at  # its clocks stood still
    state.made += MADE_APART
    _hold_items(state)


def _patch(state: RunState, event: Event) -> None:
    data = event.data
    if number := data.get("batch_patch"):
        name = reverted(number) if data.get("reverted") else str(number)
        state.batch_mark = str(BatchMark(name, data["revision"], state.digest))
    before, state.revision, state.digest = state.digest, data["revision"], data["digest"]
    for scope in (s for s in _item_scopes(state) if s not in state.adopted):
        state.adopted[scope] = before
    _adopt(state, event, [""])


def _patch_items(state: RunState, event: Event) -> None:
    path = event.token_id.removeprefix(f"{state.run_id}.")
    scopes = [f"{path}-{index}" for index in event.data["indexes"]]
    state.adopted.update(dict.fromkeys(scopes, state.digest))
    _adopt(state, event, scopes)


def _item_scopes(state: RunState) -> set[str]:
    """The items of maps in which there are tokens."""
    return {record["scope"] for record in state.tokens.values() if record.get("scope")}


def _end(state: RunState, event: Event) -> None:
    if state.paused_at is not None:
        _resume(state, event)
    state.status, state.ended_at, state.live = STATUS_OF[event.type], event.at, 0
    if event.type == "run_failed":
        state.error = event.data.get("error")  # dead and held tokens stay: `retry` restores them
    elif event.type != "run_completed":
        state.error = dict(event.data)
        _forget_items(state, f"{state.run_id}.")
        state.tokens.clear()
        state.arrivals.clear()


def _adopt(state: RunState, event: Event, scopes: Iterable[str]) -> None:
    """What a patch makes forgotten in the scopes that go over to its graph."""
    for scope in scopes:
        for loop in event.data.get("loops", ()):
            state.passes.get(scope, {}).pop(loop, None)
        if event.data.get("unranked"):
            state.ranks.pop(scope, None)


def _start_map(state: RunState, event: Event) -> None:
    data = event.data
    items = Reference(data["stored_items"]) if "stored_items" in data else data.get("items")
    state.maps[event.token_id] = MapState(data["total"], items)


def _start_items(state: RunState, event: Event) -> None:
    one, count, path = state.maps[event.token_id], event.data["count"], path_of(state.run_id, event.token_id)
    if state.revision > 1:
        state.adopted.update({f"{path}-{one.cursor + n}": state.digest for n in range(count)})
    one.cursor += count


def _complete_item(state: RunState, event: Event) -> None:
    data = event.data
    result = Reference(data["stored_result"]) if "stored_result" in data else data["result"]
    state.maps[event.token_id].results[data["index"]] = result


_CHANGES: Mapping[str, Callable[[RunState, Event], None]] = {
    **dict.fromkeys(STARTS, _start),
    **dict.fromkeys(STATUS_OF, _end),
    "task_started": _count_task,
    "run_paused": _pause,
    "run_resumed": _resume,
    "run_retried": _retry,
    "run_recovered": _recover,
    "run_patched": _patch,
    "items_patched": _patch_items,
    "map_started": _start_map,
    "items_started": _start_items,
    "item_completed": _complete_item,
}
"""What an event changes besides outputs, counts and tokens, by its type."""


def _forget_items(state: RunState, prefix: str) -> None:
    """Forget the items whose tokens begin with `prefix`, and all that they started."""
    head = f"{state.run_id}."
    scopes: tuple[dict[str, Any], ...] = (state.outputs, state.ranks, state.ends, state.passes, state.adopted)
    for scoped in scopes:
        for scope in [s for s in scoped if s and f"{head}{s}.".startswith(prefix)]:
            del scoped[scope]
    for token in [t for t in state.tokens if t.startswith(prefix)]:
        _forget_token(state, token)
    for token in [t for t in state.maps if t.startswith(prefix)]:
        del state.maps[token]


def _values(event: Event) -> dict[str, Any]:
    """What each node executed in this step passed on; a failed one, which has no output, its error."""
    data = event.data
    values = dict(data.get("outputs") or {})
    if stored := data.get("stored"):
        values.update((node, Reference(text)) for node, text in stored.items())
    if event.type == "node_failed":
        values[event.node_id] = {"error": data.get("error")}
    return values


def _record_outputs(state: RunState, event: Event, values: Mapping[str, Any]) -> None:
    """The output of each node's highest execution that gave one, and whether its highest execution emitted anything."""
    if event.token_id not in event.data.get("gone", ()):
        return  # the failure of a run changes no output
    scope, ranks, ended = event.scope, event.data.get("ranks") or {}, event.data.get("ends") or ()
    outputs, ends = state.outputs.setdefault(scope, {}), state.ends.setdefault(scope, set())
    known = state.ranks.setdefault(scope, {}) if ranks else {}

    def is_newest(node: str, of: str) -> bool:
        if node not in ranks:
            return True
        rank = (ranks[node][0], ranks[node][1])
        if known.get(of + node, rank) > rank:
            return False
        known[of + node] = rank
        return True

    for node, value in values.items():
        failed = event.type == "node_failed" and node == event.node_id
        if not failed and is_newest(node, ""):
            outputs[node] = value
        if is_newest(node, "ends|"):
            (ends.add if node in ended else ends.discard)(node)


def _count_passes(state: RunState, event: Event) -> None:
    passes, restarted = event.data.get("passes"), event.data.get("restarted")
    if passes or restarted:
        counts = state.passes.setdefault(event.scope, {})
        counts.update(passes or {})
        for loop in restarted or ():
            counts.pop(loop, None)


_AMOUNTS = frozenset({"prompt_tokens", "completion_tokens", "execution_time_ms", "gpu_ms", "load_ms"})


def _add_usage(usage: Usage, used: Mapping[str, Any]) -> None:
    for name, amount in used.items():
        if name in _AMOUNTS and isinstance(amount, int | float):  # workers in any language say what they like
            setattr(usage, name, getattr(usage, name) + amount)


def _move_tokens(state: RunState, event: Event, values: Mapping[str, Any]) -> None:
    data = event.data
    answers = state.answers or state.opened or event.type in ("node_answered", "node_opened") or "map_answer" in data
    for token, record in (data.get("tokens") or {}).items():
        old = state.tokens.get(token)
        if arrived := record.get("from"):
            _arrive(state, event, token, arrived, (old and old.get("from")) or (), values)
        if old is None and (number := token.rpartition(".")[2]).isdigit():
            state.made = max(state.made, int(number))
        state.tokens[token] = record
        if answers:
            _keep_answer(state, event, token, record)
        if token in state.maps and not record.get("map"):  # it begins anew
            del state.maps[token]
            _forget_items(state, f"{token}-")
    for token in data.get("gone") or ():
        _forget_token(state, token)
        if state.maps.pop(token, None):
            _forget_items(state, f"{token}-")
    state.live = data.get("live", state.live)


def _arrive(
    state: RunState, event: Event, token: str, arrived: Sequence[Sequence[Any]], before: Sequence[Any],
    values: Mapping[str, Any],
) -> None:  # fmt: skip
    """A value is new in this step if its rank is: one that was merged before is in the record too."""
    for arrival in arrived:
        if arrival not in before:
            if arrival[0] not in values:
                raise BrokenHistory(f"event {event.seq} of {event.run_id}: no value of {arrival[0]} for {token}")
            state.arrivals.setdefault(token, {})[arrival[0]] = values[arrival[0]]


def _keep_answer(state: RunState, event: Event, token: str, record: Record) -> None:
    """An outcome from outside counts until it is routed, a question until it is answered."""
    if event.type == "node_answered" and token == event.token_id:
        state.answers[token] = event.data.get("answer") or {}
    elif "map_answer" in event.data and record["state"] == "answered":
        state.answers[token] = event.data["map_answer"]
    elif "answered" not in (record["state"], record.get("held")):
        state.answers.pop(token, None)
    if event.type == "node_opened" and token == event.token_id and record["state"] == "asked":
        state.opened[token] = {name: event.data.get(name) for name in ("assignee", "prompt", "due")}
    elif "asked" not in (record["state"], record.get("held")):
        state.opened.pop(token, None)


def _forget_token(state: RunState, token: str) -> None:
    for known in (state.tokens, state.arrivals, state.answers, state.opened):
        known.pop(token, None)
