"""What an operator says of a database that workflows may ask: read in `pavane/`, taken as arguments elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """One named connection. `url` holds credentials, and is shown nowhere."""

    url: str = field(repr=False)
    write: bool = False  # without it, every transaction is read only
    max_rows: int = 10_000  # that one query of a node gives
    timeout_ms: int = 60_000  # of one query, at most
    pool_size: int = 4  # connections of one process to it, at most
