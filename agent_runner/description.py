"""What a runner says about itself in its heartbeat; for people, and for those who list runners."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence

import orjson

from agent_runner.executions import Executions
from agent_runner.model_intake import ModelIntake
from agent_runner.settings import RunnerSettings


class Description:
    """The fields of `runner:<id>` (docs/redis.md lists them). Shares are of the runner's life, 0 to 1."""

    def __init__(
        self, settings: RunnerSettings, types: Sequence[str], executions: Executions, models: ModelIntake | None
    ) -> None:
        self.draining = False
        self._settings = settings
        self._types = types
        self._executions = executions
        self._models = models
        self._began = time.monotonic()
        self._began_at = time.time()

    def fields(self) -> dict[str, str]:
        lived = max(time.monotonic() - self._began, 1e-6)
        active_s = self._executions.busy_s
        fields = {
            "state": self.state,
            "types": " ".join(self._types),
            "slots": str(self._settings.slots),
            "running": str(self._executions.running),
            "executed": str(self._executions.ended),
            "started_at": str(int(self._began_at * 1000)),
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "gpu": self._settings.gpu,
            "active_share": f"{active_s / lived:.4f}",
            "idle_share": f"{max(1 - active_s / lived, 0.0):.4f}",
        }
        return fields if self._models is None else {**fields, **self._of_gpu(self._models, lived)}

    @property
    def state(self) -> str:
        models = self._models
        if self.draining:
            return "draining"
        if models is not None and models.waits_for is not None:
            return "waiting"
        if models is not None and models.gpu.guarded.breaker.is_open:
            return "held"
        if models is not None and models.gpu.loading.is_on:
            return "loading"
        return "working" if self._executions.running else "idle"

    def _of_gpu(self, models: ModelIntake, lived: float) -> dict[str, str]:
        gpu = models.gpu
        engine, breaker = gpu.guarded.engine, gpu.guarded.breaker
        residents = {
            pool: {
                "state": loaded.state, "running": self._executions.running_of(pool), "slots": loaded.seat.slots,
                "memory": int(loaded.seat.memory) if self._settings.memory else None, "loads": gpu.loads[pool],
            }
            for pool, loaded in gpu.residents.items()
        }  # fmt: skip
        active_s, alone_s = gpu.active.seconds, gpu.loading_alone.seconds
        fields = {
            "engine": engine.name,
            "url": engine.url,
            "kind": self._settings.kind,
            "memory": str(self._settings.memory),
            "focus_model": gpu.focus or "",
            "target": gpu.target or "",
            "reason": models.reason,
            "residents": " ".join(gpu.residents),
            "models": orjson.dumps(residents).decode(),
            "loads": str(gpu.loads.total()),
            "active_share": f"{active_s / lived:.4f}",
            "loading_share": f"{alone_s / lived:.4f}",
            "idle_share": f"{max(1 - (active_s + alone_s) / lived, 0.0):.4f}",
        }
        if models.capacity.serves is not None:
            fields["serves"] = " ".join(sorted(models.capacity.serves))
        if loading := [pool for pool, loaded in gpu.residents.items() if loaded.state == "loading"]:
            fields["loading"] = loading[0]
        if breaker.opened_at is not None:
            fields["held"] = breaker.reason
            fields["held_since"] = str(int(breaker.opened_at * 1000))
        return fields
