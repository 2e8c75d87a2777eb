"""The record of a play: what happened, from the run's own events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pavane.rehearsal.calls import STAND_IN
from schemas.events import STATUS_OF, Event
from schemas.fold import fold
from schemas.ir import Node
from schemas.keys import scope_of
from schemas.run_state import RunState, output_of
from schemas.variables import item_index, make_variables

ENDS = ("node_completed", "node_failed")


@dataclass(frozen=True, slots=True)
class Step:
    """One node that ended (or one attempt that failed: `again`): what it gave, or its error, and what was decided."""

    run_id: str
    node: str
    scope: str
    value: Any
    iteration: int = 0
    error: Mapping[str, Any] | None = None
    again: bool = False
    decision: Mapping[str, Any] | None = None
    condition_errors: tuple[str, ...] = ()

    @property
    def index(self) -> str:
        """`[2]` for the third item of a map, `[2][0]` for one in it; "" outside maps."""
        return "".join(f"[{part.rpartition('-')[2]}]" for part in self.scope.split(".") if part)


@dataclass
class Record:
    """All runs of one play: the case's own, and those that its nodes called."""

    run_id: str = ""  # of the case's own run
    events: list[Event] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    attempts: Counter[str] = field(default_factory=Counter)
    rendered: dict[str, Any] = field(default_factory=dict)  # node -> what its newest execution was given
    tokens: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)  # (run, token) -> newest record
    outputs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (run, scope) -> node -> newest
    inputs: dict[str, Any] = field(default_factory=dict)  # run -> input
    callers: dict[str, tuple[str, str]] = field(default_factory=dict)  # called run -> the run and token that called it
    items: dict[tuple[str, str], list[Any]] = field(default_factory=dict)  # (run, map's token) -> its items
    stand_ins: set[str] = field(default_factory=set)  # called runs that only give what the script says
    ended: bool = False

    def take(self, event: Event, stored: Mapping[str, Any]) -> None:
        """Add an event; `stored` has the values of the artifacts that it names."""
        self.events.append(event)
        if event.type == "run_started":
            self._start(event, stored)
        elif event.run_id in self.stand_ins:
            return
        elif event.type in STATUS_OF:
            self.ended = self.ended or event.run_id == self.run_id
        elif event.type == "map_started":
            data = event.data
            items = stored[data["stored_items"]] if "stored_items" in data else data["items"]
            self.items[event.run_id, event.token_id] = items
        elif event.type == "task_started":
            self.attempts[event.node_id] += 1
        elif event.type == "task_retried":
            error, pass_ = event.data.get("error"), self._iteration(event)
            self.steps.append(Step(event.run_id, event.node_id, event.scope, None, pass_, error, again=True))
        elif event.type in ENDS:
            self._end(event, stored)
        for token, record in (event.data.get("tokens") or {}).items():
            self.tokens[event.run_id, token] = record

    def _start(self, event: Event, stored: Mapping[str, Any]) -> None:
        data = event.data
        self.run_id = self.run_id or event.run_id
        self.inputs[event.run_id] = stored[data["stored_input"]] if "stored_input" in data else data.get("input")
        if "parent" in data:
            self.callers[event.run_id] = data["parent"], data["parent_token"]
        if data["workflow_id"] == STAND_IN:
            self.stand_ins.add(event.run_id)

    def _end(self, event: Event, stored: Mapping[str, Any]) -> None:
        data = event.data
        values = dict(data.get("outputs") or {})
        values |= {node: stored[text] for node, text in (data.get("stored") or {}).items()}
        decisions = {decision["node"]: decision for decision in data.get("decisions") or ()}
        faults = data.get("condition_errors") or ()
        own = [event.node_id] if event.type == "node_failed" or event.node_id in values else []
        for node in dict.fromkeys([*own, *values]):
            failed = event.type == "node_failed" and node == event.node_id
            self.steps.append(
                Step(
                    event.run_id,
                    node,
                    event.scope,
                    None if failed else values[node],
                    self._iteration(event) if node == event.node_id else 0,
                    data.get("error") if failed else None,
                    decision=decisions.get(node),
                    condition_errors=tuple(f"{f['expression']}: {f['message']}" for f in faults if f["node"] == node),
                )
            )
        self.outputs.setdefault((event.run_id, event.scope), {}).update(values)

    def _iteration(self, event: Event) -> int:
        return int(self.tokens.get((event.run_id, event.token_id), {}).get("iteration", 0))

    def context(self, run_id: str, scope: str) -> dict[str, Any]:
        """{node: output} as a node in this scope may read it: its own scope before the enclosing ones."""
        found: dict[str, Any] = {}
        parts = scope.split(".") if scope else []
        for depth in range(len(parts) + 1):
            found |= self.outputs.get((run_id, ".".join(parts[:depth])), {})
        return found

    def variables(self, node: Node, run_id: str, token_id: str) -> dict[str, Any]:
        """What an expression at a node that the coordinator opened may read; `ctx` is left out."""
        scope = scope_of(run_id, token_id)
        ctx, token, index = self.context(run_id, scope), self.tokens[run_id, token_id], item_index(scope)
        map_token = f"{run_id}.{scope.rpartition('-')[0]}"
        return make_variables(
            node_type=node.type,
            input=self.inputs[run_id],
            arrived={arrival[0]: ctx.get(arrival[0]) for arrival in token.get("from") or () if arrival[0]},
            ctx={},
            iteration=token.get("iteration", 0),
            run={"id": run_id},
            item=None if index is None else self.items[run_id, map_token][index],
            index=index,
        )

    def standing(self) -> str:
        """The tokens that are left, for a run that does not end."""
        gone = {(event.run_id, token) for event in self.events for token in event.data.get("gone") or ()}
        left = [record for place, record in self.tokens.items() if place not in gone]
        return ", ".join(f"{record['node']} is {record['state']}" for record in left) or "no token is left"

    # -- what came out -----------------------------------------------------------------------------
    @property
    def path(self) -> list[str]:
        """The run's own nodes in the order in which they ended; those in items and called runs are not in it."""
        return [step.node for step in self.steps if step.run_id == self.run_id and not step.scope and not step.again]

    @property
    def times(self) -> Counter[str]:
        """How often each node ended, wherever it is."""
        return Counter(step.node for step in self.steps if not step.again)

    def state(self) -> RunState:
        return fold(event for event in self.events if event.run_id == self.run_id)

    def result(self, state: RunState) -> Any:
        """The run's output, as it would be shown; None while it has not completed."""
        outputs = self.outputs.get((self.run_id, ""), {})
        return output_of(state.ends.get("", ()), outputs) if state.status == "COMPLETED" else None

    def newest(self, node: str) -> Any:
        """A node's newest output; of one in a map the list of them, in the order of the items.

        Raises KeyError if it gave none.
        """
        own = self.outputs.get((self.run_id, ""), {})
        if node in own:
            return own[node]
        found = {
            _steps(scope): outputs[node]
            for (run_id, scope), outputs in self.outputs.items()
            if node in outputs and (scope or run_id not in self.stand_ins)
        }
        if not found:
            raise KeyError(node)
        newest = _newest(list(found))
        return [found[steps] for steps in newest] if newest[0] else found[newest[0]]


def _steps(scope: str) -> tuple[tuple[int, int], ...]:
    """`12-3.40-7` as ((12, 3), (40, 7)): the number of the map's token, and the index of the item."""
    pairs = (part.split("-") for part in scope.split(".") if part)
    return tuple((int(number), int(index)) for number, index in pairs)


def _newest(scopes: Sequence[tuple[tuple[int, int], ...]]) -> list[tuple[tuple[int, int], ...]]:
    """In the order of items; where a map was executed several times, only of its last execution."""
    last: dict[tuple[int, ...], int] = {}  # the indexes on the way to a map -> its newest token
    for scope in scopes:
        for depth, (number, _) in enumerate(scope):
            way = tuple(index for _, index in scope[:depth])
            last[way] = max(last.get(way, 0), number)
    newest = [
        scope
        for scope in scopes
        if all(last[tuple(i for _, i in scope[:depth])] == number for depth, (number, _) in enumerate(scope))
    ]
    return sorted(newest, key=lambda scope: [index for _, index in scope])
