"""Entry: an event as the stream brought it, checked and not parsed; and its text for COPY."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import orjson

from schemas.events import Event

COLUMNS = "run_id, seq, type, at, node_id, token_id, scope, data"


class Entry(NamedTuple):
    """Whoever makes one sees to it that no text holds control characters or a backslash, and `data` no raw newline,
    tab or NUL: valid compact JSON never does."""

    run_id: str
    seq: int
    type: str
    at: int  # ms since the epoch
    node_id: str
    token_id: str
    scope: str
    data: bytes  # a JSON object

    def line(self) -> bytes:
        """The row in COPY's text format."""
        run_id, seq, kind, at, node_id, token_id, scope, data = self
        head = f"{run_id}\t{seq}\t{kind}\t{timestamp(at)}\t{node_id}\t{token_id}\t{scope}\t"
        return head.encode() + data.replace(b"\\", b"\\\\") + b"\n"

    def event(self) -> Event:
        """The same, its JSON read."""
        run_id, seq, kind, at, node_id, token_id, scope, data = self
        return Event(run_id, seq, kind, at, node_id, token_id, scope, orjson.loads(data))


@lru_cache(maxsize=1_024)  # events of one time come together
def timestamp(ms: int) -> str:
    """Ms since the epoch as Postgres reads it."""
    return f"{_second(ms // 1_000)}.{ms % 1_000:03d}+00"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
