"""The shapes of an explanation. Times are ms since the epoch, sizes bytes of JSON, `seq` numbers of events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from schemas.prices import Prices


@dataclass(slots=True)
class Value:
    """A value by its size and its beginning; of one over 16 KB its name, and no size."""

    preview: str
    bytes: int | None = None


@dataclass(slots=True)
class Arrival:
    """What a predecessor sent: `source` is its node."""

    source: str
    seq: int
    value: Value | None = None
    failed: bool = False  # it sent its error


@dataclass(slots=True)
class Attempt:
    """One execution of a task. `ended`: completed, failed, lost (its runner gave no answer); "" while it runs."""

    number: int
    seq: int
    at: int
    revision: int
    runner: str = ""
    queued_ms: int | None = None
    ended: str = ""
    took_ms: int | None = None
    error: Mapping[str, Any] | None = None
    of: int | None = None  # attempts that the node has
    retryable: bool | None = None
    again_in_ms: int | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    tools: int = 0  # tool calls
    cost: float | None = None


@dataclass(slots=True)
class Blocker:
    """A live token that can still reach a node that waits."""

    node: str
    token_id: str
    state: str


@dataclass(slots=True)
class Release:
    """What let a node that waited begin: the end of this token, after which no live token could reach it."""

    seq: int
    node: str
    token_id: str


@dataclass(slots=True)
class Execution:
    """One execution of the node.

    state: completed, failed, withdrawn, inherited (by a fork, from the run that it goes on from), or
    that of its token.
    """

    scope: str
    revision: int
    state: str
    token_id: str = ""  # "" where it was decided in passing, in the step of `step_of`
    step_of: str = ""
    iteration: int = 0
    seq: int = 0  # at which its token was made
    at: int = 0
    arrivals: list[Arrival] = field(default_factory=list)
    waited: bool = False
    released: Release | None = None
    blockers: list[Blocker] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)  # what it waited for: an answer, a time, an event, items
    answered_by: str = ""
    ended_seq: int | None = None
    ended_at: int | None = None
    output: Value | None = None
    error: Mapping[str, Any] | None = None
    taken_over: Mapping[str, Any] | None = None
    next: list[str] = field(default_factory=list)
    decision: Mapping[str, Any] | None = None
    undecided: Mapping[str, Any] | None = None
    condition_errors: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return self.state in ("completed", "failed", "withdrawn", "inherited")


@dataclass(slots=True)
class Reason:
    """Why a node was not executed, or not yet: one sentence, and the event and the node that it is about."""

    text: str
    node: str = ""
    seq: int | None = None


@dataclass(slots=True)
class Explanation:
    """Why a node was executed as it was, or was not."""

    run_id: str
    node_id: str
    node_type: str = ""
    status: str = ""  # of the run
    revision: int = 0
    seq: int = 0
    item: int | None = None  # that was asked for
    reachable: bool = False  # it was not executed, and something that goes on can still lead to it
    total: int = 0  # executions, of which only some may be in `executions`
    executions: list[Execution] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def price(self, prices: Prices) -> None:
        """Sets what each attempt cost, where that is known."""
        for execution in self.executions:
            for attempt in execution.attempts:
                attempt.cost = prices.cost(attempt.usage.get("llm_model"), attempt.usage)

    def as_dict(self) -> dict[str, Any]:
        """JSON; what is empty or unknown is left out."""
        plain: dict[str, Any] = _plain(self)
        return plain | {"executions": plain.get("executions", []), "reasons": plain.get("reasons", [])}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not hasattr(value, "__dataclass_fields__"):
        return value
    pairs = ((one.name, getattr(value, one.name)) for one in fields(value))
    return {name: _plain(inner) for name, inner in pairs if inner not in (None, "", [], {}, False)}
