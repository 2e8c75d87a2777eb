"""What the engines of the live runners offer: so that a model which none of them has is told at submission."""

from __future__ import annotations

import time
from collections.abc import Mapping

from lua.run_store import RunStore
from orchestrator_api.heartbeats import live_runners
from schemas.errors import Problem

KEPT_S = 1.0
"""How long the heartbeats are not looked at again: many runs may be submitted at once."""
SHOWN = 10


class Offers:
    """The models that live runners can serve, as far as they all say so."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._offered: set[str] | None = None
        self._looked_at = float("-inf")

    async def missing(self, models: Mapping[str, str]) -> list[Problem]:
        """A warning for each of `models` (name -> place in the document) that no live runner can serve.

        None where no agent runner lives, or where one of them does not know what its engine offers.
        """
        offered = await self._look()
        if offered is None:
            return []
        names = sorted(offered)
        listed = ", ".join(f"`{name}`" for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        there = f"their engines have {listed}" if names else "their engines have no model"
        return [
            Problem(path, "not-served", f"No live runner can serve the model `{model}`: {there}. Its tasks wait.")
            for model, path in models.items()
            if _short(model) not in offered
        ]

    async def _look(self) -> set[str] | None:
        now = time.monotonic()
        if now - self._looked_at >= KEPT_S:
            said = [runner["serves"] for runner in await live_runners(self._store) if runner["engine"]]
            known = said and None not in said
            self._offered = {_short(name) for serves in said for name in serves} if known else None
            self._looked_at = now
        return self._offered


def _short(model: str) -> str:
    """`phi3` and `phi3:latest` are one model."""
    return model.removesuffix(":latest")
