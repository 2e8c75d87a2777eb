"""Scripted outcomes: they follow from node, attempt, iteration and what arrived, and from nothing else."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from tests.reference.interpreter import Completed, Failed, as_json


@dataclass(frozen=True)
class Script:
    """`flaky`: node -> how many attempts fail before one succeeds. `dies`: nodes of which every third
    execution fails for good. A value is {"k": 0..3, "ok": bool, "via": a digest of all that led to it}.
    """

    seed: int
    flaky: dict[str, int] = field(default_factory=dict)
    dies: frozenset[str] = frozenset()

    def __call__(self, node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
        digest = hashlib.sha256(f"{self.seed} {node} {iteration} {as_json(output)}".encode()).digest()
        if node in self.dies and digest[0] % 3 == 0:
            return Failed("invalid_input", f"{node} refuses this")
        if attempt <= self.flaky.get(node, 0):
            return Failed("connection", f"{node}, attempt {attempt}", retryable=True)
        return Completed({"k": digest[1] % 4, "ok": digest[2] % 2 == 0, "via": digest[:6].hex()})
