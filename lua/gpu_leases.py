"""GpuLeases: who holds which models on which GPU, what waits for them, and what they were measured to cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from lua.caller import Caller, texts

Measure = Literal["rate", "load_s", "drain_s", "memory"]
"""Tasks per second with full slots; seconds of a load and of a drain; bytes on the GPU."""


_FAST = ":interactive"  # what the fast lane of a pool has behind its name
_NOTHING = (0, None)


@dataclass(frozen=True, slots=True)
class Lease:
    """One engine and what is on its GPU: held, loading or chosen as the next. It ends if it is not renewed."""

    engine: str  # its key: the URL, with this machine's name where that says loopback
    runner_id: str
    gpu: str  # what people call it
    kind: str  # rates are measured for each kind of GPU
    models: Mapping[str, float]  # pool -> tasks per second with full slots


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for one model; times are the server's, in ms.

    Of the caller's residents what no runner was given yet, and when the first of it came. Of others all that is not
    started, and since when there is always something: the age of the oldest as far as it was not served (`served_at`).
    """

    queued: int
    interactive: int
    head_at: int | None
    interactive_at: int | None
    served_at: int  # when a runner last took tasks of it; 0: never


@dataclass(frozen=True, slots=True)
class LeaseTable:
    """What a runner sees when it says what it holds.

    held: it has what it asked for. stale: the leases have changed since the claim was decided, nothing is claimed.
    taken: another runner drives this engine; `leases` says which, and `waiting` is empty.
    """

    state: Literal["held", "stale", "taken"]
    version: int
    leases: Sequence[Lease]
    waiting: Mapping[str, Waiting]  # by pool
    served: Mapping[str, int]  # every pool that ever was -> when tasks of it were last taken, ms
    now: int  # ms


class GpuLeases(Caller):
    """Every agent runner calls these; nothing here decides."""

    async def lease_models(
        self, lease: Lease, *, version: int | None, residents: Sequence[str], ttl_ms: int, served: Sequence[str] = ()
    ) -> LeaseTable:
        """Renew the caller's lease and look at what waits, in one step.

        `version`: of the table that a claim of another model was decided on; None where nothing is claimed.
        `residents`: the pools whose tasks it takes. `served`: those that it took some of since the last call.
        """
        now = await self.now()
        held = {"runner": lease.runner_id, "gpu": lease.gpu, "kind": lease.kind, "models": dict(lease.models)}
        args = [
            self.keys.prefix, now, lease.engine, lease.runner_id, orjson.dumps(held),
            "" if version is None else version, ttl_ms, " ".join(residents), " ".join(served),
        ]  # fmt: skip
        answer = await self._call("lease_models", [self.keys.leases], args)
        state, version_now, leases, *rest = answer
        known = [one for engine, text in _rows(leases, 2) if (one := read_lease(engine, text))]
        backlog, since, served, own = rest or ((), (), (), ())
        served_at = dict(_numbers(served))
        waiting = _read_waiting(residents, backlog, since, served_at, own) if rest else {}
        return LeaseTable(state.decode(), version_now, known, waiting, served_at, now)

    async def end_lease(self, engine: str, runner_id: str) -> list[str]:
        """The runner leaves the engine. Answers: ended | none."""
        return texts(await self._call("end_lease", [self.keys.leases], [engine, runner_id]))

    async def measure_model(self, kind: str, pool: str, field: Measure, value: float, weight: float = 0.2) -> list[str]:
        """Take a measurement into the moving average. Answers: measured and the average | refused."""
        key, name = self.keys.measured(kind), f"{pool}|{field}"
        return texts(await self._call("measure_model", [key], [name, repr(float(value)), weight]))

    async def measures(self, kind: str) -> Mapping[str, Mapping[str, float]]:
        """Averages of all models on this kind of GPU: pool -> Measure -> value."""
        found: dict[str, dict[str, float]] = {}
        for name, text in (await self.redis.hgetall(self.keys.measured(kind))).items():
            pool, _, field = name.decode(errors="replace").rpartition("|")
            if (value := _number(text)) is not None:
                found.setdefault(pool, {})[field] = value
        return found


def read_lease(engine: bytes, text: bytes) -> Lease | None:
    """A lease as `leases` has it; None if it is none: anybody can write there."""
    try:
        held = orjson.loads(text)
        models = {pool: float(rate) for pool, rate in held["models"].items()}
        return Lease(engine.decode(), str(held["runner"]), str(held["gpu"]), str(held["kind"]), models)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _read_waiting(
    residents: Sequence[str], backlog: Sequence[Any], since: Sequence[Any], served_at: Mapping[str, int],
    own: Sequence[Any],
) -> dict[str, Waiting]:  # fmt: skip
    """What the answer says of pools with work, and of the residents."""
    began = dict(_numbers(since))
    lanes: dict[str, tuple[int, int | None]] = {lane: (count, began.get(lane)) for lane, count in _numbers(backlog)}
    lanes |= {lane: _NOTHING for pool in residents for lane in (pool, pool + _FAST)}
    lanes |= {lane.decode(): (count, int(entry.partition(b"-")[0])) for lane, count, entry in _rows(own, 3)}
    waiting = {}
    for pool in {lane.removesuffix(_FAST) for lane, (count, _) in lanes.items() if count} | set(residents):
        (queued, head_at), (interactive, interactive_at) = lanes.get(pool, _NOTHING), lanes.get(pool + _FAST, _NOTHING)
        waiting[pool] = Waiting(queued, interactive, head_at, interactive_at, served_at.get(pool, 0))
    return waiting


def _numbers(flat: Sequence[Any]) -> Iterator[tuple[str, int]]:
    """The pairs of a hash of counts or times; what somebody wrote there that is none is left out."""
    for name, text in _rows(flat, 2):
        value = _number(text)
        if value is not None:
            yield name.decode(errors="replace"), int(value)


def _rows(flat: Sequence[Any], width: int) -> Iterator[tuple[Any, ...]]:
    return zip(*(flat[at::width] for at in range(width)), strict=True)


def _number(text: bytes | int) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
