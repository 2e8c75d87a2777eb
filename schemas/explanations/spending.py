"""Spending: what a run's tasks used, model by model, and what that cost. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.events import Event
from schemas.prices import Prices

COUNTED = ("prompt_tokens", "completion_tokens", "execution_time_ms", "gpu_ms", "load_ms")


class Spending:
    """Sums of a run's usage; `seq` is the last event that was read."""

    def __init__(self) -> None:
        self.seq = 0
        self.models: dict[str, dict[str, float]] = {}

    def read(self, events: Iterable[Event]) -> None:
        for event in events:
            self.seq = event.seq
            usage = event.data.get("usage")
            # The event of a run's failure repeats the one of its node, and a node's usage holds that of its tool calls.
            if event.node_id and event.type != "tool_called" and isinstance(usage, dict):
                self._add(str(usage.get("llm_model") or ""), usage)

    def _add(self, model: str, usage: dict[str, Any]) -> None:
        if not model:
            return
        sums = self.models.setdefault(model, {"tasks": 0})
        sums["tasks"] += 1
        for name in COUNTED:
            value = usage.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                sums[name] = sums.get(name, 0) + value

    def as_dict(self, prices: Prices) -> dict[str, Any]:
        """cost: None where some model has no price."""
        models = [
            {"model": name, **sums, "cost": prices.cost(name, sums)} for name, sums in sorted(self.models.items())
        ]
        costs = [one["cost"] for one in models]
        return {"cost": None if not costs or None in costs else sum(costs), "models": models}
