"""Recovery as the services and the command do it: of lost runs from Postgres, and of lost histories from Redis."""

import asyncio
import logging
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, suppress

from psycopg import InterfaceError, OperationalError
from redis.exceptions import RedisError

from coordinator.recorder import Recorder
from coordinator.recovery import Recovery, RecoveryBusy
from coordinator.restatement import Restatement
from pavane.services.connections import artifact_store, connect, database_pool, run_store
from pavane.settings import Settings

log = logging.getLogger("pavane.recovery")

CONNECTIONS = 4
OLDER = "Redis was older than Postgres"
LOST = "runs were lost from Redis"
LOOK_S, LOOKED_FOR = 10.0, 1_000


@asynccontextmanager
async def recovery(settings: Settings, by: str) -> AsyncIterator[Recovery]:
    """On the servers in use. Raises PreflightError, PostgresAwayError, RedisError."""
    async with await connect(settings):
        pass  # a pool would wait for a server that is away
    async with run_store(settings) as store, database_pool(settings, most=CONNECTIONS) as pool:
        yield Recovery(store, pool, by, artifact_store(settings))


def put_right(recorder: Recorder, rebuild: Recovery, empty: bool = False) -> None:
    """Have the recorder mend what it sees: runs that Redis tells otherwise, events that Postgres has lost.

    `empty`: also where Redis has none of the unfinished runs; else it says so, since it may be another Redis.
    """

    async def on_older(runs: Set[str] | None) -> None:
        if runs is not None:
            await rebuild.recover_runs(sorted(runs), OLDER)
            return
        survey = await rebuild.survey()
        if survey.is_lost and not empty:
            log.error(
                "Redis has lost all %d unfinished runs: they stand still until `pavane recover` lets them go on",
                survey.unfinished,
            )
            return
        with suppress(RecoveryBusy):
            await rebuild.recover(OLDER)

    recorder.on_older = on_older
    recorder.on_gap = Restatement(rebuild.store).restate


class LostRuns:
    """Which runs are lost: missing in two looks, so that none is meant that has just ended; each of them once."""

    def __init__(self) -> None:
        self._before: Set[str] = frozenset()
        self._told: Set[str] = frozenset()

    def look(self, missing: Set[str]) -> Set[str]:
        lost = (missing & self._before) - self._told
        self._before, self._told = missing, (self._told & missing) | lost
        return lost


async def watch_for_loss(rebuild: Recovery, stop: asyncio.Event, recovers: bool) -> None:
    """Look now and then whether Redis has the unfinished runs: one that was emptied under a living connection is seen
    by nobody else. Lets them go on (`recovers`), or says that they stand still."""
    lost_runs = LostRuns()
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), LOOK_S)
        try:
            lost = lost_runs.look(await rebuild.missing(LOOKED_FOR))
            if lost and recovers:
                await rebuild.recover(LOST)
            elif lost:
                log.error("Redis has lost %d unfinished runs or more: `pavane recover` lets them go on", len(lost))
        except (OperationalError, InterfaceError, RedisError, OSError, RecoveryBusy):
            continue
        except Exception:
            log.exception("lost runs stand still; `pavane recover` tries again")
