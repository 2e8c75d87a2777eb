"""Heartbeats as runners write them."""

import json
from typing import Any

from tests.api.conftest import Api

GB = 10**9


def held(running: int, slots: int = 8, state: str = "ready", memory: int = 4 * GB, loads: int = 1) -> dict[str, Any]:
    """A model on a GPU, as the field `models` has it."""
    return {"state": state, "running": running, "slots": slots, "memory": memory, "loads": loads}


async def heartbeat(api: Api, runner_id: str, models: dict[str, Any] | None = None, **fields: object) -> None:
    """An agent runner was heard of this moment."""
    said = {"engine": "ollama", "state": "working", "slots": 8, "running": 1, **fields}
    if models is not None:
        said |= {"models": json.dumps(models), "residents": " ".join(models)}
    keys = api.store.keys
    await api.store.redis.hset(keys.runner(runner_id), mapping={name: str(value) for name, value in said.items()})
    await api.store.redis.zadd(keys.runners, {runner_id: await api.store.now()})


async def lost(api: Api, runner_id: str) -> None:
    """An agent runner was not heard of for a minute."""
    await api.store.redis.delete(api.store.keys.runner(runner_id))
    await api.store.redis.zadd(api.store.keys.runners, {runner_id: await api.store.now() - 60_000})
