"""Prices: what the use of a GPU and of models costs. A cost is computed when it is read, never recorded. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

MS_PER_HOUR = 3_600_000
MODELS = 1_000


class InvalidPrices(ValueError):
    """The text is no price list; the message names the place."""


@dataclass(frozen=True, slots=True)
class Prices:
    """gpu_hour: of an hour of one GPU. models: name -> (prompt, completion) per million tokens. In one currency."""

    gpu_hour: float | None = None
    models: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Prices:
        """Of `{"gpu_hour": 0.40, "models": {"name": {"prompt": 0.15, "completion": 0.60}}}`; of "" no price is known.
        Raises InvalidPrices."""
        if not text.strip():
            return cls()
        try:
            given = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InvalidPrices(f"not JSON: {error}") from None
        _expect_fields(given, "", {"gpu_hour", "models"})
        models = given.get("models", {})
        if not isinstance(models, dict) or len(models) > MODELS:
            raise InvalidPrices(f"/models must be an object of at most {MODELS} models")
        for name, prices in models.items():
            _expect_fields(prices, f"/models/{name}", {"prompt", "completion"})
        return cls(
            _price(given, "gpu_hour", "") if "gpu_hour" in given else None,
            {
                n: (_price(p, "prompt", f"/models/{n}"), _price(p, "completion", f"/models/{n}"))
                for n, p in models.items()
            },
        )

    def cost(self, model: str | None, usage: Mapping[str, Any]) -> float | None:
        """What one task, or the sum of many of one model, cost; None where no price applies.

        By its tokens where the model has prices, else by the time on the GPU: `gpu_ms`, or where that was not measured
        `execution_time_ms`. A task without a model uses no GPU.
        """
        if model and (prices := self.models.get(model)):
            return (_number(usage, "prompt_tokens") * prices[0] + _number(usage, "completion_tokens") * prices[1]) / 1e6
        if not model or self.gpu_hour is None:
            return None
        ms = _number(usage, "gpu_ms") if "gpu_ms" in usage else _number(usage, "execution_time_ms")
        return self.gpu_hour * ms / MS_PER_HOUR


NO_PRICES = Prices()


def _expect_fields(value: Any, place: str, known: set[str]) -> None:
    if not isinstance(value, dict):
        raise InvalidPrices(f"{place or '/'} must be an object")
    if unknown := sorted(value.keys() - known):
        raise InvalidPrices(f"{place}/{unknown[0]} is no price: {', '.join(sorted(known))} are")


def _price(fields: Mapping[str, Any], name: str, place: str) -> float:
    value = fields.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e9:
        raise InvalidPrices(f"{place}/{name} must be a number from 0 to 1,000,000,000")
    return float(value)


def _number(usage: Mapping[str, Any], name: str) -> float:
    """What runners in any language report may be anything."""
    value = usage.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known and value is not None and value > 0 else 0.0
