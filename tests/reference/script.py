"""Scripted outcomes: they follow from node, attempt, iteration and what arrived, and from nothing else."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from tests.reference.records import Completed, Failed, as_json


@dataclass(frozen=True)
class Script:
    """`flaky`: node -> how many attempts fail before one succeeds. `dies`: nodes of which every third
    execution fails for good, with the class in `classes`. A value is {"k": 0..3, "ok": bool, "via": a digest of all
    that led to it}; where `types` tells a node's type, with a list of `items`, and in the form that the type gives.
    """

    seed: int
    flaky: dict[str, int] = field(default_factory=dict)
    dies: frozenset[str] = frozenset()
    classes: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)

    def __call__(self, node: str, attempt: int, iteration: int, output: Any) -> Completed | Failed:
        if node in self.dies and self._digest(node, iteration, output)[0] % 3 == 0:
            return Failed(self.classes.get(node, "invalid_input"), f"{node} refuses this")
        if attempt <= self.flaky.get(node, 0):
            return Failed("connection", f"{node}, attempt {attempt}", retryable=True)
        return Completed(self.value(node, iteration, output))

    def value(self, node: str, iteration: int, output: Any) -> Any:
        """What the node gives when it does not fail."""
        digest, type = self._digest(node, iteration, output), self.types.get(node)
        value: dict[str, Any] = {"k": digest[1] % 4, "ok": digest[2] % 2 == 0, "via": digest[:6].hex()}
        if type:
            items = [{"k": digest[at] % 4, "ok": digest[at] % 3 > 0} for at in range(5, 5 + digest[3] % 4)]
            value |= {"choice": ("yes", "no")[digest[4] % 2], "items": items}
        if type == "http":
            return {"status": 200, "headers": {}, "body": value}
        if type == "sql":
            return {"rows": [value]}
        if type == "wait" and digest[4] % 2:
            return output  # the event came with nothing
        return value

    def _digest(self, node: str, iteration: int, output: Any) -> bytes:
        return hashlib.sha256(f"{self.seed} {node} {iteration} {as_json(output)}".encode()).digest()
