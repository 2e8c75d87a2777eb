"""The loop of every part of a coordinator process: work, wait, and outlive what goes wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from psycopg import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger("pavane.coordinator")

PASSING = (RedisConnectionError, RedisTimeoutError, OperationalError, OSError)
"""A server is away: no fault of what was worked on, which comes again."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


async def repeat(name: str, stop: asyncio.Event, step: Callable[[], Awaitable[float]]) -> None:
    """Take steps until `stop` is set; each answers the seconds to wait after it. No error ends the loop.

    A server that is away is told once, and told again when it is back.
    """
    wait_s, away = FIRST_WAIT_S, False
    while not stop.is_set():
        try:
            pause_s = await step()
            if away:
                log.info("%s goes on", name)
            wait_s, away = FIRST_WAIT_S, False
        except PASSING as error:
            if not away:
                log.warning("%s waits, a server is away: %s", name, error)
            away = True
            pause_s, wait_s = wait_s, min(wait_s * 2, LONGEST_WAIT_S)
        except Exception:
            log.exception("%s failed; going on", name)
            pause_s, wait_s = wait_s, min(wait_s * 2, LONGEST_WAIT_S)
        if pause_s:
            await pause(stop, pause_s)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait, unless the process is asked to stop."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
