"""What an operator decides about the API. Read from the environment in `pavane/`, taken as arguments here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.prices import NO_PRICES, Prices
from schemas.submission import RETENTION_MS

Role = Literal["reader", "operator", "admin"]
RANK: dict[str, int] = {"reader": 0, "operator": 1, "admin": 2}
"""reader: all GETs; operator: also starts, cancels and registers; admin: also what operators may not (later routes)."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that a client presents as `Authorization: Bearer <key>`; only its SHA-256 is kept."""

    name: str
    role: Role
    sha256: str  # hex


def hash_key(key: str) -> str:
    """What to configure for a key: keys are long and random, so that a plain SHA-256 is enough."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """Settings of one API process."""

    keys: Sequence[ApiKey] = ()  # none: only this machine's own clients are served
    hosts: Sequence[str] = ()  # names besides loopback that a Host header may carry
    origins: Sequence[str] = ()  # `https://ui.example.org`: pages besides our own that may call
    events_limit: int = 500_000  # entries of the events stream over which new work is refused
    retention_ms: int = RETENTION_MS  # of an ended run's keys in Redis
    batch_json_bytes: int = 64_000_000  # a larger batch comes as NDJSON, which is read line by line
    stall_s: int = 600  # without any item done, after which a batch is called stalled
    stream_ping_s: float = 15.0  # comment lines that keep an idle event stream open
    prices: Prices = NO_PRICES  # of models and of the GPUs' time
    retry_after_s: int = 5  # what a 503 tells the client to wait
