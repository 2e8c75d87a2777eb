"""What this runner executes right now, and how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent_runner.work import Work

AHEAD_S = 0.1
"""Tasks are fetched ahead for so long: enough for the round trips, too short for another runner to miss them."""
_SMOOTHING = 0.05


@dataclass(eq=False, slots=True)
class Execution:
    """A claimed task in this runner's hands, until its outcome is stored."""

    work: Work
    task: asyncio.Task[None] | None = None
    began: float = field(default_factory=time.monotonic)
    ended: bool = False  # its slot is free; the outcome waits to be stored
    doubtful: bool = False  # this process stood still for so long that another runner may have taken it over


class Executions:
    """Executions by token. A slot is free as soon as the execution ended, before its outcome is stored."""

    def __init__(self, slots: int, prefetch: int, freed: Callable[[], None] = lambda: None) -> None:
        """`freed` is called when a slot became free."""
        self.slots = slots
        self._freed = freed
        self.running = 0
        self.ended = 0  # in this runner's life
        self._longest_prefetch = prefetch
        self._by_token: dict[str, Execution] = {}
        self._mean_s = 1.0
        self._busy_s = 0.0
        self._busy_since: float | None = None

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._by_token.values()))

    def __len__(self) -> int:
        return len(self._by_token)

    def get(self, token_id: str) -> Execution | None:
        return self._by_token.get(token_id)

    def begin(self, work: Work) -> Execution:
        execution = Execution(work)
        self._by_token[work.task.token_id] = execution
        self._occupy()
        return execution

    def end(self, execution: Execution) -> None:
        """Free its slot."""
        execution.ended = True
        self.ended += 1
        self._mean_s += (time.monotonic() - execution.began - self._mean_s) * _SMOOTHING
        self._free()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """An execution's slot is free while it waits for others that may need one: a child run's tasks, on this GPU.

        Afterwards it goes on at once, if need be beyond the slots.
        """
        self._free()
        try:
            yield
        finally:
            self._occupy()

    def _occupy(self) -> None:
        if self.running == 0:
            self._busy_since = time.monotonic()
        self.running += 1

    def _free(self) -> None:
        self.running -= 1
        if self.running == 0 and self._busy_since is not None:
            self._busy_s += time.monotonic() - self._busy_since
            self._busy_since = None
        self._freed()

    def forget(self, execution: Execution) -> None:
        """Its outcome is stored, or somebody else's now."""
        token_id = execution.work.task.token_id
        if self._by_token.get(token_id) is execution:
            del self._by_token[token_id]

    @property
    def prefetch(self) -> int:
        """How many tasks would start within AHEAD_S if all slots are busy."""
        return min(int(self.slots * AHEAD_S / max(self._mean_s, 1e-6)), self._longest_prefetch)

    @property
    def busy_s(self) -> float:
        """Seconds in which something was executed."""
        return self._busy_s + (time.monotonic() - self._busy_since if self._busy_since is not None else 0.0)
