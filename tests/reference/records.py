"""What the reference interpreter moves and what it says: tokens, scopes, executions, results."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.reference.graph import Graph

Key = tuple[int, tuple[int, ...]]  # (depth, lane)
BEFORE_ENTRY: Key = (-1, ())


class Completed(NamedTuple):
    value: Any


class Failed(NamedTuple):
    error_class: str
    message: str = ""
    retryable: bool = False


OutcomeOf = Callable[[str, int, int, Any], Completed | Failed]
"""(node, attempt from 1, iteration, the `output` that arrived) -> its outcome; a function of these alone."""

Mend = Callable[[str, int, Any], Any]
"""(node, iteration, the `output` that arrived) -> what a task that ended the run gives once the run is retried."""


class StuckError(AssertionError):
    """Live tokens wait, and none of them can ever fire."""


class Arrival(NamedTuple):
    key: Key
    value: Any


class Execution(NamedTuple):
    """One token's execution: `output` is what arrived, `args` what a function's args rendered to.

    `path`: "" in the run, else `<map>:<iteration>-<index>` of each enclosing map, joined by "."
    """

    node: str
    iteration: int
    output: str  # JSON
    args: str | None  # JSON
    result: str  # JSON: the value, or {"error": class}
    attempts: int = 1
    path: str = ""


@dataclass(eq=False)
class Scope:
    """The run itself, or one item of a map: its tokens, loop counts and outputs."""

    graph: Graph
    map: "Token | None" = None
    index: int = 0
    item: Any = None
    live: list["Token"] = field(default_factory=list)
    newest: dict[str, Any] = field(default_factory=dict)  # node -> its newest output
    emitted: dict[str, bool] = field(default_factory=dict)  # node -> whether its newest execution emitted anything
    ranks: dict[tuple[str, str], Key] = field(default_factory=dict)  # (node, output or emitted) -> of which execution
    loop_counts: dict[str, int] = field(default_factory=dict)
    forked: bool = False  # two of its tokens were alive at once
    optional: bool = False  # in some orders of completions it is cut short, or never starts

    @property
    def path(self) -> str:
        if not self.map:
            return ""
        around = self.map.scope.path
        return f"{around}{'.' if around else ''}{self.map.node}:{self.map.iteration}-{self.index}"

    @property
    def chain(self) -> list["Scope"]:
        """The run, ..., the enclosing item, this one."""
        return [*self.map.scope.chain, self] if self.map else [self]


class Begun(NamedTuple):
    """The definition that a task began with. `error`: its args could not be rendered."""

    config: dict[str, Any]
    args: dict[str, Any] | None
    error: str | None = None


@dataclass(eq=False)
class Token:
    node: str
    type: str
    scope: Scope
    serial: int
    state: str  # waiting, running, mapping, failed (only where failures are stalled)
    arrivals: dict[str | None, Arrival]
    deepest: int  # of all that arrived
    key: Key = BEFORE_ENTRY
    iteration: int = 0
    output: Any = None
    attempt: int = 1
    begun: Begun | None = None
    error: dict[str, Any] = field(default_factory=dict)  # of a failed one
    items: list[Any] = field(default_factory=list)  # of a map, as the next two
    started: int = 0
    results: dict[int, Any] = field(default_factory=dict)
    failed: Failed | None = None  # one of its items did, and that is still to be routed (only in a `Follower`)

    @property
    def at_once(self) -> int:
        """How many items of a map go on at once."""
        return int(self.scope.graph.config(self.node).get("max_parallel", 1000))

    @property
    def collects(self) -> bool:
        """An item that fails is a result of the map, and does not fail it."""
        return bool(self.scope.graph.config(self.node).get("on_item_error") == "collect")


@dataclass
class Result:
    """What a run did.

    `trace`: what it executed; of one that fails all that may come before the failure. `extra`: what a run that
    completes executes in some orders and not in others, in a map that fails or in an item that does.
    `failures`: (node, error class) of each that ended it or could have come first. `ambiguous`: two tasks
    of one item fail, and the first one is its result: orders differ, and nothing more is said about the run.
    """

    status: str = "RUNNING"
    output: Any = None
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    failures: set[tuple[str, str]] = field(default_factory=set)
    trace: list[Execution] = field(default_factory=list)
    extra: list[Execution] = field(default_factory=list)
    ambiguous: bool = False
    loop_counts: dict[str, int] = field(default_factory=dict)  # of the run's own scope
    condition_errors: Counter[tuple[str, int]] = field(default_factory=Counter)  # (node, iteration)

    @property
    def executions(self) -> Counter[Execution]:
        return Counter(self.trace)

    @property
    def order(self) -> list[str]:
        return [execution.node for execution in self.trace]


Choose = Callable[[Sequence[Token]], int]
"""The running tokens, oldest first -> the index of the one that completes next."""


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
