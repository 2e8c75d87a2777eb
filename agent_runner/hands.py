"""The tasks in a runner's hands: fetched ahead, being started, executed."""

from __future__ import annotations

from dataclasses import dataclass

from agent_runner.buffer import Buffer
from agent_runner.executions import Executions


@dataclass(frozen=True, slots=True)
class Hands:
    buffer: Buffer
    executions: Executions

    def count(self, pool: str, *, interactive: bool | None = None) -> int:
        """Tasks of a pool, of both lanes or of one."""
        running = self.executions.running_of(pool, interactive=interactive)
        return running + self.buffer.count(pool, interactive=interactive)

    def busy(self, pool: str) -> int:
        """Slots of a pool that are in use, or will be at once."""
        return self.executions.running_of(pool) + self.buffer.starting(pool)

    def pools(self) -> set[str]:
        return {*self.buffer.pools(), *(execution.work.pool for execution in self.executions)}
