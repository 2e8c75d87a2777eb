"""Metrics for Prometheus, read from Redis when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg import OperationalError
from starlette.responses import Response

from history.run_counts import count_runs
from orchestrator_api.health import event_age_s
from orchestrator_api.heartbeats import runners
from orchestrator_api.models import models
from orchestrator_api.openapi import answers
from orchestrator_api.services import Backend, Services

router = APIRouter(tags=["health"])

MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Snapshot:
    """A collector of what was read a moment ago."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    responses=answers("pavane_live_runs 12.0", media="text/plain", says="the text format"),
)
async def metrics(backend: Backend) -> Response:
    """`pavane_runs` is left out while Postgres is away."""
    parts = [await part(backend) for part in (_totals, _models, _runners, _runs)]
    registry = CollectorRegistry()
    registry.register(Snapshot([family for part in parts for family in part]))
    return Response(generate_latest(registry), media_type=MEDIA)


async def _totals(backend: Services) -> list[Metric]:
    keys = backend.store.keys
    async with backend.store.redis.pipeline(transaction=False) as pipe:
        pipe.llen(keys.signals)
        pipe.zcard(keys.live_runs)
        pipe.xlen(keys.events)
        pipe.xlen(keys.dead_letters)
        pipe.zcard(keys.timers)
        pipe.hgetall(keys.counters)
        pipe.xrange(keys.events, count=1)
        signals, runs, events, letters, timers, counters, oldest = await pipe.execute()
    lag_s = await event_age_s(backend, oldest)
    ignored = CounterMetricFamily(
        "pavane_ignored", "signals that changed nothing, and dead letters, by reason", labels=["reason"]
    )
    conditions = int(counters.pop(b"condition_error", 0))
    for reason, count in counters.items():
        ignored.add_metric([reason.decode()], int(count))
    return [
        GaugeMetricFamily("pavane_signals_waiting", "completion signals that no coordinator has popped", signals),
        GaugeMetricFamily("pavane_live_runs", "runs that have not ended", runs),
        GaugeMetricFamily("pavane_events_waiting", "events that are not recorded yet", events),
        GaugeMetricFamily("pavane_recorder_lag_seconds", "age of the oldest event that is not recorded yet", lag_s),
        GaugeMetricFamily("pavane_dead_letters", "entries of the dead letters", letters),
        GaugeMetricFamily("pavane_timers", "deadlines, backoffs and reminders", timers),
        CounterMetricFamily(
            "pavane_condition_errors", "conditions that were in error and counted as false", conditions
        ),
        ignored,
    ]


async def _models(backend: Services) -> list[Metric]:
    families: dict[str, Any] = {
        "queued": GaugeMetricFamily("pavane_model_queued", "tasks that wait for a model", labels=["model"]),
        "interactive": GaugeMetricFamily("pavane_model_interactive", "those in its fast lane", labels=["model"]),
        "running": GaugeMetricFamily("pavane_model_running", "tasks that a model works on", labels=["model"]),
        "oldest_s": GaugeMetricFamily(
            "pavane_model_oldest_seconds", "age of the task that waits longest, 0 where none does", labels=["model"]
        ),
        "loads": CounterMetricFamily("pavane_model_loads", "times that a model was loaded", labels=["model"]),
    }
    breakers = GaugeMetricFamily("pavane_model_breaker_open", "runners that hold a model's stream", labels=["model"])
    for model in await models(backend.store, backend.rates):
        for name, family in families.items():
            family.add_metric([model["model"]], model[name] or 0)
        breakers.add_metric([model["model"]], len(model["breakers"]))
    return [*families.values(), breakers]


async def _runners(backend: Services) -> list[Metric]:
    states = GaugeMetricFamily("pavane_runner_up", "1 for a runner that is heard of", labels=["runner", "state"])
    loads = CounterMetricFamily("pavane_runner_loads", "times that a GPU loaded a model", labels=["runner"])
    shares = GaugeMetricFamily(
        "pavane_runner_share", "of a runner's life: active, loading, idle", labels=["runner", "share"]
    )
    for runner in await runners(backend.store):
        name = runner["runner_id"]
        states.add_metric([name, runner["state"]], 0 if runner["state"] == "lost" else 1)
        if runner["loads"] is not None:
            loads.add_metric([name], runner["loads"])
        for share in ("active", "loading", "idle"):
            if runner[f"{share}_share"] is not None:
                shares.add_metric([name, share], runner[f"{share}_share"])
    return [states, loads, shares]


async def _runs(backend: Services) -> list[Metric]:
    try:
        counts = await count_runs(backend.history.pool)
    except OperationalError:
        return []
    runs = GaugeMetricFamily("pavane_runs", "recorded runs by status", labels=["status"])
    for status, count in counts.items():
        runs.add_metric([status], count)
    return [runs]
