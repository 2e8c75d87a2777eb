"""Every bound that an input meets, in one place (design: docs/limits in the workflow language page)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what comes from outside. Sizes are bytes of compact UTF-8 JSON unless named otherwise."""

    workflow_bytes: int = 1_000_000
    workflow_nodes: int = 1_000
    input_bytes: int = 8_000_000
    output_bytes: int = 8_000_000
    inline_bytes: int = 16_384  # a larger value becomes an artifact
    expression_bytes: int = 4_096
    prompt_bytes: int = 4_000_000
    json_depth: int = 64
    batch_items: int = 100_000
    batch_bytes: int = 512_000_000
    labels: int = 32
    waiting_events: int = 500_000  # in the events stream; over it new work is refused until Postgres follows
    signal_bytes: int = 1_000_000
    max_iterations: int = 10_000
    max_attempts: int = 100
    duration_ms: int = 2_592_000_000  # 30 days: the longest timeout or backoff
    map_items: int = 100_000
    map_depth: int = 4  # maps in maps
    child_depth: int = 8  # child runs in child runs
    tool_result_bytes: int = 65_536  # of a tool's result that a model is shown
    patch_operations: int = 100
    patch_bytes: int = 256_000  # of a patch's operations
    patch_keys: int = 10_000  # of the items that a patch of a batch is for
    interruptions: int = 10  # executions of one token that died with their runner, before it counts as failed


LIMITS = Limits()
