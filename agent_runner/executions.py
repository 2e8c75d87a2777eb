"""What this runner executes right now, and how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent_runner.work import Work

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

    def __init__(self, changed: Callable[[str, int], None] = lambda pool, running: None) -> None:
        """`changed(pool, running)` is called when an execution of the pool occupied or freed a slot."""
        self._changed = changed
        self.running = 0
        self.ended = 0  # in this runner's life
        self._by_token: dict[str, Execution] = {}
        self._running: Counter[tuple[str, bool]] = Counter()  # (pool, interactive) -> slots in use
        self._mean_s: dict[str, float] = {}
        self._busy_s = 0.0
        self._busy_since: float | None = None

    def __iter__(self) -> Iterator[Execution]:
        return iter(list(self._by_token.values()))

    def __len__(self) -> int:
        return len(self._by_token)

    def get(self, token_id: str) -> Execution | None:
        return self._by_token.get(token_id)

    def running_of(self, pool: str, *, interactive: bool | None = None) -> int:
        """Slots of one pool that are in use, by tasks of both lanes or of one."""
        lanes = (True, False) if interactive is None else (interactive,)
        return sum(self._running[pool, lane] for lane in lanes)

    def begin(self, work: Work) -> Execution:
        execution = Execution(work)
        self._by_token[work.task.token_id] = execution
        self._occupy(work)
        return execution

    def end(self, execution: Execution) -> None:
        """Free its slot."""
        execution.ended = True
        self.ended += 1
        took, pool = time.monotonic() - execution.began, execution.work.pool
        mean = self._mean_s.get(pool, took)
        self._mean_s[pool] = mean + (took - mean) * _SMOOTHING
        self._free(execution.work)

    @contextmanager
    def aside(self, work: Work) -> Iterator[None]:
        """The execution's slot is free while it waits for others that may need one: a child run's tasks, on this GPU.

        Afterwards it goes on at once, if need be beyond the slots.
        """
        self._free(work)
        try:
            yield
        finally:
            self._occupy(work)

    def forget(self, execution: Execution) -> None:
        """Its outcome is stored, or somebody else's now."""
        token_id = execution.work.task.token_id
        if self._by_token.get(token_id) is execution:
            del self._by_token[token_id]

    def within(self, pool: str, slots: int, seconds: float, most: int) -> int:
        """How many tasks of a pool would start in that time, its slots being busy: so many are fetched ahead."""
        return min(int(slots * seconds / max(self._mean_s.get(pool, 1.0), 1e-6)), most)

    @property
    def busy_s(self) -> float:
        """Seconds in which something was executed."""
        return self._busy_s + (time.monotonic() - self._busy_since if self._busy_since is not None else 0.0)

    def _occupy(self, work: Work) -> None:
        if self.running == 0:
            self._busy_since = time.monotonic()
        self.running += 1
        self._running[work.pool, work.interactive] += 1
        self._changed(work.pool, self.running_of(work.pool))

    def _free(self, work: Work) -> None:
        self.running -= 1
        self._running[work.pool, work.interactive] -= 1
        if self.running == 0 and self._busy_since is not None:
            self._busy_s += time.monotonic() - self._busy_since
            self._busy_since = None
        self._changed(work.pool, self.running_of(work.pool))
