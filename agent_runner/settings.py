"""How a runner behaves; every number that an operator may turn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """Times in ms. Runners of one shard should agree on `reclaim_idle_ms`."""

    slots: int = 8  # tasks executed at once
    prefetch: int = 64  # most tasks fetched ahead; how many really are follows from how long tasks take
    block_ms: int = 250  # longest wait of one read, and so of a stop
    default_timeout_ms: int = 600_000  # of one execution, where the node has no timeout_ms
    heartbeat_ms: int = 3_000
    heartbeat_ttl_ms: int = 15_000
    reclaim_ms: int = 5_000  # how often it looks for tasks of dead runners
    reclaim_idle_ms: int = 20_000  # a task not refreshed for so long has lost its runner
    drain_ms: int = 30_000  # at a stop, how long running tasks may go on
    gpu: str = ""  # what people call the GPU, for the heartbeat
    kind: str = ""  # GPUs of one kind share measured rates and load times
    memory: int = 0  # of the GPU, in bytes; 0: unknown
    lease_ttl_ms: int = 15_000  # after so long without a heartbeat, its models are free again

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError("slots must be at least 1")
        if self.memory < 0:
            raise ValueError("memory must be 0 or more")
        if not self.heartbeat_ms < min(self.heartbeat_ttl_ms, self.reclaim_idle_ms, self.lease_ttl_ms):
            raise ValueError("heartbeat_ms must be below heartbeat_ttl_ms, reclaim_idle_ms and lease_ttl_ms")
        if not self.block_ms < self.lease_ttl_ms:
            raise ValueError("block_ms must be below lease_ttl_ms: each look renews the lease")
