"""RunState: all that is known of a run at one of its events. `fold` makes it, Redis holds it, the API shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from schemas.values import ARTIFACT, artifact_name, decode_value

Rank = tuple[int, str]
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """A large value, by the stored text that stands for it: `artifact://sha256-<hex>`."""

    text: str

    @property
    def name(self) -> str:
        return self.text.removeprefix(ARTIFACT)


def stored_text(value: Any) -> str:
    """A value, or a `Reference`, as the stored text that it was read from (schemas/values.py)."""
    return value.text if isinstance(value, Reference) else orjson.dumps(value).decode()


def stored_value(text: str) -> Any:
    """The value of a stored text; of a large one a `Reference`."""
    return Reference(text) if artifact_name(text) else decode_value(text)


@dataclass(slots=True)
class Usage:
    """What a run's tasks took. `tasks` counts executions, the repeated ones too; times are ms; `gpu_ms` is their share
    of the engine's time."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    execution_time_ms: float = 0
    gpu_ms: float = 0
    load_ms: float = 0
    tasks: int = 0


@dataclass(slots=True)
class MapState:
    """A map whose items are known: a list, or a `Reference`. `results` are values, or a `Reference`, by index."""

    total: int
    items: Any = None
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
    last_at: int = 0  # time of event `seq`
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
    paused_at: int | None = None
    paused_ms: int = 0  # that it was paused, or had failed, before
    usage: Usage = field(default_factory=Usage)
    # What only a rebuild of the run needs (recovery, a fork):
    started: Mapping[str, Any] = field(default_factory=dict)  # how it began: the first event, without what is above
    made: int = 0  # tokens made so far
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # token -> the outcome that waits to be routed
    opened: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # token -> what a person is asked
    adopted: dict[str, str] = field(default_factory=dict)  # item of a map -> digest of the graph that it follows
    batch_mark: str = ""  # of the last patch of its batch (schemas/batch_mark.py)

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
            answers=dict(self.answers),
            opened=dict(self.opened),
            adopted=dict(self.adopted),
        )


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
