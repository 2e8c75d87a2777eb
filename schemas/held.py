"""Held tokens: what a rebuilt run's tokens are until it goes on (lua/parts/hold.lua restores them). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MADE_APART = 1_000
"""Tokens of a rebuilt run are numbered on from there: one that was made and not recorded is never taken for another."""
_OF_ATTEMPT = ("entry", "runner", "interruptions", "again")
_UNDER_WAY = ("running", "delayed")
_TIMED = ("timed", "listening", "asked")


def held(record: Mapping[str, Any], *, answered: bool) -> dict[str, Any]:
    """A token's record as one that waits for its run to go on: what was begun, begins anew. `answered`: the outcome of
    an answered one is known."""
    kept = {name: value for name, value in record.items() if name not in _OF_ATTEMPT}
    if "next" in kept:
        kept["stream"] = kept.pop("next")
    was = record.get("held") or record["state"]
    if was == "dead":
        return kept
    if was in _UNDER_WAY or (was == "answered" and not answered):
        was = "queued" if record.get("stream") else "deciding"
    if was == "answered":
        kept["again"] = bool(record.get("again"))  # its outcome is of this epoch, unless it was not before
    if was == "queued" and record["state"] != "held":
        kept["attempt"] = record["attempt"] + 1  # an attempt that was made and not recorded counts no more
    if was not in _TIMED:
        kept.pop("due", None)
    return kept | {"state": "held", "held": was}
