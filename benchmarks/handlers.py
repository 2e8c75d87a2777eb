"""Handlers that do nothing, so that only what is around them is measured."""

from __future__ import annotations

import time
from typing import Any

FILLER = "x" * 1_000


async def noop() -> dict[str, Any]:
    """1 KB out."""
    return {"text": FILLER}


async def stamp() -> dict[str, int]:
    """When this handler started, by the machine's monotonic clock, which all processes share; ns."""
    return {"at": time.monotonic_ns()}
