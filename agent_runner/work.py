"""Work: a task that was claimed, with all that its execution needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jsonschema.protocols import Validator

from lua.answers import StartedTask
from schemas.ir import IR, Node
from schemas.keys import is_fast_lane, pool_of
from schemas.messages import Task


@dataclass(eq=False, slots=True)
class InHand:
    """A task of a stream, in this runner's hands."""

    task: Task

    @property
    def interactive(self) -> bool:
        return is_fast_lane(self.task.stream)

    @property
    def pool(self) -> str:
        return pool_of(self.task.stream)


@dataclass(eq=False, slots=True)
class Fetched(InHand):
    """One that is not started. `reclaimed`: it was another runner's."""

    reclaimed: bool = False


@dataclass(slots=True)
class Program:
    """An IR, and what was compiled from it for execution, by node."""

    ir: IR
    validators: dict[str, Validator] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Work(InHand):
    """One execution: attempt `started.attempt` of the task's token, under `program`."""

    node: Node
    program: Program
    started: StartedTask
    timeout_s: float

    @property
    def model(self) -> str | None:
        """Of an agent's."""
        return self.node.config.get("model") if self.node.type == "agent" else None

    @property
    def attempt(self) -> int:
        return self.started.attempt


@dataclass(frozen=True, slots=True)
class Result:
    """What an execution gave: a JSON value, and the completion signal's metadata."""

    output: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)


class NodeKind(Protocol):
    """How the nodes of one type are executed."""

    async def execute(self, work: Work, variables: Mapping[str, Any]) -> Result:
        """Raises TaskFailed. Bounds itself by `work.timeout_s`; may be cancelled at any time."""

    async def close(self) -> None: ...
