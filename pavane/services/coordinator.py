"""A coordinator process: routes completions, answers timers, admits batch items, and mends what got lost."""

import asyncio

from coordinator.admission import Admission
from coordinator.batch_states import BatchStates
from coordinator.coordinator import Coordinator
from coordinator.registry import Registry
from coordinator.supervisor import Supervisor
from coordinator.timers import Timers
from history.named_connections import NamedConnections
from pavane.services.connections import artifact_store, database_pool, run_store
from pavane.services.process import Readiness, until_first_ends
from pavane.settings import Settings


async def serve(settings: Settings, stop: asyncio.Event, readiness: Readiness) -> None:
    async with (
        run_store(settings) as store,
        database_pool(settings, most=4) as pool,
        NamedConnections(settings.connections) as connections,
    ):
        admission = Admission(
            store, pool, per_gpu=settings.admit_per_gpu, retention_ms=settings.retention_s * 1_000,
            waiting_events=settings.limits.waiting_events, artifacts=artifact_store(settings),
        )  # fmt: skip
        readiness.say()
        await until_first_ends(
            stop,
            Coordinator(store, workflows=Registry(store, pool)).run(stop),
            Timers(store).run(stop),
            Supervisor(store).run(stop),
            admission.run(stop),
            BatchStates(pool, connections).run(stop),
        )
