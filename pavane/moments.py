"""What an expression saw in a recorded run: the variables at a node when it was executed, from the run's events."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.events import Event
from schemas.fold import fold
from schemas.ir import IR, OPENED_TYPES, TASK_TYPES
from schemas.run_state import Reference, RunState
from schemas.variables import item_index, make_variables, run_variables

_STARTS = ("task_started", "node_opened", "map_started")
_ENDS = ("node_completed", "node_failed")


class NoSuchMoment(ValueError):
    """The node was not executed, or not in that pass or for that item."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One execution of a node. `seq` is the event's number; `variables` are plain values by name.

    missing: names of large values that are not in the run any more, of which only the name is known.
    """

    seq: int
    iteration: int
    scope: str
    variables: Mapping[str, Any]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Execution:
    """`place` is the event's place among the events; `token` is empty for a node that was decided in passing."""

    place: int
    scope: str
    iteration: int
    token: str


@dataclass
class RecordedRun:
    """A run as the API answers it: GET /runs/{id}, its IR, and its events in order."""

    run: Mapping[str, Any]
    ir: IR
    events: Sequence[Event]
    whole: dict[str, Any] = field(default_factory=dict)  # large values by the text that stands for them

    def __post_init__(self) -> None:
        state = fold(self.events)
        shown = [(state.input, self.run["input"])]
        shown += [(value, self.run["outputs"].get(node)) for node, value in state.outputs.get("", {}).items()]
        self.whole = {value.text: given for value, given in shown if isinstance(value, Reference)}

    def moment(
        self, node_id: str, *, leaving: bool = False, iteration: int | None = None, item: str | None = None
    ) -> Moment:
        """The last execution of a node, of those in pass `iteration` and for `item` (`3`, or `3.7` in nested maps).

        leaving: as the conditions of the node's edges see it, where `output` is its own. Raises NoSuchMoment.
        """
        if node_id not in self.ir.nodes:
            raise NoSuchMoment(f"the run's workflow has no node {node_id}")
        found = [
            execution
            for execution in self._executions(node_id, leaving)
            if iteration in (None, execution.iteration) and item in (None, _items_of(execution.scope))
        ]
        if not found:
            where = "" if iteration is None else f" in pass {iteration}"
            where += "" if item is None else f" for item {item}"
            raise NoSuchMoment(f"{node_id} was not executed{where}")
        return self._moment(node_id, found[-1], leaving)

    # -- when ------------------------------------------------------------------------------------
    def _executions(self, node_id: str, leaving: bool) -> Iterator[_Execution]:
        records: dict[str, Mapping[str, Any]] = {}
        passes: dict[str, dict[str, int]] = {}
        passing_type = self.ir.nodes[node_id].type not in TASK_TYPES | OPENED_TYPES
        for place, event in enumerate(self.events):
            records |= event.data.get("tokens") or {}
            own = event.node_id == node_id
            iteration = records.get(event.token_id, {}).get("iteration", 0)
            executed = _values(event)
            if own and not leaving and event.type in (_ENDS if passing_type else _STARTS):
                counted = self._iterations(event, iteration, passes, records).get(node_id, iteration)
                yield _Execution(place, event.scope, counted, event.token_id)
            elif node_id in executed and (leaving or not own):
                counted = self._iterations(event, iteration, passes, records)[node_id]
                yield _Execution(place, event.scope, counted, event.token_id if own else "")
            counts = passes.setdefault(event.scope, {})
            counts.update(event.data.get("passes") or {})
            for loop in event.data.get("restarted") or ():
                counts.pop(loop, None)
            for token in event.data.get("gone") or ():
                records.pop(token, None)

    def _iterations(
        self,
        event: Event,
        iteration: int,
        passes: Mapping[str, Mapping[str, int]],
        records: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, int]:
        """The `iteration` that each node executed in this step saw: in passing, loops count on the way."""
        counts = dict(passes.get(event.scope, {}))
        around = records.get(f"{event.run_id}.{event.scope.rpartition('-')[0]}", {}).get("iteration", 0)
        decided = {decision["node"]: decision for decision in event.data.get("decisions") or ()}
        found = {}
        for node_id in _values(event):
            loop, within = self.ir.nodes[node_id].loop, self.ir.nodes[node_id].analysis.within
            if loop and "pass" in decided.get(node_id, {}):
                found[node_id] = counts[node_id] = decided[node_id]["pass"]
                for inner in loop.inner if decided[node_id]["result"] == "back" else ():
                    counts.pop(inner, None)
            elif node_id == event.node_id:
                found[node_id] = iteration
            else:
                found[node_id] = around if within is None else counts.get(within, 0)
        return found

    # -- what ------------------------------------------------------------------------------------
    def _moment(self, node_id: str, execution: _Execution, leaving: bool) -> Moment:
        event, node = self.events[execution.place], self.ir.nodes[node_id]
        before = fold(self.events[: execution.place])
        executed = _values(event)
        if execution.token and not leaving:
            arrived: Mapping[str, Any] = before.arrivals.get(execution.token, {})
            earlier = {}
        else:
            arrived = self._arrived(event, node_id, executed)
            earlier = dict(list(executed.items())[: list(executed).index(node_id) + leaving])
        known = self._outputs(before, execution.scope) | earlier
        variables = make_variables(
            node_type=node.type, input=before.input, arrived=arrived, ctx=known,
            iteration=execution.iteration, run=self._run(), item=self._item(execution.scope),
            index=item_index(execution.scope),
        )  # fmt: skip
        if leaving:
            variables["output"] = executed[node_id]
        missing: set[str] = set()
        plain = {name: self._plain(value, missing) for name, value in variables.items()}
        return Moment(event.seq, execution.iteration, execution.scope, plain, tuple(sorted(missing)))

    def _arrived(self, event: Event, node_id: str, executed: Mapping[str, Any]) -> dict[str, Any]:
        """What a node that was decided in passing got, by the node that sent it there."""
        decided = {decision["node"]: decision for decision in event.data.get("decisions") or ()}
        for source, value in executed.items():
            node, decision = self.ir.nodes[source], decided.get(source)
            if decision is not None:
                targets = decision.get("next", decision.get("edges", ()))
            elif event.type == "node_failed" and source == event.node_id:
                targets = [*(node.on_error or ()), *(node.deadline_path or ())]
            else:
                targets = [edge.to for edge in node.edges]
            if node_id in targets and source != node_id:
                return {source: value}
        return {}

    def _outputs(self, state: RunState, scope: str) -> dict[str, Any]:
        """{node: output} of a scope and those around it; the inner goes before."""
        levels = scope.split(".") if scope else []
        scopes = ["", *(".".join(levels[: depth + 1]) for depth in range(len(levels)))]
        return {node: output for level in scopes for node, output in state.outputs.get(level, {}).items()}

    def _run(self) -> dict[str, str]:
        run = self.run
        return run_variables(run["run_id"], run["workflow_id"], run["batch_id"] or "", run["key"] or "")

    def _item(self, scope: str) -> Any:
        """The innermost map's item, as its map said when it started."""
        head, _, index = scope.rpartition("-")
        for event in reversed(self.events) if scope else ():
            if event.type == "map_started" and event.token_id == f"{event.run_id}.{head}":
                stored = event.data.get("stored_items")
                return Reference(stored) if stored else event.data["items"][int(index)]
        return None

    def _plain(self, value: Any, missing: set[str]) -> Any:
        """With large values in place of their names, as far as the run still has them."""
        if isinstance(value, Reference):
            if value.text not in self.whole:
                missing.add(value.text)
            return self.whole.get(value.text, value.text)
        if isinstance(value, dict):
            return {name: self._plain(inner, missing) for name, inner in value.items()}
        return value


def event_of(shown: Mapping[str, Any]) -> Event:
    """The event of what GET /runs/{id}/events shows."""
    head = ("run_id", "seq", "type", "at", "node_id", "token_id", "scope")
    places = {name: shown.get(name, "") for name in head}
    return Event(**places, data={name: value for name, value in shown.items() if name not in head})


def _values(event: Event) -> dict[str, Any]:
    """What each node executed in this step passed on, in the order of execution; of a failed one its error."""
    if event.token_id not in event.data.get("gone", ()):
        return {}
    values: dict[str, Any] = {node: Reference(text) for node, text in (event.data.get("stored") or {}).items()}
    values |= event.data.get("outputs") or {}
    if event.type == "node_failed":
        values[event.node_id] = {"error": event.data.get("error")}
    first = {event.node_id: values[event.node_id]} if event.node_id in values else {}
    return first | values


def _items_of(scope: str) -> str:
    """`3.7` for `12-3.40-7`."""
    return ".".join(level.rpartition("-")[2] for level in scope.split(".")) if scope else ""
