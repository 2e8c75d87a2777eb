"""fold: a run's state from its events. Pure; the projections, time travel and recovery all stand on it.

The state equals what Redis holds for the run, value by value: a script writes the event in the step that makes the
change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.events import STATUS_OF, Event
from schemas.values import ARTIFACT

Rank = tuple[int, str]
Record = Mapping[str, Any]


class BrokenHistory(ValueError):
    """Events that do not follow on each other: a gap, another run's, or a value that no event brought."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A large value, by the stored text that stands for it: `artifact://sha256-<hex>`."""

    text: str

    @property
    def name(self) -> str:
        return self.text.removeprefix(ARTIFACT)


@dataclass(slots=True)
class Usage:
    """What a run's tasks took. `tasks` counts executions, the repeated ones too; times are ms."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    execution_time_ms: float = 0
    load_ms: float = 0
    tasks: int = 0


@dataclass(slots=True)
class MapState:
    """A map whose items are known. `results` are values, or a `Reference`, by index."""

    total: int
    cursor: int = 0  # items started
    results: dict[int, Any] = field(default_factory=dict)

    @property
    def running(self) -> int:
        return self.cursor - len(self.results)


@dataclass(slots=True)
class RunState:
    """A run after its event `seq`. Values are JSON values, or a `Reference`; times are ms since the epoch.

    `status` is "" before the first event. Scopes are "" for the run itself.
    """

    run_id: str = ""
    status: str = ""
    workflow_id: str = ""
    version: int | None = None
    revision: int = 0
    digest: str = ""
    batch_id: str | None = None
    key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: str = "normal"
    input: Any = None
    seq: int = 0
    live: int = 0  # tokens that are neither consumed, dead nor held
    tokens: dict[str, Record] = field(default_factory=dict)  # as `tokens:<run>` holds them
    arrivals: dict[str, dict[str, Any]] = field(default_factory=dict)  # token -> predecessor -> value
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # scope -> node -> newest output
    ranks: dict[str, dict[str, Rank]] = field(default_factory=dict)  # scope -> node -> (depth, lane)
    ends: dict[str, set[str]] = field(default_factory=dict)  # scope -> nodes whose last execution emitted nothing
    passes: dict[str, dict[str, int]] = field(default_factory=dict)  # scope -> loop -> passes completed
    maps: dict[str, MapState] = field(default_factory=dict)  # by the map's token
    epoch: int = 0  # how often it was retried
    error: Any = None  # {class, message, ...} of a failure; who and why of an end from outside
    created_at: int = 0
    ended_at: int | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def waiting(self) -> dict[str, dict[str, str]]:
        """scope -> waiting node -> its token."""
        found: dict[str, dict[str, str]] = {}
        for token, record in self.tokens.items():
            if "waiting" in (record["state"], record.get("held")):
                found.setdefault(record.get("scope", ""), {})[record["node"]] = token
        return found

    def copy(self) -> RunState:
        """A state that can be changed without changing this one. Records and values are shared: nobody changes them."""
        return replace(
            self,
            tokens=dict(self.tokens),
            arrivals={token: dict(values) for token, values in self.arrivals.items()},
            outputs={scope: dict(values) for scope, values in self.outputs.items()},
            ranks={scope: dict(ranks) for scope, ranks in self.ranks.items()},
            ends={scope: set(nodes) for scope, nodes in self.ends.items()},
            passes={scope: dict(counts) for scope, counts in self.passes.items()},
            maps={token: replace(state, results=dict(state.results)) for token, state in self.maps.items()},
            usage=replace(self.usage),
        )


def fold(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """The state after `events`, which go on from `state` (of the same run). Raises BrokenHistory."""
    state = state.copy() if state else RunState()
    for event in events:
        if event.seq != state.seq + 1 or (state.run_id and event.run_id != state.run_id):
            raise BrokenHistory(
                f"event {event.seq} of {event.run_id} after event {state.seq} of {state.run_id or 'none'}"
            )
        state.seq = event.seq
        _apply(state, event)
    return state


def run_output(state: RunState) -> Any:
    """A completed run's output: of the nodes whose last execution emitted nothing, the one's, else {node: output}.

    Values may be `Reference`s. None while the run has not completed.
    """
    if state.status != "COMPLETED":
        return None
    return output_of(state.ends.get("", ()), state.outputs.get("", {}))


def output_of(ends: Iterable[str], outputs: Mapping[str, Any]) -> Any:
    """The rule of `run_output`, on the outputs and the ends of the run's own scope."""
    values = {node: outputs[node] for node in sorted(ends) if node in outputs}
    return next(iter(values.values())) if len(values) == 1 else values


