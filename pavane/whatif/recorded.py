"""Recorded: the history of one run, made ready to be routed again. Pure.

An execution is found by where it stands in the run and not by its token's number, which another routing would give
otherwise: (place, node, iteration), and which one of several. A place is () for the run itself, else the execution of
the map around it and the index of the item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pavane.whatif.value import Large
from schemas.events import Event
from schemas.ir import IR, Node
from schemas.messages import Failure
from schemas.revision import ir_after
from schemas.run_state import output_of

Place = tuple[Any, ...]
Key = tuple[Place, str, int]

TYPES = (
    "run_started", "run_forked", "run_restated", "node_completed", "node_failed", "map_started", "items_started",
    "run_retried", "run_patched", "items_patched",
)  # fmt: skip
"""Types of the events that say how a run was routed, and with which outputs: about half of them all."""


class NotWhole(ValueError):
    """A history that can not be played from its beginning; the text says why."""


@dataclass(slots=True)
class Execution:
    """One token as it was recorded. `seq` is that of its outcome, 0 while it has none."""

    number: int  # within the run, in the order in which they could begin
    node: Node
    key: Key
    place: int  # which of those with its key
    arrived: Mapping[str, Any]
    ctx: Mapping[str, Any]  # the outputs that its templates read
    item: Any
    seq: int = 0
    value: Any = None
    failure: Failure | None = None
    attempts: int = 1
    nodes: Sequence[str] = ()  # executed in the step that ended it, itself among them
    decisions: Sequence[Mapping[str, Any]] = ()
    condition_errors: Sequence[Mapping[str, Any]] = ()
    patched: tuple[Node, ...] = ()  # what patches made of the node before it had ended: it was executed as one of them
    gpu_ms: float = 0
    opened: int = 0  # of a map: the seq of map_started
    items: Any = None  # of a map
    started: int = 0  # of a map: its items that were started


@dataclass(slots=True)
class Run:
    """What is known of a run beside its events."""

    run_id: str
    key: str
    status: str
    error: Any
    variables: Mapping[str, str]  # the variable `run`


@dataclass(slots=True)
class Recorded:
    """A run as it went."""

    run: Run
    input: Any
    executions: list[Execution] = field(default_factory=list)
    by_key: dict[Key, list[Execution]] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)  # of the run's own nodes
    ends: frozenset[str] = frozenset()

    @property
    def done(self) -> list[Execution]:
        """Those that have an outcome, in its order."""
        return sorted((one for one in self.executions if one.seq), key=lambda one: one.seq)

    @property
    def path(self) -> list[str]:
        return [node for one in self.done for node in one.nodes]

    @property
    def output(self) -> Any:
        return output_of(self.ends, self.outputs) if self.run.status == "COMPLETED" else None

    def find(self, key: Key, place: int) -> Execution | None:
        known = self.by_key.get(key)
        return known[place] if known and place < len(known) else None


def read_recorded(run: Run, events: Sequence[Event], ir_of: Callable[[str], IR | None]) -> Recorded:
    """The run of these events, of which only those in TYPES are needed. Raises NotWhole."""
    if any(event.type == "run_restated" for event in events):
        raise NotWhole("its history was lost in part and restated")
    if not events or events[0].seq != 1:
        raise NotWhole("its first events are not kept any more")
    if events[0].type != "run_started":
        raise NotWhole("it is a fork, which began with another run's state")
    return _Reader(run, events[0], ir_of).read(events)


class _Reader:
    """One walk over the events. It knows of each token what it will be given, as `fold` does."""

    def __init__(self, run: Run, first: Event, ir_of: Callable[[str], IR | None]) -> None:
        ir = ir_of(first.data["digest"])
        if ir is None:
            raise NotWhole("its workflow is not kept any more")
        self.ir = ir
        data = first.data
        self.recorded = Recorded(run, Large(data["stored_input"]) if "stored_input" in data else data.get("input"))
        self.prefix = len(run.run_id) + 1
        self.tokens: dict[str, Execution] = {}
        self.sources: dict[str, Mapping[str, Sequence[Any]]] = {}  # token -> source -> its entry in `from`
        self.arrivals: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, dict[str, Any]] = {"": {}}
        self.ranks: dict[tuple[str, str], tuple[int, str]] = {}
        self.ends: set[str] = set()
        self.places: dict[str, Place] = {"": ()}

    def read(self, events: Iterable[Event]) -> Recorded:
        for event in events:
            values = self._values(event)
            if event.type in ("node_completed", "node_failed"):
                self._end(event, values)
            elif event.type == "map_started":
                self._open(event)
            elif event.type == "items_started":
                self.tokens[event.token_id].started += event.data["count"]
            elif event.type == "run_patched":
                self._patch(event)
            self._add_tokens(event, values)
        recorded = self.recorded
        recorded.outputs, recorded.ends = self.outputs[""], frozenset(self.ends)
        return recorded

    def _values(self, event: Event) -> dict[str, Any]:
        data = event.data
        values: dict[str, Any] = data.get("outputs") or {}
        if stored := data.get("stored"):
            values = values | {node: Large(text) for node, text in stored.items()}
        return values

    # -- what ends --------------------------------------------------------------------------------
    def _end(self, event: Event, values: Mapping[str, Any]) -> None:
        one, data = self.tokens.get(event.token_id), event.data
        if one is None:
            return  # of a node that a patch brought, by a token of before
        usage = data.get("usage") or {}
        spent = usage.get("gpu_ms", usage.get("execution_time_ms") if one.node.type == "agent" else 0)
        one.seq, one.decisions = event.seq, data.get("decisions") or ()
        one.condition_errors = data.get("condition_errors") or ()
        one.gpu_ms = spent if isinstance(spent, int | float) and not isinstance(spent, bool) else 0
        if event.type == "node_failed":
            error = data.get("error") or {}
            one.failure = Failure(
                str(error.get("class", "")), str(error.get("message", "")), retryable=False, cause=error.get("cause")
            )
            one.attempts = error.get("attempts", 1)
            one.value = None
            one.nodes = in_step(event.node_id, values)
        else:
            one.failure, one.value = None, values.get(event.node_id)
            one.nodes = in_step("", values)
        if event.token_id in data.get("gone", ()):
            self._record(event, values)

    def _record(self, event: Event, values: Mapping[str, Any]) -> None:
        """As `fold` keeps a node's newest output, and whether it emitted anything."""
        scope, ranks, ended = event.scope, event.data.get("ranks") or {}, event.data.get("ends") or ()
        outputs = self.outputs.setdefault(scope, {})
        for node, value in values.items():
            if self._is_newest(scope, node, ranks):
                outputs[node] = value
        if scope:
            return
        for node in [*values, event.node_id] if event.type == "node_failed" else values:
            if self._is_newest(scope, f"ends|{node}", ranks, node):
                (self.ends.add if node in ended else self.ends.discard)(node)

    def _is_newest(self, scope: str, name: str, ranks: Mapping[str, Sequence[Any]], node: str = "") -> bool:
        given = ranks.get(node or name)
        if given is None:
            return True
        rank = (given[0], given[1])
        if self.ranks.get((scope, name), rank) > rank:
            return False
        self.ranks[scope, name] = rank
        return True

    def _open(self, event: Event) -> None:
        one, data = self.tokens[event.token_id], event.data
        one.opened, one.started = event.seq, 0
        one.items = Large(data["stored_items"]) if "stored_items" in data else data.get("items")

    def _patch(self, event: Event) -> None:
        self.ir = ir_after(self.ir, [event])
        for one in self.recorded.executions:
            if not one.seq and (node := self.ir.nodes.get(one.node.id)) is not None:
                one.patched = (*one.patched, node)

    # -- what begins ------------------------------------------------------------------------------
    def _add_tokens(self, event: Event, values: dict[str, Any]) -> None:
        if event.type == "node_failed":
            values = values | {event.node_id: {"error": event.data.get("error")}}
        fired = []
        for token, record in (event.data.get("tokens") or {}).items():
            if arrivals := record.get("from"):
                self._arrive(token, arrivals, values)
            if token not in self.tokens and "iteration" in record:
                fired.append((token, record))
        if len(fired) > 1:
            fired.sort(key=lambda one: int(one[0].rpartition(".")[2]))
        for token, record in fired:
            self._fire(token, record)

    def _arrive(self, token: str, arrivals: Sequence[Sequence[Any]], values: Mapping[str, Any]) -> None:
        known = self.sources.get(token, {})
        for arrival in arrivals:
            source = arrival[0]
            if known.get(source) != arrival and source in values:
                self.arrivals.setdefault(token, {})[source] = values[source]
        self.sources[token] = {arrival[0]: arrival for arrival in arrivals}

    def _fire(self, token: str, record: Mapping[str, Any]) -> None:
        node = self.ir.nodes.get(record["node"])
        if node is None:
            return
        scope = record.get("scope", "")
        key = (self._place(scope), node.id, int(record["iteration"]))
        known = self.recorded.by_key.setdefault(key, [])
        one = Execution(
            len(self.recorded.executions), node, key, len(known), self.arrivals.get(token, {}),
            self._read(node, scope), self._item(scope),
        )  # fmt: skip
        known.append(one)
        self.recorded.executions.append(one)
        self.tokens[token] = one

    def _place(self, scope: str) -> Place:
        if scope not in self.places:
            path, _, index = scope.rpartition("-")
            around = self.tokens[f"{self.recorded.run.run_id}.{path}"]
            self.places[scope] = (around.key, around.place, int(index))
        return self.places[scope]

    def _read(self, node: Node, scope: str) -> dict[str, Any]:
        found = {}
        for address in self.ir.addresses(node.id, node.analysis.task_reads):
            name, _, level = address.partition("@")
            outputs = self.outputs.get(_enclosing(scope, int(level)) if level else scope, {})
            if name in outputs:
                found[name] = outputs[name]
        return found

    def _item(self, scope: str) -> Any:
        """The item: its list, which may be large, and its index there."""
        if not scope:
            return None
        path, _, index = scope.rpartition("-")
        return self.tokens[f"{self.recorded.run.run_id}.{path}"].items, int(index)


def _enclosing(scope: str, level: int) -> str:
    """The scope at a level: of `3-0.5-2` at 1, `3-0`."""
    return ".".join(scope.split(".")[:level])


def in_step(failed: str, values: Iterable[str]) -> Sequence[str]:
    """The nodes of one step, as an event tells them: the failed one, the others, those with large outputs last."""
    return [failed, *values] if failed else list(values)
