"""Waiting longer after each failure, and which failures of Redis pass by themselves."""

from __future__ import annotations

import random
from dataclasses import dataclass

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_PASSING = (RedisConnectionError, RedisTimeoutError, OutOfMemoryError, ReadOnlyError, OSError)
_PASSING_CODES = ("BUSY ", "LOADING ", "MISCONF ", "TRYAGAIN ", "CLUSTERDOWN ", "MASTERDOWN ", "NOREPLICAS ")


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed later without anybody changing the data."""
    if isinstance(error, ResponseError) and str(error).startswith(_PASSING_CODES):
        return True
    return isinstance(error, _PASSING)


@dataclass(slots=True)
class Backoff:
    """Seconds to wait after the next failure: `first_s`, doubled up to `longest_s`, less up to a quarter by chance."""

    first_s: float = 0.05
    longest_s: float = 5.0
    failures: int = 0

    def next_s(self) -> float:
        wait = min(self.first_s * 2.0**self.failures, self.longest_s)
        if wait < self.longest_s:
            self.failures += 1
        return wait * random.uniform(0.75, 1.0)

    def reset(self) -> None:
        self.failures = 0