def _apply(state: RunState, event: Event) -> None:
    if event.type == "run_started":
        _start(state, event)
    elif event.type in STATUS_OF:
        _end(state, event)
    elif event.type == "task_started":
        state.usage.tasks += 1
    elif event.type in ("run_paused", "run_resumed"):
        state.status = "PAUSED" if event.type == "run_paused" else "RUNNING"
    elif event.type == "run_retried":
        state.status, state.ended_at, state.error = "RUNNING", None, None
        state.epoch += 1
    elif event.type == "run_patched":
        state.revision, state.digest = event.data["revision"], event.data["digest"]
        _adopt(state, event, [""])
    elif event.type == "items_patched":
        path = event.token_id.removeprefix(f"{state.run_id}.")
        _adopt(state, event, [f"{path}-{index}" for index in event.data["indexes"]])
    elif event.type in ("map_started", "items_started", "item_completed"):
        _advance_map(state, event)
    values = _values(event)
    _record_outputs(state, event, values)
    _count_passes(state, event)
    # The event of a run's failure repeats the one of its node, and a node's usage holds that of its tool calls.
    if event.node_id and event.type != "tool_called":
        _add_usage(state.usage, event.data.get("usage") or {})
    _move_tokens(state, event, values)
    if event.type == "item_completed":
        _forget_items(state, f"{event.token_id}-{event.data['index']}.")


def _start(state: RunState, event: Event) -> None:
    data = event.data
    state.run_id, state.status, state.created_at = event.run_id, "RUNNING", event.at
    state.workflow_id, state.version = data["workflow_id"], data.get("version")
    state.revision, state.digest = data["revision"], data["digest"]
    state.batch_id, state.key = data.get("batch_id"), data.get("key")
    state.labels, state.priority = data.get("labels") or {}, data.get("priority") or "normal"
    state.input = Reference(data["stored_input"]) if "stored_input" in data else data.get("input")


def _end(state: RunState, event: Event) -> None:
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


def _advance_map(state: RunState, event: Event) -> None:
    data, token = event.data, event.token_id
    if event.type == "map_started":
        state.maps[token] = MapState(data["total"])
    elif event.type == "items_started":
        state.maps[token].cursor += data["count"]
    else:
        state.maps[token].results[data["index"]] = (
            Reference(data["stored_result"]) if "stored_result" in data else data["result"]
        )


def _forget_items(state: RunState, prefix: str) -> None:
    """Forget the items whose tokens begin with `prefix`, and all that they started."""
    head = f"{state.run_id}."
    for scoped in (state.outputs, state.ranks, state.ends, state.passes):
        for scope in [s for s in scoped if s and f"{head}{s}.".startswith(prefix)]:
            del scoped[scope]
    for token in [t for t in state.tokens if t.startswith(prefix)]:
        state.tokens.pop(token)
        state.arrivals.pop(token, None)
    for token in [t for t in state.maps if t.startswith(prefix)]:
        del state.maps[token]


def _values(event: Event) -> dict[str, Any]:
    """What each node executed in this step passed on; a failed one, which has no output, its error."""
    data = event.data
    values = dict(data.get("outputs") or {})
    values.update((node, Reference(text)) for node, text in (data.get("stored") or {}).items())
    if event.type == "node_failed":
        values[event.node_id] = {"error": data.get("error")}
    return values


def _record_outputs(state: RunState, event: Event, values: Mapping[str, Any]) -> None:
    """The output of each node's highest execution that gave one, and whether its highest execution emitted anything."""
    if not values or event.token_id not in event.data.get("gone", ()):
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


def _add_usage(usage: Usage, used: Mapping[str, Any]) -> None:
    for name in ("prompt_tokens", "completion_tokens", "execution_time_ms", "load_ms"):
        amount = used.get(name)
        if isinstance(amount, int | float):  # workers in any language say what they like
            setattr(usage, name, getattr(usage, name) + amount)


def _move_tokens(state: RunState, event: Event, values: Mapping[str, Any]) -> None:
    for token, record in (event.data.get("tokens") or {}).items():
        # A value is new in this step if its rank is: one that was merged before is in the record too.
        before = state.tokens[token].get("from") or () if token in state.tokens else ()
        for arrival in record.get("from") or ():
            if arrival not in before:
                if arrival[0] not in values:
                    raise BrokenHistory(f"event {event.seq} of {event.run_id}: no value of {arrival[0]} for {token}")
                state.arrivals.setdefault(token, {})[arrival[0]] = values[arrival[0]]
        state.tokens[token] = record
        if token in state.maps and not record.get("map"):  # it begins anew
            del state.maps[token]
            _forget_items(state, f"{token}-")
    for token in event.data.get("gone") or ():
        state.tokens.pop(token, None)
        state.arrivals.pop(token, None)
        if state.maps.pop(token, None):
            _forget_items(state, f"{token}-")
    state.live = event.data.get("live", state.live)
