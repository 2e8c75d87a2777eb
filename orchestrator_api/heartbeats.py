"""Heartbeats of runners, as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from lua.run_store import RunStore

_NUMBERS = ("memory", "slots", "running", "loads", "executed", "pid", "started_at", "held_since")
_SHARES = ("active_share", "loading_share", "idle_share")
_OF_MODEL = ("state", "running", "slots", "memory", "loads")


async def runners(store: RunStore) -> list[dict[str, Any]]:
    """All that were heard of within a day, dead ones too. Two round trips."""
    now = await store.now()
    known = await store.redis.zrange(store.keys.runners, 0, -1, withscores=True)
    pipe = store.redis.pipeline(transaction=False)
    for name, _ in known:
        pipe.hgetall(store.keys.runner(name.decode()))
    found = [
        _runner(name.decode(), {k.decode(): v.decode(errors="replace") for k, v in fields.items()}, now - int(beat))
        for (name, beat), fields in zip(known, await pipe.execute(), strict=True)
    ]
    return sorted(found, key=lambda runner: runner["runner_id"])


async def live_runners(store: RunStore) -> list[dict[str, Any]]:
    return [runner for runner in await runners(store) if runner["state"] != "lost"]


def _runner(runner_id: str, fields: Mapping[str, str], age_ms: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "runner_id": runner_id,
        "gpu": fields.get("gpu") or None,
        "kind": fields.get("kind") or None,
        "engine": fields.get("engine"),
        "url": fields.get("url"),
        "types": fields.get("types", "").split(),
        "state": fields.get("state", "lost"),
        "focus_model": fields.get("focus_model") or None,
        "target": fields.get("target") or None,
        "residents": fields.get("residents", "").split(),
        "models": _models(fields.get("models", "{}")),
        "serves": fields["serves"].split() if "serves" in fields else None,
        "loading": fields.get("loading") or None,
        "reason": fields.get("reason") or None,
        "held": fields.get("held"),
        "host": fields.get("host"),
        "heartbeat_age_s": round(max(0, age_ms) / 1_000, 1),
    }
    shown |= {name: int(fields[name]) if fields.get(name) else None for name in _NUMBERS}
    shown |= {name: float(fields[name]) if fields.get(name) else None for name in _SHARES}
    return shown | {"memory": shown["memory"] or None}  # 0: unknown


def _models(text: str) -> list[dict[str, Any]]:
    """What is on the GPU, as its runner drives it; nothing where that can not be read."""
    try:
        found = orjson.loads(text)
        return [{"model": pool, **{name: about.get(name) for name in _OF_MODEL}} for pool, about in found.items()]
    except (ValueError, AttributeError):
        return []
